"""From settings to the values that the loop takes."""

from __future__ import annotations

from pathlib import Path

import torch

from dipod.algorithms import ALGORITHMS, Algorithm
from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.policies.masked import MaskedPolicy
from dipod.policies.transformer import MaskedTransformer, TransformerConfig
from dipod.pretrain import Pretrainer
from dipod.tasks.sudoku import SudokuTask
from dipod.tightening import Distillation, Interleave, Off, Regularise, Tightening
from dipod.trainer import Trainer


def parse_algorithm(text: str, config: RunConfig) -> tuple[Algorithm, Tightening]:
    """Read ``base`` or ``base+tightening``: an algorithm's row and how its bound is kept tight.

    "dipod" is Algorithm 2 with the configuration's β, "interleave" Algorithm 1 with its stages.

    Raises:
        UserError: a base or a tightening that does not exist.
    """
    base, plus, suffix = text.partition("+")
    if base not in ALGORITHMS:
        raise UserError("algorithm", text, f"choose a base from {', '.join(ALGORITHMS)}")
    stage = config.interleave
    tightenings: dict[str, Tightening] = {
        "": Off(),
        "dipod": Regularise(config.beta, config.beta_ramp),
        "interleave": Interleave(stage.every, Distillation(stage.steps, stage.tolerance, stage.learning_rate)),
    }
    if suffix not in tightenings or (plus and not suffix):
        known = ", ".join(f"{base}+{name}" for name in tightenings if name)
        raise UserError("algorithm", text, f"choose {base}, {known}")
    return ALGORITHMS[base], tightenings[suffix]


def check(config: RunConfig) -> None:
    """See that the settings go together, before anything is written or computed.

    Raises:
        UserError: an unknown algorithm, a file or a base model that cannot be read, or a sampler that does not fit.
    """
    parse_algorithm(config.algorithm, config)
    task = build_task(config)
    config.sampler.blocks_of(task.completion_length)
    build_policy(config, task)


def build_task(config: RunConfig) -> SudokuTask:
    """The task of a run."""
    return SudokuTask(config.task)


def build_policy(config: RunConfig, task: SudokuTask) -> MaskedPolicy:
    """The policy of a run: the base model named in the configuration, or a fresh one."""
    if config.base:
        network = MaskedTransformer.from_pretrained(Path(config.base))
        found = (network.config.vocab_size, network.config.axes)
        if found != (task.vocab_size, task.axes):
            mend = f"the task needs {task.vocab_size} tokens and positions {task.axes}, the model has {found}"
            raise UserError("base", config.base, mend)
    else:
        shape = TransformerConfig(
            task.vocab_size,
            task.axes,
            config.model.width,
            config.model.layers,
            config.model.heads,
        )
        network = MaskedTransformer(shape, torch.Generator().manual_seed(config.seed))
    return MaskedPolicy(network, task.mask_id, task.barred)


def build_pretrainer(config: RunConfig, policy: MaskedPolicy, task: SudokuTask) -> Pretrainer:
    """The loop that makes the base model."""
    return Pretrainer(policy, task, config.pretrain, config.seed)


def build_trainer(config: RunConfig, policy: MaskedPolicy, task: SudokuTask) -> Trainer:
    """The loop that improves it."""
    algorithm, tightening = parse_algorithm(config.algorithm, config)
    return Trainer(policy, task, algorithm, tightening, config.sampler, config.optimiser, config.trainer, config.seed)
