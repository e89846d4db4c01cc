"""What the ``actor`` and ``algorithm`` parts of a runner's configuration may say, checked key by key.

What rsl_rl's PPO has is spelled as there; the rest is spelled as in the library's own settings.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dipod.control.algorithms import ControlAlgorithm, ControlObjective
from dipod.control.build import parse_algorithm
from dipod.control.config import (
    ControlConfig,
    ControlOptimiserConfig,
    ControlTrainerConfig,
    SelfDistillationConfig,
)
from dipod.drift.monitor import MonitorConfig
from dipod.errors import UserError, at_least, positive, require
from dipod.likelihood.flow import Times, TimesConfig
from dipod.policies.flow import FlowSettings
from dipod.tightening import AdaptiveConfig, Tightening

T = TypeVar("T")
ABSENT = {
    "actor": ("distribution_cfg", "cnn_cfg", "rnn_type"),
    "algorithm": ("rnd_cfg", "symmetry_cfg", "share_cnn_encoders", "use_mixed_precision", "grad_reduce_bucket_mb"),
}
"""Keys of rsl_rl's own classes that may stand in a configuration as long as they ask for nothing."""
SPELLED = {
    "trainer.epochs": "num_learning_epochs",
    "trainer.mini_batches": "num_mini_batches",
    "trainer.discount": "gamma",
    "trainer.trace": "lam",
    "trainer.value_weight": "value_loss_coef",
    "optimiser.least": "min_learning_rate",
    "optimiser.most": "max_learning_rate",
    "optimiser.target_change": "desired_kl",
}
"""Fields of the library's settings whose names are rsl_rl's here."""


@dataclass(frozen=True)
class FlowActorConfig:
    """The policy's network and how it acts.

    Attributes:
        hidden_dims: widths of the hidden layers.
        activation: "elu", "silu", "relu" or "tanh".
        obs_normalization: normalise observations by what was seen before the present rollout.
        sampling_steps: K Euler steps from noise to action.
        time_features: size of the embedding of t.
        output_scale: the network's output is multiplied by it.
        action_scale: the network's actions times this are the environment's.
        perturbation: standard deviation of noise on executed actions, in the environment's units.
        samples: S noise samples an action.
        times: how their t is drawn: "beta", "discrete" or "log-uniform".
        times_beta: of Beta(1, beta); 1 is uniform.
        seed: of the first weights; the runner's ``seed`` if left out.
    """

    hidden_dims: tuple[int, ...] = (256, 256, 256)
    activation: str = "elu"
    obs_normalization: bool = True
    sampling_steps: int = 16
    time_features: int = 8
    output_scale: float = 1.0
    action_scale: float = 1.0
    perturbation: float = 0.02
    samples: int = 16
    times: Times = "beta"
    times_beta: float = 1.0
    seed: int = 0

    def settings(self) -> FlowSettings:
        """How the policy acts."""
        times = TimesConfig(self.samples, self.times, self.times_beta, steps=self.sampling_steps)
        return FlowSettings(self.sampling_steps, self.action_scale, self.perturbation, times=times)


