"""Settings of a control run, beside those that every run has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dipod.config import CommonConfig, LoggingConfig
from dipod.control.algorithms import ControlObjective
from dipod.errors import require
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
    warmup_steps: int = 100
    evaluate_every: int = 20
    evaluate_episodes: int = 64
    gap_actions: int = 256
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("environments", "horizon", "epochs", "mini_batches"):
            value = getattr(self, name)
            require(value >= 1, f"trainer.{name}", value, "give a whole number of at least 1")
        for name in ("steps", "warmup_steps", "evaluate_every", "evaluate_episodes", "gap_actions"):
            value = getattr(self, name)
            require(value >= 0, f"trainer.{name}", value, "give a whole number of at least 0")
        for name in ("discount", "trace"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"trainer.{name}", value, "give a number from 0 to 1")
        for name in ("advantage_limit", "value_weight", "value_clip", "save_every"):
            value = getattr(self, name)
            require(value >= 0, f"trainer.{name}", value, "give a number of at least 0")


@dataclass(frozen=True)
class ControlPolicyConfig:
    """The networks, and how the policy acts.

    Attributes:
        hidden: widths of the policy's hidden layers.
        critic_hidden: of the critic's.
        activation: "elu", "silu", "relu" or "tanh".
        sampling_steps: K Euler steps from noise to action.
        time_features: size of the embedding of t.
        output_scale: the velocity network's output is multiplied by it.
        action_scale: the network's actions times this are the environment's.
        perturbation: standard deviation of noise on executed actions, in the environment's units.
        chain_noise: σ of ddpo's noisy chain.
        spread: first standard deviation of ppo's Gaussian.
        samples: S noise samples an action.
        times: how their t is drawn: "beta", "discrete" or "log-uniform".
        times_beta: of Beta(1, beta); 1 is uniform.
    """

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
    samples: int = 8
    times: Times = "beta"
    times_beta: float = 1.0

    def __post_init__(self) -> None:
        parse_widths(self.hidden, "policy.hidden")
        parse_widths(self.critic_hidden, "policy.critic_hidden")
        require(self.spread > 0, "policy.spread", self.spread, "give a positive standard deviation")
        require(self.samples >= 1, "policy.samples", self.samples, "give at least one noise sample")
        require(self.sampling_steps >= 1, "policy.sampling_steps", self.sampling_steps, "give at least one step")


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
        for name in ("learning_rate", "least", "most", "max_grad_norm"):
            value = getattr(self, name)
            require(value > 0, f"optimiser.{name}", value, "give a positive number")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimiser.{name}", value, "give a number from 0 to below 1")
        for name in ("weight_decay", "target_change"):
            value = getattr(self, name)
            require(value >= 0, f"optimiser.{name}", value, "give a number of at least 0")


@dataclass(frozen=True)
class SelfDistillationConfig:
    """A stage of self-distillation: a frozen teacher acts, and the policy learns its actions (Algorithms 1 and 3).

    Attributes:
        iterations: rounds of acting and one gradient step.
        environment_steps: steps of every environment a round.
        batch: actions of a gradient step, drawn from the buffer without replacement.
        samples: noise samples an action; 0 takes the policy's.
        loss: "flat" minimises the unweighted flow-matching loss, as released; "elbo" maximises the bound itself, whose
            optimum is the same and whose gradient is noisier.
        buffer: newest actions that are kept; 0 keeps all, as in Algorithm 3.
        learning_rate: of the stage's own AdamW.
        weight_decay: of it.
        every: iterations between two stages, for ``base+interleave``; ``base+initial`` has one, before the first.
    """

    iterations: int = 200
    environment_steps: int = 8
    batch: int = 1024
    samples: int = 0
    loss: Literal["flat", "elbo"] = "flat"
    buffer: int = 0
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    every: int = 20

    def __post_init__(self) -> None:
        for name in ("iterations", "environment_steps", "batch", "every"):
            value = getattr(self, name)
            require(value >= 1, f"distillation.{name}", value, "give a whole number of at least 1")
        for name in ("samples", "buffer", "weight_decay"):
            value = getattr(self, name)
            require(value >= 0, f"distillation.{name}", value, "give a number of at least 0")
        rate = self.learning_rate
        require(rate > 0, "distillation.learning_rate", rate, "give a positive learning rate")


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
