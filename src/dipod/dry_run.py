"""What a run would do, before anything is loaded, drawn or written: sizes, prompts, memory, steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dipod.config import RunConfig
from dipod.errors import UserError
from dipod.policies.hf_masked import HFMasked
from dipod.policies.hub import fetch
from dipod.policies.layers import block_linears
from dipod.policies.lora import LoraSettings, check_adapter, target_layers
from dipod.policies.pretrained import logit_count
from dipod.policies.transformer import MaskedTransformer, TransformerConfig
from dipod.recipes import build_task, in_steps, parse_algorithm
from dipod.recipes.build import check_model
from dipod.tasks import Task
from dipod.tasks.text.task import TextTask
from dipod.update import elbo_corruption, estimator_corruption

GIB = 2**30
WIDTH = {"float32": 4, "float64": 8, "bfloat16": 2}
SAVED_PER_LAYER = 16
"""Hidden-sized vectors that a block keeps for its backward pass: norms, q, k, v, attention, gate, up, their product."""


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        parameters: of the model.
        trained: of these, how many are trained.
        prompt_tokens: of the example (smallest and largest where a file of problems was read).
        prompt: an example, as text.
        note: what could not be found out; empty if nothing.
        updates: batches of rollouts.
        gradient_steps: over the whole run.
        rollouts: over the whole run.
        decoding_passes: forward passes of a rollout.
        scored_rows: completions that pass through the network for the gradients of one update, forward.
        memory: estimates in GiB by part, for one process.
    """

    parameters: int
    trained: int
    prompt_tokens: tuple[int, int]
    prompt: str
    note: str
    updates: int
    gradient_steps: int
    rollouts: int
    decoding_passes: int
    scored_rows: int
    memory: dict[str, float]


def plan(config: RunConfig) -> Plan:
    """Work out what the run with these settings would do, from settings and files alone.

    Raises:
        UserError: settings that do not go together, or no model's settings where the model should be.
    """
    algorithm, tightening = parse_algorithm(config.algorithm, config)
    task = build_task(config)
    config = in_steps(config, task)
    network, vocabulary = _shape(config, task)
    config.sampler.blocks_of(task.completion_length)
    prompts, text, note = _prompts(task, config)
    trainer = config.trainer
    estimator = estimator_corruption(algorithm.corruption, config.corruption)
    bound = elbo_corruption(estimator, config.corruption, task.completion_length)
    bound = None if config.corruption.elbo == "estimator" else bound
    beta = tightening.next_beta(trainer.steps, None, None)
    samples = estimator.samples + (bound.samples if bound is not None and beta > 0 else 0)
    total = sum(p.numel() for p in network.parameters())
    trained = _adapters(network, config) if config.model.adapted else total
    return Plan(
        parameters=total,
        trained=trained,
        prompt_tokens=(min(prompts), max(prompts)),
        prompt=text,
        note=note,
        updates=trainer.steps,
        gradient_steps=trainer.steps * trainer.inner_updates,
        rollouts=trainer.steps * trainer.prompts * trainer.group_size,
        decoding_passes=config.sampler.steps or task.completion_length,
        scored_rows=trainer.prompts * trainer.group_size * samples * trainer.inner_updates,
        memory=_memory(config, network, total, trained, max(prompts) + task.completion_length, vocabulary, samples),
    )


def _shape(config: RunConfig, task: Task) -> tuple[nn.Module, int]:
    """The network without memory, and its vocabulary."""
    if config.model.path:
        network = check_model(config.model, task)
        return network, logit_count(network)
    vocabulary, size = task.vocabulary, config.model
    with torch.device("meta"):
        shape = TransformerConfig(vocabulary.size, vocabulary.axes, size.width, size.layers, size.heads)
        return MaskedTransformer(shape), vocabulary.size