@dataclass(frozen=True)
class FlowAlgorithmConfig:
    """The estimator, its tightening and the gradient steps.

    Attributes:
        estimator: a row of the library's table and a tightening: "fpo", "fpopp+dipod", "fpopp+initial".
        beta: β of ``+dipod``, in units of the advantage.
        beta_ramp: updates over which β grows linearly from nothing; 0 for a constant β.
        warmup_steps: steps of every environment before the first update, in which the untrained policy acts and only
            the normalisers learn; the same whatever the estimator.
        num_learning_epochs: passes over a rollout.
        num_mini_batches: gradient steps a pass.
        reshuffle: new mini-batches every epoch, instead of the same ones in every epoch as in rsl_rl.
        clip_param: ε of the ratio; 0 takes the estimator's own.
        gamma: γ.
        lam: λ of the advantage estimation.
        advantage_limit: standardised advantages stay within ± this; 0 for no limit.
        normalize_advantage_per_mini_batch: standardise in every mini-batch instead of over the rollout.
        value_loss_coef: weight of the critic's squared error.
        use_clipped_value_loss: new values may leave old ones by ε before their error stops to pull.
        entropy_coef: weight of the nearest-neighbour entropy bonus.
        learning_rate: η of AdamW.
        schedule: "fixed", or "adaptive": η follows ``desired_kl``.
        desired_kl: mean squared change of the predicted noise that an adaptive η aims at; not a divergence.
        min_learning_rate: lowest η of an adaptive schedule.
        max_learning_rate: its highest.
        beta1: AdamW's first decay.
        beta2: AdamW's second decay.
        weight_decay: AdamW's.
        max_grad_norm: the gradient of both networks together is clipped to this norm.
        optimizer: "adamw"; "adam" is the same without decay.
        check_finite: refuse observations and rewards that are not finite, in place of the runner's check_for_nan.
        objective: the estimator's other settings.
        distillation: the stage of ``+initial``, ``+interleave`` and ``+tolerance``.
        monitor: how drift is watched; ``every`` 0 does not.
        adaptive: the target of ``+adaptive`` and ``+tolerance``, and how it is held.
    """

    estimator: str = "fpopp"
    beta: float = 0.01
    beta_ramp: int = 0
    warmup_steps: int = 0
    num_learning_epochs: int = 4
    num_mini_batches: int = 4
    reshuffle: bool = False
    clip_param: float = 0.0
    gamma: float = 0.99
    lam: float = 0.95
    advantage_limit: float = 100.0
    normalize_advantage_per_mini_batch: bool = False
    value_loss_coef: float = 1.0
    use_clipped_value_loss: bool = False
    entropy_coef: float = 0.0
    learning_rate: float = 3e-4
    schedule: Literal["fixed", "adaptive"] = "fixed"
    desired_kl: float = 1e-4
    min_learning_rate: float = 1e-5
    max_learning_rate: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    optimizer: Literal["adamw", "adam"] = "adamw"
    check_finite: bool = True
    objective: ControlObjective = field(default_factory=ControlObjective)
    distillation: SelfDistillationConfig = field(default_factory=SelfDistillationConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)

    def __post_init__(self) -> None:
        at_least(self, "algorithm", 0, "warmup_steps")
        decay = self.weight_decay
        plain = self.optimizer == "adamw" or not decay
        require(plain, "algorithm.optimizer", self.optimizer, f'give "adamw", or weight_decay 0 in place of {decay}')
        for name, inner in (("clip_param", "clip"), ("entropy_coef", "entropy")):
            mine, other = getattr(self, name), getattr(self.objective, inner)
            mend = f"objective.{inner} = {other} means the same; leave one of them out"
            require(not (mine and other and mine != other), f"algorithm.{name}", mine, mend)
        self.resolve()

    def resolve(self) -> Resolved:
        """The same as the library's own values.

        Raises:
            UserError: a value that is refused, named as it is spelled here.
        """
        try:
            return self._resolve()
        except UserError as error:
            spelled = SPELLED.get(error.field, error.field.removeprefix("trainer.").removeprefix("optimiser."))
            raise UserError(f"algorithm.{spelled.removeprefix('algorithm.')}", error.value, error.mend) from None

    def _resolve(self) -> Resolved:
        chosen = self.objective
        clip, entropy = self.clip_param or chosen.clip, self.entropy_coef or chosen.entropy
        objective = replace(chosen, clip=clip, entropy=entropy)
        adaptive = self.schedule == "adaptive"
        if adaptive:
            positive(self, "algorithm", "desired_kl")
        optimiser = ControlOptimiserConfig(
            learning_rate=self.learning_rate,
            target_change=self.desired_kl if adaptive else 0.0,
            least=self.min_learning_rate,
            most=self.max_learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
        )
        trainer = ControlTrainerConfig(
            epochs=self.num_learning_epochs,
            mini_batches=self.num_mini_batches,
            reshuffle=self.reshuffle,
            discount=self.gamma,
            trace=self.lam,
            timeouts="released",
            advantage_limit=self.advantage_limit,
            value_weight=self.value_loss_coef,
        )
        whole = ControlConfig(
            algorithm=self.estimator,
            beta=self.beta,
            beta_ramp=self.beta_ramp,
            trainer=trainer,
            objective=objective,
            optimiser=optimiser,
            distillation=self.distillation,
            adaptive=self.adaptive,
        )
        try:
            row, tightening = parse_algorithm(self.estimator, whole)
        except UserError as error:
            raise UserError("estimator", error.value, error.mend) from None
        mend = "give fpo or fpopp, the estimators of flow policies; a Gaussian's PPO is rsl_rl's own"
        require(row.acting == "flow", "estimator", self.estimator, mend)
        if self.use_clipped_value_loss:
            trainer = replace(trainer, value_clip=row.clip)
        return Resolved(row, tightening, trainer, objective, optimiser)


@dataclass(frozen=True)
class Resolved:
    """A configuration in the library's own terms."""

    row: ControlAlgorithm
    tightening: Tightening[SelfDistillationConfig]
    trainer: ControlTrainerConfig
    objective: ControlObjective
    optimiser: ControlOptimiserConfig


def read(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """A configuration of a dataclass's kind from a part of the runner's.

    Args:
        kind: the dataclass.
        given: keys and values; those of `ABSENT` may be there with nothing in them.
        where: the part's name, as the user spells it.

    Raises:
        UserError: a key that is not known, or a value of another type or out of range.
    """
    hints = get_type_hints(kind)
    known = [found.name for found in fields(kind)]  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for key, value in given.items():
        name = f"{where}.{key}"
        if key in ABSENT.get(where, ()):
            idle = not value or key == "grad_reduce_bucket_mb"
            require(idle, name, value, "flow policies do without it; leave it out")
            continue
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            mend = f"there is no such setting; did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            raise UserError(name, value, mend)
        made[key] = _value(hints[key], value, name)
    try:
        return kind(**made)
    except UserError as error:
        spelled = error.field.startswith(f"{where}.")
        name = error.field if spelled else f"{where}.{error.field.rpartition('.')[2]}"
        raise UserError(name, error.value, error.mend) from None


def _value(kind: Any, value: Any, name: str) -> Any:
    if is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
        require(isinstance(value, Mapping), name, value, "give a mapping of settings")
        return read(kind, value, name)  # type: ignore[arg-type]
    if get_origin(kind) is Literal:
        require(value in get_args(kind), name, value, f"choose one of {', '.join(get_args(kind))}")
        return value
    if get_origin(kind) is tuple:
        whole = isinstance(value, list | tuple) and all(type(each) is int and each > 0 for each in value)
        require(whole, name, value, "give a list of positive whole numbers, such as [256, 256, 256]")
        return tuple(value)
    right = isinstance(value, int | float if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    require(right, name, value, f"give a value of type {kind.__name__}")
    return kind(value)
