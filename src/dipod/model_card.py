"""The model card: what a model is, how it came about, what was measured and what was not."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from dipod import __version__
from dipod.config import RunConfig
from dipod.protocol import LOGISTICS
from dipod.recipes import language, load, names, overlay, parse_algorithm
from dipod.recipes.paths import without_folders
from dipod.tasks.text.rows import CUSTOM, TASKS

MEASURED = {
    "solved_sampled": "solved, sampling (share)",
    "solved_greedy": "solved, greedy decoding (share)",
    "reward_sampled": "reward, sampling (mean)",
    "reward_greedy": "reward, greedy decoding (mean)",
    "elbo": "ELBO of sampled answers (nats)",
    "gap": "gap log π - ELBO of sampled answers (nats)",
    "cosine": "cosine of proxy gradient and policy gradient",
    "reward": "reward of training rollouts (mean)",
}
"""Metrics of a run that say something about the model, in words."""

NEVER = (
    "other seeds than this one",
    "other tasks, and what the model does with prompts that are not of its task",
    "safety, bias, and what the base model's authors say of its limits",
)

CITATION = """@article{jiang2026dipod,
  title = {Diffusion Policy Optimization without Drifting Apart},
  author = {Jiang, Haozhe and Feng, Haiwen and Abbeel, Pieter and Jiao, Jiantao and Kanazawa, Angjoo and
            Haghtalab, Nika},
  journal = {arXiv preprint arXiv:2606.13795},
  year = {2026}
}"""


What = Literal["merged", "adapters", "whole"]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        what: "merged" (adapters added into the base), "adapters" alone, or "whole" (a run without adapters).
        step: updates done.
        name: of the run.
    """

    what: What
    step: int
    name: str


def model_card(exported: Exported, config: RunConfig, metrics: Sequence[dict[str, Any]]) -> str:
    """README.md of an exported model: Markdown with YAML front matter, as the hub reads it.

    Args:
        exported: what it is about.
        config: the run's settings.
        metrics: the run's metrics, one object a step; those after the exported step are left out.
    """
    rows = [row for row in metrics if row["step"] <= exported.step]
    last = {key: row for row in rows for key in MEASURED if key in row}
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(config), sort_keys=False)}---",
        f"# {exported.name}",
        f"A masked diffusion policy trained by reinforcement learning on {config.task.name} with "
        f"[dipod](https://arxiv.org/abs/2606.13795) {__version__}.",
        _table(("", ""), _facts(exported, config)),
        f"## Measured\n\n{_measured(last, config)}",
        "## Not measured\n\n" + "\n".join(f"- {line}" for line in _missing(last, exported, config)),
        f"## Use\n\n{_use(exported, config)}",
        f"<details>\n<summary>Settings</summary>\n\n```yaml\n{_settings(config)}```\n\n</details>",
        f"## Citation\n\n```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: RunConfig) -> dict[str, Any]:
    estimator, _, tightening = config.algorithm.partition("+")
    tags = ["dipod", "reinforcement-learning", "masked-diffusion", estimator, tightening, config.task.name]
    base = {"base_model": config.model.path} if _on_hub(config) else {}
    return {"library_name": "dipod", **base, "tags": list(dict.fromkeys(tag for tag in tags if tag))}


def _on_hub(config: RunConfig) -> bool:
    from dipod.policies.hub import HUB_NAME

    path = config.model.path
    return bool(HUB_NAME.fullmatch(path)) and not Path(path).exists()


def _base(config: RunConfig) -> str:
    if _on_hub(config):
        return config.model.path + (f", revision {config.model.revision}" if config.model.revision else "")
    if config.model.path or config.base:
        return f"a folder named {Path(config.model.path or config.base).name}"
    return f"a small transformer that the recipe pre-trained for {config.pretrain.steps} steps"


def _dtype(config: RunConfig) -> str:
    """Of the weights; small models of a recipe's own are float32 whatever the settings say."""
    return config.model.dtype if config.model.path else "float32"


