"""What every training loop of this library shares: its state, its steps, and when something is due."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dipod.drift.monitor import Beta, Look, MonitorConfig, Spent, Watch, look
from dipod.guard import NotFinite, blame, largest, weights
from dipod.parallel import Processes
from dipod.tightening import Tightening

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
        loss: of the last update; None before the first.
        largest_weight: the largest magnitude among the trained parameters.
        idle: updates in a row, up to the last, with more than half of the groups idle; see `dipod.idle`.
        watch: what the monitor of drift remembers.
    """

    step: int = 0
    beta: float | None = None
    gap: float | None = None
    gap_before: float | None = None
    evaluated: int = -1
    loss: float | None = None
    largest_weight: float | None = None
    idle: int = 0
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


class Loop(ABC, Generic[Config]):
    """Training from wherever the state stands to the last step."""

    config: Config
    state: TrainState
    processes: Processes
    tightening: Tightening[Any]
    spent: Spent
    network: nn.Module
    parameters: list[Tensor]

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
            yield {"step": 0, **self._weigh(), **self.evaluate()}
        while self.state.step < self.config.steps:
            started = time.perf_counter()
            try:
                metrics = self.train_step() | self._weigh()
            except NotFinite as error:
                raise error.at(f"at step {self.state.step + 1}") from error
            self.state.loss = float(metrics["loss"])
            self.state.step += 1
            self.spent.total += time.perf_counter() - started
            if self.due(self.config.evaluate_every, self.state.step):
                metrics |= self.evaluate()
            if "monitor_gap" in metrics:
                metrics["monitor_share"] = self.spent.share
            yield {"step": self.state.step, **metrics, "seconds": time.perf_counter() - started}

    def _weigh(self) -> Metrics:
        """The largest weight, which must be finite; a look over the parameters once an update."""
        size = largest(self.parameters)
        if self.processes.sharded:
            size = self.processes.gather(size.reshape(1)).amax()
        if not bool(torch.isfinite(size)):
            raise blame(weights([self.network]))
        self.state.largest_weight = float(size)
        return {"largest_weight": float(size)}

    def look(self, config: MonitorConfig, usual_beta: float, measure: Callable[[], Look]) -> Metrics:
        """What the monitor of drift says at this update, where one is due and within its budget.

        Args:
            config: when it is due, and its budget.
            usual_beta: that of the run's settings, in force or not.
            measure: takes the look, at this update's rollouts.
        """
        state, processes = self.state, self.processes

        def agreed(affordable: bool) -> bool:
            return bool(float(processes.total(torch.tensor(float(processes.main and affordable)))))

        beta = Beta(state.beta or 0.0, usual_beta, self.tightening.settled(state.step))
        return look(config, state.watch, self.spent, state.step, beta, measure, agreed)

    def due(self, every: int, step: int) -> bool:
        """Whether something done every so many steps (0: only at the end) falls on ``step``."""
        return step == self.config.steps or (every > 0 and step % every == 0)
