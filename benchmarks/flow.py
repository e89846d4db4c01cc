"""A flow policy's training at the size of motion tracking: rollout, update, self-distillation, against the plain way.

    python benchmarks/flow.py [--threads 1 2] [--repeats 5]

256 environments of pre-drawn observations (160 numbers), 29 actions, actor and critic of three layers of 256, 64
sampling steps, 8 noise samples an action, rollouts of 24 steps, 4 epochs of 4 mini-batches, FPO++ as published for
tracking; distillation as published: 8 steps of all environments and one gradient step on 2048 actions.

The plain way evaluates the velocity as the released trainers do, one matrix over observation, time and noised action
for every noise sample and sampling step, without anything shared, and it samples actions for a diagnosis in
distillation. All else in the loop is the same code, so what is compared is that alone. From one state both do the same
iteration, which must agree to 1e-5. They are timed in turns, seconds and seconds of processor time, which other
processes disturb less. The result goes to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import RESULTS, provenance, spread
from torch import Tensor

from dipod.control.algorithms import ControlObjective, table
from dipod.control.config import ControlOptimiserConfig, ControlTrainerConfig, SelfDistillationConfig
from dipod.control.distillation import self_distil
from dipod.control.rollouts import Collector, Trajectories
from dipod.control.update import Learner, Transitions
from dipod.files import write_json
from dipod.likelihood.flow import TimesConfig, Velocity
from dipod.noise import keyed_generator
from dipod.policies.flow import FlowPolicy, FlowSettings
from dipod.policies.mlp import Perceptron
from dipod.policies.velocity import VelocityNetwork
from dipod.tasks.control import Drawing, Step

OBJECTIVE = ControlObjective(clip=0.01, reduction="mean", log_ratio_limit=3.0, entropy=1e-5, entropy_neighbour=5)
OPTIMISER = ControlOptimiserConfig(learning_rate=1e-4, target_change=1e-4, beta2=0.95, weight_decay=1e-4)
POOL, ENDED = 16, 0.01
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Size:
    """Of everything that is measured."""

    environments: int = 256
    observation: int = 160
    action: int = 29
    hidden: tuple[int, ...] = (256, 256, 256)
    sampling_steps: int = 64
    samples: int = 8
    horizon: int = 24
    epochs: int = 4
    mini_batches: int = 4
    distillation_batch: int = 2048


SIZES = {"w": Size(), "tiny": Size(6, 5, 3, (8, 8), 3, 6, 4, 2, 2, 16)}


class Pool:
    """Environments that show observations drawn beforehand, whatever is done; see `Environment`."""

    name, max_episode_length = "pool", 1000

    def __init__(self, size: Size) -> None:
        generator = keyed_generator(0, "pool")
        self.count, self.observation_size, self.action_size = size.environments, size.observation, size.action
        self.shown = torch.randn(POOL, self.count, size.observation, generator=generator)
        self.reward = torch.rand(POOL, self.count, generator=generator)
        self.ended = torch.rand(POOL, self.count, generator=generator) < ENDED
        self.clock = 0

    def reset(self, generator: torch.Generator, spread: bool = False) -> Tensor:
        """From the first of the pool."""
        del generator, spread
        self.clock = 0
        return self.shown[0]

    def step(self, action: Tensor, generator: torch.Generator) -> Step:
        """The next of the pool."""
        del action, generator
        self.clock = (self.clock + 1) % POOL
        seen, ended = self.shown[self.clock], self.ended[self.clock]
        return Step(seen, self.reward[self.clock], ended, torch.zeros_like(ended), seen)

    def state(self) -> dict[str, Tensor]:
        """The place in the pool."""
        return {"clock": torch.tensor(self.clock)}

    def load_state(self, state: Mapping[str, Tensor]) -> Tensor:
        """Put back what `state` returned."""
        self.clock = int(state["clock"])
        return self.shown[self.clock]

    def view(self, index: int) -> Drawing:
        """Nothing."""
        del index
        return Drawing((0, 1, 0, 1))


class PlainPolicy(FlowPolicy):
    """The same policy with nothing shared: one matrix over observation, embedded time and noised action, every time."""

    def velocity(self, observation: Tensor) -> Velocity:
        """The velocity of B observations, repeated for every noise sample."""
        normalised = self.normaliser(observation)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self._plain(normalised[:, None].expand(-1, x.shape[1], -1), x, t)

        return velocity

    @torch.no_grad()
    def sample(self, observation: Tensor, noise: Tensor) -> Tensor:
        """The Euler sampler, step by step."""
        x, steps = noise, self.settings.sampling_steps
        normalised, grid = self.normaliser(observation), torch.linspace(1, 0, steps + 1)
        for i in range(steps):
            x = x + self._plain(normalised, x, grid[i].expand(len(x))) * (grid[i + 1] - grid[i])
        return x

    def _plain(self, observation: Tensor, x: Tensor, t: Tensor) -> Tensor:
        hidden = torch.cat([observation, self.network.embed(t), x], -1)
        for layer in self.network.layers[:-1]:
            hidden = F.elu(layer(hidden))
        out: Tensor = self.network.layers[-1](hidden)
        return out


class Bench:
    """One way of doing the work, with a policy, a critic and environments of its own; the same ones for every way."""

    def __init__(self, size: Size, plain: bool) -> None:
        generator = keyed_generator(0, "networks")
        network = VelocityNetwork(size.observation, size.action, size.hidden, generator=generator)
        settings = FlowSettings(size.sampling_steps, times=TimesConfig(size.samples))
        self.policy = (PlainPolicy if plain else FlowPolicy)(network, settings)
        critic = Perceptron(size.observation, 1, size.hidden, generator=generator)
        trainer = ControlTrainerConfig(
            environments=size.environments, horizon=size.horizon, epochs=size.epochs, mini_batches=size.mini_batches
        )
        self.size, self.plain = size, plain
        self.learner = Learner(self.policy, critic, table(OBJECTIVE)["fpopp"], trainer, OBJECTIVE, OPTIMISER)
        self.collector = Collector(Pool(size))
        self.rounds = 0

    def collect(self) -> Trajectories:
        """Acting."""
        self.rounds += 1
        return self.collector.collect(self.policy, self.size.horizon, keyed_generator(self.rounds, "rollout"))

    def rollout(self) -> Transitions:
        """Acting, values, advantages and old proxies."""
        return self.learner.prepare(self.collect())

    def update(self, batch: Transitions) -> dict[str, float]:
        """All gradient steps; what they measured."""
        found = self.learner.descend(batch, 0.0, keyed_generator(self.rounds, "update"))
        self.policy.normaliser.update(batch.observation)
        return {name: float(value) for name, value in found.items()}

    def distil(self, diagnosed: bool) -> float:
        """One round of self-distillation, and the diagnosis's sampling; the loss."""
        config = SelfDistillationConfig(1, batch=self.size.distillation_batch, learning_rate=3e-4)
        found = self_distil(deepcopy(self.policy), self.collector, config, 0.005, seed=self.rounds)
        if diagnosed:
            generator = keyed_generator(self.rounds, "diagnosis")
            rows = torch.randint(self.size.environments, (self.size.distillation_batch,), generator=generator)
            self.policy.act(self.collector.environment.load_state({"clock": torch.tensor(0)})[rows], generator)
        return found[0].loss


