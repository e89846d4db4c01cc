"""How a number was measured, in one line that is stored with it: numbers with different hashes do not compare."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch

from dipod.config import RunConfig
from dipod.recipes.paths import by_content

LOGISTICS = ("max_rows", "train_source", "train_csv", "held_back")
"""Settings of task and sampler that do not change what an evaluation finds."""


def protocol_line(config: RunConfig, device: str, seed: int) -> dict[str, Any]:
    """What an evaluation depends on besides the model: ``protocol`` for people and ``protocol_hash``.

    Of files of problems the content counts, not the place.

    Args:
        config: task, sampler, dtype and number of problems are taken from it.
        device: where the model ran.
        seed: of the sampling noise.
    """
    files = {field.removeprefix("task."): text for field, text in by_content(config).items()}
    what: dict[str, Any] = {
        "task": {k: v for k, v in {**asdict(config.task), **files}.items() if k not in LOGISTICS},
        "sampler": {k: v for k, v in asdict(config.sampler).items() if k not in LOGISTICS},
        "problems": config.trainer.evaluate_problems,
        "dtype": config.model.dtype,
        "mixed_precision": config.model.mixed_precision,
        "device": device,
        "seed": seed,
        "torch": torch.__version__,
    }
    task, sampler = what["task"], what["sampler"]
    words = [config.task.name, *(f"{key} {task[key]}" for key in SHOWN if key in task)]
    top_p = [f"top-p {sampler['top_p']:g}"] if sampler["top_p"] < 1 else []
    words += [f"T {sampler['temperature']:g}", *top_p, str(sampler["remasking"])]
    words += [f"block {sampler['block_length']}", f"steps {sampler['steps']}", config.model.dtype, device]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    return {"protocol": ", ".join(words), "protocol_hash": digest}


SHOWN = ("shots", "eval_prefill", "end_rule", "parser", "completion_length")