def _facts(exported: Exported, config: RunConfig) -> list[tuple[str, str]]:
    row, _ = parse_algorithm(config.algorithm, config)
    suffix = config.algorithm.partition("+")[2]
    every = config.interleave.every
    ramp = f", from 0 over the first {config.beta_ramp} updates" if config.beta_ramp else ""
    tightenings = {
        "": "none",
        "dipod": f"β∇ELBO in every update (DiPOD, Algorithm 2), β = {config.beta:g}{ramp}",
        "interleave": f"self-distillation every {every} updates (DiPOD, Algorithm 1)",
    }
    dtype, rank, alpha = _dtype(config), config.model.lora_rank, config.model.lora_alpha
    weights = {
        "merged": f"LoRA adapters (rank {rank}, alpha {alpha:g}) added into the base, {dtype}",
        "adapters": f"LoRA adapters alone (rank {rank}, alpha {alpha:g})",
        "whole": f"every weight was trained, {dtype}",
    }
    if config.model.adapter:
        start = without_folders("model.adapter", config.model.adapter)
        weights |= {
            "merged": f"LoRA adapters that started from {start}, added into the base, {dtype}",
            "adapters": f"LoRA adapters alone, which started from {start}",
        }
    return [
        ("base model", _base(config)),
        ("weights", weights[exported.what]),
        ("recipe", Path(config.recipe).stem),
        ("algorithm", f"{config.algorithm} ({row.paper}), preset {config.preset}"),
        ("tightening", tightenings.get(suffix, suffix)),
        ("seed", str(config.seed)),
        ("updates", f"{exported.step} of {config.trainer.steps}"),
        ("rollouts in an update", f"{config.trainer.prompts} prompts, {config.trainer.group_size} each"),
    ]


def _measured(last: dict[str, dict[str, Any]], config: RunConfig) -> str:
    if not last:
        return "Nothing."
    rows = []
    for key, words in MEASURED.items():
        if key in last:
            row = last[key]
            kind = f", {str(row['gap_kind']).replace('_', ' ')}" if key == "gap" else ""
            rows.append((words + kind, f"{row[key]:.4f}", str(row["step"])))
    problems = config.trainer.evaluate_problems
    return (
        f"During training, on up to {problems} held-out problems (rewards of rollouts and cosines: on an update's "
        f"rollouts), decoded as the settings below say.\n\n{_table(('metric', 'value', 'after update'), rows)}"
    )


def _missing(last: dict[str, dict[str, Any]], exported: Exported, config: RunConfig) -> list[str]:
    lines = [words for key, words in MEASURED.items() if key not in last]
    if "gap" in last and last["gap"]["gap_kind"] != "exact":
        lines.append("the exact gap: the number above bounds it from below")
    measured = max((int(row["step"]) for row in last.values()), default=0)
    if measured < exported.step:
        lines.append(f"anything after update {measured}")
    if exported.what == "merged":
        dtype = _dtype(config)
        rounding = "" if dtype == "float32" else f", which rounded every adapted weight to {dtype}"
        lines.append(f"the model after merging{rounding}; the numbers above are of base and adapters")
    return [*lines, *NEVER]


def _use(exported: Exported, config: RunConfig) -> str:
    read = "from dipod.policies.pretrained import load_pretrained"
    if exported.what == "adapters":
        base = config.model.path if _on_hub(config) else Path(config.model.path).name
        adapter = "from dipod.policies.lora import load_adapter"
        code = f'{adapter}\n{read}\n\nnetwork = load_adapter(load_pretrained("{base}"), ".")  # this folder'
        return f"```python\n{code}\n```"
    code = f'{read}\n\nnetwork = load_pretrained(".")  # this folder, or its name on the hub'
    python, flags = f"```python\n{code}\n```", _flags(config)
    if flags is None:
        return python
    command = " \\\n    ".join(["dipod eval .", *flags])
    return (
        f"{python}\n\n```sh\n{command}\n```\n\n"
        "With these flags it decodes as the run did; what no flag says, `dipod eval` takes from a recipe."
    )


def _flags(config: RunConfig) -> list[str] | None:
    """What `dipod eval` is to be told of the run's settings; None where it has no recipe to start from."""
    task = config.task.name if config.model.path else Path(config.recipe).stem
    if task not in ((*TASKS, CUSTOM) if config.model.path else names()):
        return None
    usual = overlay(load("llada"), {"task.name": task}) if config.model.path else load(task)
    own, default = asdict(config), asdict(language(usual))
    fields = [("task", name) for name in own["task"]] + [("sampler", name) for name in own["sampler"]]
    fields += [("trainer", name) for name in ("evaluate_problems", "gap_problems", "gap_paths", "exact_tokens")]
    fields += [("model", "dtype")] if config.model.path else []
    return [f"--task {task}"] + [
        f"--{group}.{name} {shlex.quote(_spelled(f'{group}.{name}', own[group][name]))}"
        for group, name in fields
        if name not in (*LOGISTICS, "name") and own[group][name] != default[group].get(name)
    ]


def _spelled(field: str, value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, tuple):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(without_folders(field, value))


def _settings(config: RunConfig) -> str:
    """The settings as YAML; of absolute paths only the last part, as the rest is nobody's business."""
    tree = asdict(config)
    bare = {
        key: {k: without_folders(f"{key}.{k}", v) for k, v in value.items()}
        if isinstance(value, dict)
        else without_folders(key, value)
        for key, value in tree.items()
    }
    return yaml.safe_dump(bare, sort_keys=False)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)