def agree(size: Size) -> dict[str, float]:
    """Largest differences between both ways in one iteration and one round of distillation from the same state.

    Raises:
        AssertionError: they are above the tolerance.
    """
    ours, plain = Bench(size, plain=False), Bench(size, plain=True)
    both = (ours, plain)
    seen, mine = plain.collect(), ours.collect()
    noise = torch.randn(size.environments, size.action, generator=keyed_generator(1))
    sampled = [bench.policy.sample(seen.observation[0], noise) for bench in both]
    batches = [bench.learner.prepare(seen) for bench in both]
    measured = [bench.update(batch) for bench, batch in zip(both, batches, strict=True)]
    parameters = [torch.cat([p.detach().flatten() for p in bench.learner.parameters]) for bench in both]
    distilled = [Bench(size, way).distil(False) for way in (False, True)]
    found = {
        "sampled_actions": _apart(*sampled),
        "rollout_actions": _apart(mine.action, seen.action),
        "old_proxies": _apart(batches[0].old, batches[1].old),
        **{name: abs(measured[0][name] - measured[1][name]) for name in ("cfm_loss", "value_loss", "grad_norm")},
        "distillation_loss": abs(distilled[0] - distilled[1]),
        "parameters_after_the_update": _apart(*parameters),
    }
    wrong = {name: value for name, value in found.items() if value > TOLERANCE and not name.startswith("parameters")}
    assert not wrong, wrong
    return found


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def clocked(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, seconds, seconds of processor time)."""
    begin, used = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - begin, time.process_time() - used


def measure(size: Size, threads: int, repeats: int) -> dict[str, Any]:
    """Both ways in turns, after one round of each that does not count."""
    torch.set_num_threads(threads)
    ways = {"plain": Bench(size, plain=True), "ours": Bench(size, plain=False)}
    times: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    load = os.getloadavg()[0]
    for i in range(repeats + 1):
        for name, bench in ways.items():
            batch, *rollout = clocked(bench.rollout)
            _, *update = clocked(partial(bench.update, batch))
            _, *distillation = clocked(partial(bench.distil, False))
            released = clocked(partial(bench.distil, True))[1:] if bench.plain else distillation
            parts = {
                "rollout": rollout,
                "update": update,
                "iteration": [a + b for a, b in zip(rollout, update, strict=True)],
            }
            parts |= {"distillation": distillation, "distillation_as_released": list(released)}
            for part, (seconds, used) in parts.items():
                if i:
                    times[name].setdefault(part, []).append(seconds)
                    times[name].setdefault(f"{part}_cpu", []).append(used)
    found = {name: {part: spread(values) for part, values in parts.items()} for name, parts in times.items()}
    ratio = {part: found["plain"][part]["median"] / found["ours"][part]["median"] for part in found["ours"]}
    return {"threads": threads, "load_average": [load, os.getloadavg()[0]], "seconds": found, "ratio": ratio}


def main() -> None:
    """Compare, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="w", choices=SIZES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file; one in benchmarks/results if not given")
    options = parser.parse_args()
    size, path = SIZES[options.size], options.out or RESULTS / f"flow-{options.size}-cpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = provenance("flow.py", "cpu") | {"size": asdict(size), "results": []}
    report |= {"tolerance": TOLERANCE, "largest_difference": agree(size)}
    print(json.dumps(report["largest_difference"]), flush=True)
    for threads in options.threads:
        report["results"].append(measure(size, threads, options.repeats))
        print(json.dumps({"threads": threads, "ratio": report["results"][-1]["ratio"]}), flush=True)
        write_json(path, report)


if __name__ == "__main__":
    main()
