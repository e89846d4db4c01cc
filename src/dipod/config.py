"""Settings of a run: typed, immutable, checked when made; the same in YAML, on the command line and in Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dipod.drift.monitor import MonitorConfig
from dipod.errors import at_least, below_one, not_negative, positive, require, shares
from dipod.likelihood.corruption import CorruptionConfig
from dipod.likelihood.exact import MAX_EXACT_TOKENS
from dipod.policies.sampling import SamplerConfig
from dipod.tasks.configs import TaskConfig
from dipod.tasks.sudoku import SudokuConfig
from dipod.tightening import AdaptiveConfig


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with linear warm-up and a linear decay over the last part of the run.

    Attributes:
        learning_rate: η at its highest.
        warmup: steps from 0 to η.
        decay_from: share of the run after which η falls linearly; 1 keeps it constant.
        final_share: what is left of η after the last step.
        beta1: AdamW's first decay.
        beta2: AdamW's second decay.
        weight_decay: AdamW's.
        max_grad_norm: the gradient is clipped to this norm.
    """

    learning_rate: float = 1e-3
    warmup: int = 20
    decay_from: float = 0.5
    final_share: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "optimiser", "learning_rate", "max_grad_norm")
        at_least(self, "optimiser", 0, "warmup")
        shares(self, "optimiser", "decay_from", "final_share")
        below_one(self, "optimiser", "beta1", "beta2")
        not_negative(self, "optimiser", "weight_decay")

    def build(self, parameters: Iterable[Tensor], learning_rate: float | None = None) -> torch.optim.AdamW:
        """An optimiser of these settings, at another learning rate if one is given."""
        betas = (self.beta1, self.beta2)
        rate = learning_rate or self.learning_rate
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=self.weight_decay)

    def rate_at(self, step: int, steps: int) -> float:
        """η of update ``step`` (from 0) in a run of ``steps``."""
        warm = min(1.0, (step + 1) / max(self.warmup, 1))
        done = step / steps
        fallen = (done - self.decay_from) / (1 - self.decay_from) if done > self.decay_from else 0.0
        return self.learning_rate * warm * (1 - (1 - self.final_share) * fallen)


