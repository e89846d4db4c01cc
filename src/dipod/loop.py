"""What every training loop of this library shares: its state, its steps, and when something is due."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch

from dipod.drift import Alignment, Gap
from dipod.drift.monitor import MonitorConfig, Spent, Watch, warning
from dipod.parallel import Processes

Metrics = dict[str, float | int | str]
"""One line of ``metrics.jsonl``."""


@dataclass
class TrainState:
    """Everything that a resumed run needs besides parameters and optimisers; the only mutable thing in the loop.

    All noise is keyed by the seed and the step, so there is no generator to keep.

    Attributes:
        step: updates done (batches of rollouts, not gradient steps).
        beta: β of the last update; None before the first.
        gap: the last gap measured for the tightening's sake, in nats; None before that.
        gap_before: the one measured before that.
        evaluated: the last step whose policy was evaluated; -1 before the first.
        watch: what the monitor of drift remembers.
    """

    step: int = 0
    beta: float | None = None
    gap: float | None = None
    gap_before: float | None = None
    evaluated: int = -1
    watch: Watch = field(default_factory=Watch)


class LoopConfig(Protocol):
    """What a loop reads of a trainer's settings."""

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        ...

    @property
    def evaluate_every(self) -> int:
        """Updates between two evaluations; 0 for the ends only."""
        ...


Config = TypeVar("Config", bound=LoopConfig)


Look = tuple[Gap | None, Alignment | None]
"""What the monitor measures, where it can be had."""


class Loop(ABC, Generic[Config]):
    """Training from wherever the state stands to the last step."""

    config: Config
    state: TrainState
    processes: Processes
    spent: Spent

    @abstractmethod
    def train_step(self) -> Metrics:
        """One update on fresh rollouts."""

    @abstractmethod
    def evaluate(self) -> Metrics:
        """Measure the policy as it is."""

    def begin(self) -> None:
        """What comes before the first evaluation of a new run: nothing."""
        return

    def run(self) -> Iterator[Metrics]:
        """Train from the current state to the last step, yielding one object of metrics a step (step 0: untrained)."""
        if self.state.evaluated < 0:
            self.begin()
            yield {"step": 0, **self.evaluate()}
        while self.state.step < self.config.steps:
            started = time.perf_counter()
            metrics = self.train_step()
            self.state.step += 1
            self.spent.total += time.perf_counter() - started
            if self.due(self.config.evaluate_every, self.state.step):
                metrics |= self.evaluate()
            if "monitor_gap" in metrics:
                metrics["monitor_share"] = self.spent.share
            yield {"step": self.state.step, **metrics, "seconds": time.perf_counter() - started}

    def look(self, config: MonitorConfig, usual_beta: float, measure: Callable[[], Look]) -> Metrics:
        """What the monitor of drift says at this update, where one is due and within its budget.

        Args:
            config: when it is due, and its budget.
            usual_beta: the β that a warning recommends where there is none.
            measure: the gap, and the alignment where there is one, of this update's rollouts.
        """
        state, processes = self.state, self.processes
        if not config.every or state.step % config.every:
            return {}
        affordable = processes.main and self.spent.affordable(config.budget)
        if not float(processes.total(torch.tensor(float(affordable)))):  # the clock of the first process decides
            return {}
        started = time.perf_counter()
        gap, alignment = measure()
        if gap is None:
            return {}
        state.watch.note(gap.gap, state.step)
        found: Metrics = {"monitor_gap": gap.gap, "monitor_gap_kind": gap.kind, "monitor_gap_error": gap.error}
        if gap.kind == "bracket" and gap.high is not None:
            found |= {"monitor_gap_low": gap.low, "monitor_gap_high": gap.high}
        cosine = math.nan
        if alignment is not None:
            cosine = alignment.cosine
            found["monitor_cosine"] = cosine
            if not math.isnan(alignment.drift_share):
                found["monitor_drift_share"] = alignment.drift_share
        said = warning(state.watch, gap.gap, cosine, state.beta or 0.0, usual_beta)
        self.spent.seconds += time.perf_counter() - started
        self.spent.looks += 1
        return found | ({"warning": said} if said else {})

    def due(self, every: int, step: int) -> bool:
        """Whether something done every so many steps (0: only at the end) falls on ``step``."""
        return step == self.config.steps or (every > 0 and step % every == 0)
