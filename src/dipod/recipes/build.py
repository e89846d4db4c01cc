"""From settings to the values that the loop takes."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import cast

import torch
from torch import nn

from dipod.algorithms import Algorithm, table
from dipod.config import ModelConfig, RunConfig, Settings
from dipod.control.build import check_control
from dipod.control.config import ControlConfig
from dipod.errors import UserError, require
from dipod.noise import keyed_generator
from dipod.parallel import Processes, start
from dipod.policies.hub import fetch
from dipod.policies.lora import LoraSettings, add_lora, base_network, check_adapter, load_adapter, target_layers
from dipod.policies.masked import MaskedPolicy
from dipod.policies.pretrained import check_pretrained, load_pretrained, logit_count, longest_sequence, quantise_4bit
from dipod.policies.transformer import MaskedTransformer, TransformerConfig
from dipod.pretrain import Pretrainer, Prior
from dipod.recipes.settings import AnyConfig
from dipod.tasks import Task
from dipod.tasks.sudoku import SudokuConfig, SudokuTask
from dipod.tasks.text.task import TextTask, build_text_task
from dipod.tightening import Distillation, Tightening, parse_tightening
from dipod.trainer import Trainer


def parse_algorithm(text: str, config: RunConfig) -> tuple[Algorithm, Tightening[Distillation]]:
    """Read ``base`` or ``base+tightening``: an algorithm's row and how its bound is kept tight.

    "dipod" is Algorithm 2 with the configuration's β, "interleave" Algorithm 1 and "initial" Algorithm 3, with its
    stages.

    Raises:
        UserError: a base or a tightening that does not exist.
    """
    base = text.partition("+")[0]
    objective = config.objective
    rows = table(objective.eubo_order, objective.clip or None, objective.form == "released")
    if base not in rows:
        raise UserError("algorithm", text, f"choose a base from {', '.join(rows)}")
    chosen = config.interleave
    stage = Distillation(chosen.steps, chosen.tolerance, chosen.learning_rate)
    return rows[base], parse_tightening(text, config.beta, config.beta_ramp, chosen.every, stage, config.adaptive)


def check(config: AnyConfig) -> None:
    """See that the settings go together, before anything is written or computed.

    Raises:
        UserError: an unknown algorithm, problems, a model or its base that cannot be read, or a sampler that does not
            fit.
    """
    tracker = config.logging.tracker
    there = tracker == "none" or find_spec(tracker) is not None
    require(there, "logging.tracker", tracker, f"install it with: pip install {tracker}")
    if isinstance(config, ControlConfig):
        check_control(config)
        return
    parse_algorithm(config.algorithm, config)
    task = build_task(config)
    config.sampler.blocks_of(task.completion_length)
    if isinstance(task, TextTask):
        for split in ("train", "test") if config.trainer.evaluate_problems else ("train",):
            task.rows(split)
    if config.model.path:
        check_model(config.model, task)
    else:
        build_policy(config, task)


def counted(config: AnyConfig) -> AnyConfig:
    """The settings with epochs as the steps that they are; problems are read where there are epochs.

    Raises:
        UserError: epochs of problems that are made without end, or that cannot be read.
    """
    if isinstance(config, ControlConfig) or not config.trainer.epochs:
        return config
    return in_steps(config, build_task(config))


def in_steps(config: RunConfig, task: Task) -> RunConfig:
    """The settings with ``trainer.epochs`` turned into ``trainer.steps``.

    Raises:
        UserError: the problems are made without end.
    """
    epochs, prompts = config.trainer.epochs, config.trainer.prompts
    if not epochs:
        return config
    size = task.size() if isinstance(task, TextTask) else None
    if size is None:
        raise UserError("trainer.epochs", epochs, "these problems are drawn without end; give trainer.steps")
    steps = max(1, math.ceil(round(epochs * size / prompts, 6)))
    return replace(config, trainer=replace(config.trainer, steps=steps, epochs=0.0))


def check_model(config: ModelConfig, task: Task) -> nn.Module:
    """See that a model and its adapters can be had and fit the task, before its weights are read.

    Returns:
        The network without memory.

    Raises:
        UserError: as `build_policy`, for what settings and file names tell.
    """
    network = check_pretrained(config.path, config.revision or None)
    check_fit(network, task)
    if config.adapter:
        check_adapter(network, fetch(config.adapter, field="model.adapter"))
    elif config.lora_rank:
        target_layers(network, adapters_of(config).targets)
    if config.load_in_4bit:
        require(config.adapted, "model.load_in_4bit", True, "train adapters: give model.lora_rank")
        require(torch.cuda.is_available(), "model.load_in_4bit", True, "needs a CUDA device; load in bfloat16 instead")
    return network


def check_fit(network: nn.Module, task: Task) -> None:
    """See that a model has tokens and places for the prompts and completions of a task.

    Raises:
        UserError: it has fewer logits than the task has ids, or fewer places than a prompt and a completion need.
    """
    wanted, logits = task.vocabulary, logit_count(network)
    mend = f"its vocabulary has {logits} tokens, the task's {wanted.size}"
    require(wanted.size <= logits, "model.path", str(getattr(network, "name_or_path", "")), mend)
    (places, name), need = longest_sequence(network), prod(wanted.axes)
    if places is None or need <= places:
        return
    room = places - task.completion_length
    if not isinstance(task, TextTask):
        raise UserError("task.name", "sudoku", f"it needs {need} places, the model has {places} ({name})")
    said = f"completions of {task.completion_length} tokens make it {need}, the model has {places} places ({name})"
    if room < 1:
        raise UserError("task.completion_length", task.completion_length, f"the model has {places} places ({name})")
    raise UserError("task.max_prompt", task.config.max_prompt, f"{said}; give at most {room}")


def adapters_of(config: ModelConfig) -> LoraSettings:
    """The adapters that the settings of a model ask for."""
    return LoraSettings(config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_targets)


def build_task(config: RunConfig) -> Task:
    """The task of a run."""
    if isinstance(config.task, SudokuConfig):
        return SudokuTask(config.task)
    return build_text_task(config.task, config.model.path or config.base, config.model.revision)


def build_policy(config: RunConfig, task: Task) -> MaskedPolicy:
    """The policy of a run: a model from a folder or the hub, the base model named in the configuration, or a fresh one.

    Raises:
        UserError: a model that cannot be read or does not fit the task.
    """
    vocabulary = task.vocabulary
    if config.model.path:
        network = _pretrained(config.model)
        check_fit(network, task)
    elif config.base:
        network = MaskedTransformer.from_pretrained(Path(config.base))
        found = (network.config.vocab_size, network.config.axes)
        if found != (vocabulary.size, vocabulary.axes):
            mend = f"the task needs {vocabulary.size} tokens and positions {vocabulary.axes}, the model has {found}"
            raise UserError("base", config.base, mend)
    else:
        size = config.model
        shape = TransformerConfig(vocabulary.size, vocabulary.axes, size.width, size.layers, size.heads)
        network = MaskedTransformer(shape, torch.Generator().manual_seed(config.seed))
    network.gradient_checkpointing = config.model.gradient_checkpointing  # type: ignore[assignment]
    if config.model.adapter:
        begun = fetch(config.model.adapter, field="model.adapter")
        network = load_adapter(network, begun, keep_start=config.objective.kl_weight > 0)
    elif config.model.lora_rank:
        network = add_lora(network, adapters_of(config.model), keyed_generator(config.seed, "adapters"))
    return policy_of(network.eval(), task)


def policy_of(network: nn.Module, task: Task) -> MaskedPolicy:
    """The policy that a network is on a task.

    Logits beyond the task's ids (checkpoints pad their vocabularies) are barred where tokens are drawn and scored.
    """
    known = task.vocabulary
    padded = range(known.size, logit_count(base_network(network)))
    return MaskedPolicy(network, known.mask_id, (*known.barred, *padded))


def _pretrained(config: ModelConfig) -> nn.Module:
    network = load_pretrained(config.path, config.dtype, "auto", config.revision or None)
    return quantise_4bit(network) if config.load_in_4bit else network


def build_pretrainer(config: RunConfig, policy: MaskedPolicy, task: Task) -> Pretrainer:
    """The loop that makes the base model.

    Raises:
        UserError: the task has nothing that a base model could imitate.
    """
    has = callable(getattr(task, "prior", None))
    require(has, "model.path", "", f"{config.task.name} has no small base model of its own; name a model")
    return Pretrainer(policy, cast(Prior, task), config.pretrain, config.seed)


def build_trainer(config: RunConfig, policy: MaskedPolicy, task: Task, processes: Processes | None = None) -> Trainer:
    """The loop that improves it; problems that cannot be used are found here, before the first evaluation.

    Without ``processes`` it joins those that were started together, as `dipod.parallel.start` does.
    """
    config = in_steps(config, task)
    task.draw(1, "train", config.seed, 0)
    algorithm, tightening = parse_algorithm(config.algorithm, config)
    settings = Settings(
        config.trainer,
        config.sampler,
        config.optimiser,
        config.objective,
        config.corruption,
        config.monitor,
        config.adaptive,
        config.beta,
        config.logging.completions,
    )
    processes = processes or start(config.model.mixed_precision)
    return Trainer(policy, task, algorithm, tightening, settings, config.seed, processes)
