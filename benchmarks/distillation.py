"""Self-distillation of random flow policies in two dimensions: gap, log-density and flow-matching loss, step by step.

    python benchmarks/distillation.py

A random network's own actions are not what its bound is tight for. Maximising the bound on them, by the ELBO or by the
flat loss, closes the gap; the policy's own log-density should not move. Writes the numbers beside the other results
and the figure to ``docs/flow-gap.png``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, provenance
from matplotlib.figure import Figure

from dipod.control.config import SelfDistillationConfig
from dipod.control.distillation import distillation_losses, distillation_times
from dipod.control.evaluation import measure_gap
from dipod.files import make_folder, write_json
from dipod.likelihood.flow import TimesConfig, draw_noise
from dipod.noise import keyed_generator
from dipod.policies.flow import FlowPolicy, FlowSettings, make_flow
from dipod.report.figures import dress, sheet

OBSERVATIONS, CUTOFF, BATCH, SAMPLES = 4, 0.005, 512, 16
FIGURE = Path(__file__).parents[1] / "docs" / "flow-gap.png"


def random_policy(seed: int) -> FlowPolicy:
    """K = 64 Euler steps of a network whose output is large enough to be far from any action distribution's own."""
    settings = FlowSettings(sampling_steps=64, perturbation=0.0, times=TimesConfig(SAMPLES))
    return make_flow(OBSERVATIONS, 2, (64, 64), settings, keyed_generator(seed, "policy"), output_scale=4.0)


def measured(policy: FlowPolicy, seed: int, actions: int) -> dict[str, float]:
    """The exact gap on own actions, and their flat flow-matching loss."""
    generator = keyed_generator(seed, "measured")
    observation = torch.randn(actions, OBSERVATIONS, generator=generator)
    found = measure_gap(policy, observation, CUTOFF, seed)
    action, record = policy.act(observation, generator)
    with torch.no_grad():
        flat = float(policy.evidence(observation, action, record).loss("mean").mean())
    return {**{key: float(found[key]) for key in ("log_prob", "elbo", "gap", "gap_error")}, "cfm_loss": flat}


def study(loss: Any, seed: int, steps: int, every: int, actions: int) -> list[dict[str, float]]:
    """One policy distilled on its own fresh actions."""
    policy, teacher = random_policy(seed), random_policy(seed)
    stage = SelfDistillationConfig(iterations=steps, samples=SAMPLES, loss=loss, learning_rate=2e-3, decay_from=0.5)
    optimiser = torch.optim.AdamW(policy.network.parameters(), weight_decay=stage.weight_decay)
    times = distillation_times(stage, policy.settings.times, CUTOFF)
    rows = [{"step": 0, **measured(policy, seed, actions)}]
    for step in range(1, steps + 1):
        generator = keyed_generator(seed, "step", step)
        observation = torch.randn(BATCH, OBSERVATIONS, generator=generator)
        action, _ = teacher.act(observation, generator)
        for group in optimiser.param_groups:
            group["lr"] = stage.rate(step - 1)
        optimiser.zero_grad()
        noise = draw_noise(BATCH, policy.action_size, times, generator)
        distillation_losses(policy, observation, action, noise, loss, CUTOFF).mean().backward()
        torch.nn.utils.clip_grad_norm_(policy.network.parameters(), 1.0)
        optimiser.step()
        if step % every == 0:
            rows.append({"step": step, **measured(policy, seed, actions)})
    return rows


def draw(results: dict[str, list[list[dict[str, float]]]]) -> Figure:
    """Gap, log-density and flat loss against steps: a line a seed."""
    panels = {"gap": ("Gap", "nats"), "log_prob": ("E log π", "nats"), "cfm_loss": ("Flat flow-matching loss", "")}
    figure, places = sheet(len(panels))
    for axes, (key, words) in zip(places, panels.items(), strict=True):
        dress(axes, *words)
        axes.set_xlabel("step of self-distillation", fontsize=9)
        for colour, (loss, runs) in zip(("#0369a1", "#c2410c"), results.items(), strict=True):
            for j, rows in enumerate(runs):
                label = f"{loss} loss" if j == 0 else None
                axes.plot([r["step"] for r in rows], [r[key] for r in rows], color=colour, linewidth=1.2, label=label)
        if key == "gap":
            axes.set_yscale("log")
            axes.legend(fontsize=8, frameon=False)
    return figure


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="policies (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--actions", type=int, default=1000, metavar="N", help="measured on (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "distillation-cpu.json", metavar="FILE")
    parser.add_argument("--figure", type=Path, default=FIGURE, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    origin = provenance("distillation.py", "cpu")
    every = max(arguments.steps // 10, 1)
    results = {
        loss: [study(loss, seed, arguments.steps, every, arguments.actions) for seed in range(arguments.seeds)]
        for loss in ("flat", "elbo")
    }
    for loss, runs in results.items():
        for seed, rows in enumerate(runs):
            ends = {key: [round(rows[i][key], 3) for i in (0, -1)] for key in ("gap", "log_prob", "cfm_loss")}
            print(f"{loss} loss, seed {seed}: {json.dumps(ends)}")
    make_folder(arguments.out.parent)
    write_json(arguments.out, {**origin, "cutoff": CUTOFF, "results": results})
    draw(results).savefig(arguments.figure, dpi=150)


if __name__ == "__main__":
    main()