def _prompts(task: Task, config: RunConfig) -> tuple[list[int], str, str]:
    """Lengths of some prompts, one of them as text, and what was in the way."""
    note = ""
    try:
        problems: Any = task.draw(config.trainer.prompts, "train", config.seed, 0)
    except UserError as error:
        if not isinstance(task, TextTask):
            raise
        problems = task.example()
        note = f"the problems could not be read ({error}); the prompt is that of a made-up problem"
    if isinstance(task, TextTask):
        text = task.tokenizer.decode(problems.prompts[0], keep_special=True)
        return [len(prompt) for prompt in problems.prompts], text, note
    observation = task.observe(problems)
    return observation.valid.sum(-1).tolist(), " ".join(map(str, observation.ids[0].tolist())), note


def _adapters(network: nn.Module, config: RunConfig) -> int:
    """Parameters of the adapters."""
    size = config.model
    if size.adapter:
        return check_adapter(network, fetch(size.adapter, field="model.adapter"))
    LoraSettings(size.lora_rank, size.lora_alpha, size.lora_dropout, size.lora_targets)
    names = target_layers(network, size.lora_targets)
    layers = [linear for name, linear in block_linears(network) if name.rpartition(".")[2] in names]
    return sum(size.lora_rank * (layer.in_features + layer.out_features) for layer in layers)


def _memory(
    config: RunConfig, network: nn.Module, total: int, trained: int, tokens: int, vocabulary: int, samples: int
) -> dict[str, float]:
    """GiB by part. Activations are those of one gradient pass; logits those of a decoding step."""
    width = 0.55 if config.model.load_in_4bit else WIDTH[config.model.dtype]
    computing = 2 if config.model.mixed_precision == "bf16" else WIDTH[config.model.dtype]
    layers = max(len(list(module)) for module in network.modules() if isinstance(module, nn.ModuleList))
    hidden = next(module.embedding_dim for module in network.modules() if isinstance(module, nn.Embedding))
    if isinstance(network, HFMasked):
        hidden = network.config.hidden_size
    trainer = config.trainer
    rollouts = trainer.prompts * trainer.group_size
    rows = min(trainer.rows_per_pass or rollouts * samples, rollouts * samples)
    kept = 1 if config.model.gradient_checkpointing else SAVED_PER_LAYER
    decoded = (config.sampler.max_rows or rollouts) * (config.sampler.block_length or tokens)
    master = 4 if config.model.adapted else WIDTH[config.model.dtype]
    parts = {
        "weights": total * width,
        "adapters": trained * 4 if config.model.adapted else 0,
        "gradients and AdamW": trained * 3 * master,
        "activations of a pass": rows * tokens * layers * hidden * kept * computing,
        "logits of a decoding step": decoded * vocabulary * 4 * 2,
    }
    found = {name: round(size / GIB, 3) for name, size in parts.items()}
    return {**found, "together, at most": round(sum(parts.values()) / GIB, 3)}


def as_text(found: Plan, settings: str) -> str:
    """The plan for people."""
    low, high = found.prompt_tokens
    steps = f"{found.updates:,} updates = {found.gradient_steps:,} gradient steps on {found.rollouts:,} rollouts"
    lines = [
        settings.rstrip(),
        "",
        f"model       {found.parameters:,} parameters, {found.trained:,} trained",
        f"prompts     {low} to {high} tokens in the first step" if high > low else f"prompts     {low} tokens",
        *(f"            {line}" for line in found.prompt.splitlines()),
        f"steps       {steps}",
        f"cost        {found.decoding_passes} decoding passes a rollout, {found.scored_rows:,} scored rows an update",
        "memory      per process, estimated in GiB",
        *(f"            {size:>10.3f}  {name}" for name, size in found.memory.items()),
    ]
    return "\n".join([*lines, *([f"note        {found.note}"] if found.note else [])])


def as_json(found: Plan, config: RunConfig) -> dict[str, Any]:
    """The plan as one object."""
    return {"settings": asdict(config), **asdict(found)}