@dataclass(frozen=True)
class TrainerConfig:
    """One run of the loop.

    Attributes:
        steps: updates, each on fresh rollouts.
        epochs: passes over the training problems, in place of steps: so many updates that every problem of a file has
            come so often. 0 counts steps.
        prompts: observations per step, over all processes.
        group_size: rollouts per observation, G.
        resample_idle: rounds at most, before an update, in which observations whose rollouts all have the same reward
            are replaced by fresh ones; 0 for none. An update is then made of observations that are neither too easy nor
            too hard, and β's term sees only these.
        inner_updates: gradient steps on the same rollouts, μ.
        rows_per_pass: completions, one for each corruption sample, that a pass of the network holds in memory; 0 for
            all of them. Gradients do not depend on it.
        dropout: leave dropout on in gradient passes; rollouts and measurements never have it.
        scale_advantages: divide advantages by the standard deviation of their group's rewards.
        scale_std: which one: "population" divides squared deviations by the group's size G, "sample" by G-1, as TRL.
        negative_weight: what advantages below zero are multiplied by, after that; 0 learns from successes alone.
        evaluate_every: steps between two evaluations (solved problems, gap, cosine); 0 for the ends only.
        evaluate_problems: held-out problems per evaluation; 0 for no evaluation.
        gap_problems: of these, how many the gap is measured on; 0 leaves it out.
        gap_paths: decoding orders per action for the gap's bounds where completions are too long for exactness.
        cosine_rollouts: of a step's rollouts, how many the gradient cosine is measured on; 0 leaves it out. Only a
            run of one process measures it, and not under FSDP or DeepSpeed.
        exact_tokens: longest completion whose likelihood is computed exactly (2^n forward rows each).
        save_every: steps between two checkpoints; 0 for the end only.
    """

    steps: int = 400
    epochs: float = 0.0
    prompts: int = 32
    group_size: int = 8
    resample_idle: int = 0
    inner_updates: int = 1
    rows_per_pass: int = 0
    dropout: bool = False
    scale_advantages: bool = True
    scale_std: Literal["population", "sample"] = "population"
    negative_weight: float = 1.0
    evaluate_every: int = 50
    evaluate_problems: int = 256
    gap_problems: int = 64
    gap_paths: int = 16
    cosine_rollouts: int = 16
    exact_tokens: int = 10
    save_every: int = 100

    def __post_init__(self) -> None:
        at_least(self, "trainer", 1, "prompts", "inner_updates")
        at_least(self, "trainer", 2, "gap_paths")
        not_negative(self, "trainer", "negative_weight", "epochs")
        at_least(self, "trainer", 0, "steps", "evaluate_every", "cosine_rollouts", "save_every", "rows_per_pass")
        at_least(self, "trainer", 0, "evaluate_problems", "gap_problems", "resample_idle")
        require(self.group_size >= 2, "trainer.group_size", self.group_size, "an advantage needs at least 2 rollouts")
        fits = 0 <= self.exact_tokens <= MAX_EXACT_TOKENS
        require(fits, "trainer.exact_tokens", self.exact_tokens, f"give a number from 0 to {MAX_EXACT_TOKENS}")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a run may change in the algorithm's row.

    Attributes:
        form: "paper", or "released" for the row's formula as its published code has it where that is another one:
            espo's baseline leaves one out; stabledrl weighs SPG's bounds by ratios per token of at most 5.
        normaliser: "own", or what the sum over rollouts is divided by: "rollouts", "tokens" (their total length),
            "lengths" (each by its own), "ratios", or "length-ratios" (each by its own length, then by the ratios).
        clip: ε of the algorithms that clip; 0 takes the row's own.
        eubo_order: the Rényi order of SPG's upper bound, at least 1.
        kl: estimator of a penalty on the KL to the base model: "off", "k1", "k2" or "k3".
        kl_weight: κ, in units of the advantage.
    """

    normaliser: Literal["own", "rollouts", "tokens", "lengths", "ratios", "length-ratios"] = "own"
    clip: float = 0.0
    eubo_order: float = 1.5
    kl: Literal["off", "k1", "k2", "k3"] = "off"
    kl_weight: float = 0.0
    form: Literal["paper", "released"] = "paper"

    def __post_init__(self) -> None:
        require(self.clip >= 0, "objective.clip", self.clip, "give a positive ε, or 0 for the paper's")
        require(self.eubo_order >= 1, "objective.eubo_order", self.eubo_order, "give an order of at least 1")
        not_negative(self, "objective", "kl_weight")
        idle = self.kl == "off" and self.kl_weight > 0
        require(not idle, "objective.kl_weight", self.kl_weight, "choose an estimator with objective.kl, or leave it 0")


@dataclass(frozen=True)
class ModelConfig:
    """What is trained: a model from a folder or the hub, or else a small transformer made by the recipe.

    Attributes:
        path: a folder or a hub name (LLaDA, Dream, a masked language model, a base model of ours); empty makes a
            small one.
        revision: of the hub repository; empty for its main branch.
        dtype: of the weights.
        mixed_precision: "bf16" runs the network in bfloat16 over weights of ``dtype``.
        load_in_4bit: quantise the weights to NF4 (CUDA and bitsandbytes).
        gradient_checkpointing: recompute activations in the backward pass.
        adapter: a folder or hub name of LoRA adapters, by dipod or peft, that training starts from and goes on with;
            their own rank, scale and layers hold, and the settings lora_* are those of new ones.
        lora_rank: rank of the adapters; 0 trains every weight.
        lora_alpha: their scale is alpha over rank.
        lora_dropout: on the adapters' input.
        lora_targets: "all" linear layers of the blocks, "released" (q, k, v, up: what the released runs adapted in
            effect), or names separated by commas.
        width: hidden size of a small one, a multiple of heads.
        layers: its number of blocks.
        heads: its attention heads.
    """

    path: str = ""
    revision: str = ""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    mixed_precision: Literal["no", "bf16"] = "no"
    load_in_4bit: bool = False
    gradient_checkpointing: bool = False
    adapter: str = ""
    lora_rank: int = 0
    lora_alpha: float = 64.0
    lora_dropout: float = 0.0
    lora_targets: str = "all"
    width: int = 64
    layers: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        at_least(self, "model", 0, "lora_rank")
        below_one(self, "model", "lora_dropout")
        require(bool(self.path) or not self.adapter, "model.adapter", self.adapter, "name its base too: model.path")

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained over a frozen base."""
        return self.lora_rank > 0 or bool(self.adapter)


