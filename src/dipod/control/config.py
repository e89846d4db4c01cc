"""Settings of a control run, beside those that every run has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dipod.config import CommonConfig, LoggingConfig
from dipod.control.algorithms import ControlObjective, Kind
from dipod.errors import at_least, below_one, not_negative, positive, shares
from dipod.likelihood.flow import Times
from dipod.policies.mlp import parse_widths
from dipod.tasks.configs import ControlTaskConfig
from dipod.tasks.control import Track


@dataclass(frozen=True)
class ControlTrainerConfig:
    """One run of the loop.

    Attributes:
        steps: iterations, each on fresh rollouts.
        environments: N, stepped together.
        horizon: T, steps of every environment an iteration.
        epochs: passes over an iteration's transitions.
        mini_batches: gradient steps an epoch.
        reshuffle: new mini-batches every epoch, instead of the same ones in every epoch.
        discount: γ.
        trace: λ of the advantage estimation.
        timeouts: what an episode cut by its time limit is worth: "final", the value of the state that it was cut in; or
            "released", γ times that of the state before, as the published code has it.
        advantage_limit: standardised advantages stay within ± this; 0 for no limit.
        value_weight: of the critic's squared error in the loss.
        value_clip: new values may leave old ones by this much before their error stops to pull; 0 for no clipping.
        average: decay of a running average of the policy's weights, once an iteration; the average is what is then
            evaluated and played. 0 for none.
        average_from: iterations up to which the average is the policy itself.
        warmup_steps: steps of every environment before the first iteration, in which the untrained policy acts and only
            the normaliser of observations learns; the same whatever the algorithm.
        evaluate_every: iterations between two evaluations; 0 for the ends only.
        evaluate_episodes: episodes an evaluation; 0 for no evaluation.
        gap_actions: actions that the gap is measured on; 0 leaves it out.
        save_every: iterations between two checkpoints; 0 for the end only.
    """

    steps: int = 120
    environments: int = 256
    horizon: int = 24
    epochs: int = 4
    mini_batches: int = 4
    reshuffle: bool = True
    discount: float = 0.99
    trace: float = 0.95
    timeouts: Literal["final", "released"] = "final"
    advantage_limit: float = 100.0
    value_weight: float = 1.0
    value_clip: float = 0.0
    average: float = 0.0
    average_from: int = 500
    warmup_steps: int = 100
    evaluate_every: int = 20
    evaluate_episodes: int = 64
    gap_actions: int = 256
    save_every: int = 50

    def __post_init__(self) -> None:
        at_least(self, "trainer", 1, "environments", "horizon", "epochs", "mini_batches")
        at_least(self, "trainer", 0, "steps", "warmup_steps", "evaluate_every", "evaluate_episodes", "gap_actions")
        at_least(self, "trainer", 0, "save_every", "average_from")
        below_one(self, "trainer", "average")
        shares(self, "trainer", "discount", "trace")
        not_negative(self, "trainer", "advantage_limit", "value_weight", "value_clip")


@dataclass(frozen=True)
class ControlPolicyConfig:
    """The networks, and how the policy acts.

    Attributes:
        kind: what fpo and fpopp train: "flow", or "vae" for a latent-variable policy; ddpo trains a noisy chain and ppo
            a Gaussian whatever it is.
        hidden: widths of the policy's hidden layers, a VAE's decoder's and encoder's each.
        critic_hidden: of the critic's.
        activation: "elu", "silu", "relu" or "tanh".
        sampling_steps: K Euler steps from noise to action.
        time_features: size of the embedding of t.
        output_scale: the velocity network's output, or a VAE's decoder's, is multiplied by it.
        action_scale: the network's actions times this are the environment's.
        perturbation: standard deviation of noise on executed actions, in the environment's units.
        chain_noise: σ of ddpo's noisy chain.
        spread: first standard deviation of ppo's Gaussian, or of a VAE's decoder, over action_scale.
        latent: a VAE's latent dimensions, 1 or 2.
        latent_scale: its decoder sees latents times this: how much they say at first.
        samples: S noise samples, or a VAE's latent samples, an action.
        times: how their t is drawn: "beta", "discrete" or "log-uniform".
        times_beta: of Beta(1, beta); 1 is uniform.
    """

    kind: Kind = "flow"
    hidden: str = "128,128"
    critic_hidden: str = "128,128"
    activation: str = "elu"
    sampling_steps: int = 16
    time_features: int = 8
    output_scale: float = 1.0
    action_scale: float = 1.0
    perturbation: float = 0.02
    chain_noise: float = 0.3
    spread: float = 0.5
    latent: int = 1
    latent_scale: float = 1.0
    samples: int = 8
    times: Times = "beta"
    times_beta: float = 1.0

    def __post_init__(self) -> None:
        parse_widths(self.hidden, "policy.hidden")
        parse_widths(self.critic_hidden, "policy.critic_hidden")
        positive(self, "policy", "spread")
        at_least(self, "policy", 1, "samples", "sampling_steps")


@dataclass(frozen=True)
class ControlOptimiserConfig:
    """AdamW over policy and critic.

    Attributes:
        learning_rate: η at the start.
        target_change: the mean squared change of the predicted noise that η is steered to, up and down by half as much
            again; 0 keeps η.
        least: lowest η that steering reaches.
        most: highest.
        beta1: AdamW's first decay.
        beta2: AdamW's second decay.
        weight_decay: AdamW's.
        max_grad_norm: the gradient of both networks together is clipped to this norm.
    """

    learning_rate: float = 3e-4
    target_change: float = 0.0
    least: float = 1e-5
    most: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "optimiser", "learning_rate", "least", "most", "max_grad_norm")
        below_one(self, "optimiser", "beta1", "beta2")
        not_negative(self, "optimiser", "weight_decay", "target_change")


@dataclass(frozen=True)
class SelfDistillationConfig:
    """A stage of self-distillation: a frozen teacher acts, and the policy learns its actions (Algorithms 1 and 3).

    Attributes:
        iterations: rounds of acting and one gradient step.
        environment_steps: steps of every environment a round.
        batch: actions of a gradient step, drawn from the buffer without replacement.
        samples: noise samples an action; 0 takes the policy's.
        loss: of flows: "flat" minimises the unweighted flow-matching loss, as released; "elbo" maximises the bound
            itself, whose optimum is the same and whose gradient is noisier. A VAE has its ELBO alone.
        buffer: newest actions that are kept; 0 keeps all, as in Algorithm 3.
        learning_rate: of the stage's own AdamW.
        decay_from: share of the stage after which the rate falls linearly to nothing; 1 keeps it, as released.
        weight_decay: of AdamW.
        every: iterations between two stages, for ``base+interleave``; ``base+initial`` has one, before the first.
    """

    iterations: int = 200
    environment_steps: int = 8
    batch: int = 1024
    samples: int = 0
    loss: Literal["flat", "elbo"] = "flat"
    buffer: int = 0
    learning_rate: float = 3e-3
    decay_from: float = 1.0
    weight_decay: float = 1e-4
    every: int = 20

    def __post_init__(self) -> None:
        at_least(self, "distillation", 1, "iterations", "environment_steps", "batch", "every")
        at_least(self, "distillation", 0, "samples", "buffer")
        not_negative(self, "distillation", "weight_decay")
        positive(self, "distillation", "learning_rate")
        shares(self, "distillation", "decay_from")

    def rate(self, i: int) -> float:
        """The learning rate of round ``i``, from 0."""
        left, falling = self.iterations - i, self.iterations * (1 - self.decay_from)
        return self.learning_rate * min(1.0, left / falling) if falling else self.learning_rate


@dataclass(frozen=True)
class ControlConfig(CommonConfig):
    """Everything that a control run depends on, beside what every run has.

    Attributes:
        device: where all of it runs, such as "cuda"; empty for "cuda" where there is one, else "cpu".
    """

    device: str = ""
    trainer: ControlTrainerConfig = field(default_factory=ControlTrainerConfig)
    objective: ControlObjective = field(default_factory=ControlObjective)
    optimiser: ControlOptimiserConfig = field(default_factory=ControlOptimiserConfig)
    task: ControlTaskConfig = field(default_factory=Track)
    policy: ControlPolicyConfig = field(default_factory=ControlPolicyConfig)
    distillation: SelfDistillationConfig = field(default_factory=SelfDistillationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