@dataclass(frozen=True)
class LoggingConfig:
    """Where metrics go besides ``metrics.jsonl``.

    Attributes:
        tracker: "none", "tensorboard", "wandb" or "trackio"; the package of that name must be installed.
        project: the project's name there.
        completions: of text and boards, problems of every evaluation whose completions are kept in completions.jsonl.
    """

    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    project: str = "dipod"
    completions: int = 4

    def __post_init__(self) -> None:
        at_least(self, "logging", 0, "completions")


@dataclass(frozen=True)
class PretrainConfig:
    """How the base model is made, by maximising the ELBO on the task's prior (paper eq. 3).

    Attributes:
        steps: gradient steps.
        batch: completions per step.
        learning_rate: of AdamW at its highest; falls to zero along a cosine.
        warmup: steps from 0 to the learning rate.
        save_every: steps between two checkpoints, of which the last is kept until the base is made; 0 for none.
    """

    steps: int = 300
    batch: int = 128
    learning_rate: float = 3e-3
    warmup: int = 40
    save_every: int = 100

    def __post_init__(self) -> None:
        at_least(self, "pretrain", 1, "steps", "batch")
        at_least(self, "pretrain", 0, "warmup", "save_every")
        positive(self, "pretrain", "learning_rate")


@dataclass(frozen=True)
class InterleaveConfig:
    """Algorithm 1's stages, for algorithms typed as ``base+interleave``.

    Attributes:
        every: policy updates between two stages.
        steps: gradient steps a stage at most.
        tolerance: a stage ends once ten steps gain less than this many nats over the ten before; 0 runs all steps.
        learning_rate: of the stage's own optimiser.
    """

    every: int = 10
    steps: int = 20
    tolerance: float = 0.0
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class CommonConfig:
    """What every run depends on, whatever it trains.

    Attributes:
        recipe: the recipe that it started from.
        algorithm: an estimator, alone or with a tightening: "spg", "spg+dipod", "fpo+interleave", "fpopp+initial".
        preset: "paper", or "released" for what the published code of the algorithm does (see docs/presets.md).
        beta: DiPOD's β in units of the advantage, for algorithms typed as ``base+dipod``; where ``base+adaptive``
            starts from.
        beta_ramp: updates over which β grows linearly from nothing; 0 for a constant β, as in the paper.
        seed: of everything random.
        threads: CPU threads; 0 leaves the choice to torch.
    """

    recipe: str = "sudoku"
    algorithm: str = "spg+dipod"
    preset: Literal["paper", "released"] = "paper"
    beta: float = 0.4
    beta_ramp: int = 0
    seed: int = 0
    threads: int = 0
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)

    def __post_init__(self) -> None:
        require(self.beta >= 0, "beta", self.beta, "give a number of at least 0 (0 switches DiPOD off)")
        require(self.beta_ramp >= 0, "beta_ramp", self.beta_ramp, "give a number of updates of at least 0")
        require(self.seed >= 0, "seed", self.seed, "give a whole number of at least 0")
        require(self.threads >= 0, "threads", self.threads, "give 0 (torch's choice) or a number of threads")


@dataclass(frozen=True)
class RunConfig(CommonConfig):
    """Everything that a run of a masked model depends on; ``config.yaml`` of its folder is exactly this.

    Attributes:
        base: a folder with a pre-trained base model; empty to pre-train one.
    """

    base: str = ""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    task: TaskConfig = field(default_factory=SudokuConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    interleave: InterleaveConfig = field(default_factory=InterleaveConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        both = bool(self.base) and bool(self.model.path)
        require(not both, "base", self.base, "model.path says already which model is trained; leave one of them out")


@dataclass(frozen=True)
class Settings:
    """How a trainer goes about it; each part is a group of `RunConfig`.

    Attributes:
        trainer: sizes and rhythms.
        sampler: how rollouts are decoded.
        optimiser: of the policy.
        objective: what changes in the algorithm's row.
        corruption: masks.
        monitor: of drift.
        adaptive: how the gap is measured where the tightening wants it.
        usual_beta: β of the run's settings, in force or not.
        completions: problems of an evaluation whose completions are kept.
    """

    trainer: TrainerConfig
    sampler: SamplerConfig
    optimiser: OptimiserConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    usual_beta: float = 0.4
    completions: int = 4
