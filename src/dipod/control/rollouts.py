"""Acting: from the current policy to a batch of transitions, and what is remembered of episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dipod.control.peers import ALONE, Peers
from dipod.errors import UserError
from dipod.guard import blame, first_bad, weights
from dipod.tasks.control.guard import check_observation, check_step
from dipod.tasks.control.protocol import Environment

PREFIX = "environment."
WINDOW = 100
"""Finished episodes over which returns and lengths are averaged."""


class Actor(Protocol):
    """The least that acting needs of a policy."""

    def act(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Actions [N, d] and what is kept of how they were drawn, [N, ...] each."""
        ...


@dataclass(frozen=True)
class Trajectories:
    """T steps of N environments.

    Attributes:
        observation: [T, N, o].
        action: [T, N, d], as executed.
        record: what the policy kept of the actions, [T, N, ...] each.
        reward: [T, N].
        terminated: [T, N] bool.
        truncated: [T, N] bool.
        final_observation: [T, N, o], what the actions led to.
        success: [T, N], as in `Step`; None of environments that never say.
        failed: [T, N] bool, as in `Step`; None where errors end the run.
    """

    observation: Tensor
    action: Tensor
    record: tuple[Tensor, ...]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Tensor
    success: Tensor | None = None
    failed: Tensor | None = None


class Collector:
    """Steps environments with a policy and keeps account of episodes, those of all processes.

    Attributes:
        environment: what this process acts in.
        peers: the processes, each with as many environments.
        transitions: steps taken in all environments of all processes together.
    """

    def __init__(self, environment: Environment, peers: Peers = ALONE) -> None:
        self.environment, self.peers = environment, peers
        self.transitions = 0
        self.observation: Tensor | None = None
        self._running = torch.zeros(2, environment.count, dtype=torch.float64)
        self._finished = torch.zeros(0, 2, dtype=torch.float64)
        self._told = torch.full((environment.count,), float("nan"), dtype=torch.float64)
        self._succeeded: Tensor | None = None

    @property
    def count(self) -> int:
        """Environments of all processes together."""
        return self.environment.count * self.peers.size

    def start(self, generator: torch.Generator) -> None:
        """Begin all episodes, at clocks spread over their length."""
        self.observation = self.environment.reset(generator, spread=True)
        check_observation(self.environment, self.observation)
        self._running = self._running.to(self.observation.device)
        self._finished = self._finished.to(self.observation.device)

    def collect(self, policy: Actor, steps: int, generator: torch.Generator) -> Trajectories:
        """Act for ``steps`` steps in every environment.

        Raises:
            UserError: observations or rewards that are not finite or not of the promised shape.
        """
        if self.observation is None:
            self.start(generator)
        assert self.observation is not None
        seen: list[tuple[Tensor, ...]] = []
        records: list[tuple[Tensor, ...]] = []
        successes: list[Tensor] = []
        failures: list[Tensor] = []
        for _ in range(steps):
            action, record = policy.act(self.observation, generator)
            try:
                step = self.environment.step(action, generator)
                check_step(self.environment, step)
            except UserError as error:
                if first_bad([("action", action)]) is not None:  # the policy's fault, not the environment's
                    parameters = weights([policy]) if isinstance(policy, nn.Module) else ()
                    named = [*parameters, ("observation", self.observation), ("action", action)]
                    raise blame(named) from error
                raise
            seen.append(
                (self.observation, action, step.reward, step.terminated, step.truncated, step.final_observation)
            )
            records.append(record)
            successes += [] if step.success is None else [step.success]
            failures += [] if step.failed is None else [step.failed]
            self.observation = step.observation
        self.transitions += steps * self.count
        observation, action, reward, ended, cut, final = (torch.stack(part) for part in zip(*seen, strict=True))
        record = tuple(torch.stack(part) for part in zip(*records, strict=True))
        told, failed = (torch.stack(rows) if rows else None for rows in (successes, failures))
        found = Trajectories(observation, action, record, reward, ended, cut, final, told, failed)
        self._account(found.reward, found.terminated | found.truncated, told)
        return found

    def _account(self, reward: Tensor, done: Tensor, told: Tensor | None) -> None:
        """Add up rewards [T, N] and steps of episodes, and take in those that are done [T, N], with their success."""
        sums = []
        for gained, ended in zip(reward.double(), done, strict=True):
            self._running += torch.stack([gained, torch.ones_like(gained)])
            sums.append(self._running.clone())
            self._running[:, ended] = 0
        table = torch.cat([torch.stack(sums), done[:, None].double()], 1)  # [T, 3, N]: return, length, done
        whole = self.peers.gather(table).permute(1, 0, 3, 2).flatten(0, 2)  # by step, then by environment
        if told is not None:
            self._take_in_success(told, done, whole[:, 2] > 0)
        self._finished = torch.cat([self._finished, whole[whole[:, 2] > 0, :2]])[-WINDOW:]

    def _take_in_success(self, told: Tensor, done: Tensor, ended: Tensor) -> None:
        """Whether one of an episode's steps was a success: of [T, N] steps, those where episodes end.

        Args:
            told: `Step.success` of this process's environments, [T, N].
            done: where their episodes end, [T, N].
            ended: the same of all processes, by step and then by environment.
        """
        self._told = self._told.to(told.device)
        sums = []
        for said, over in zip(told.double(), done, strict=True):
            self._told = torch.fmax(self._told, said)
            sums.append(self._told)
            self._told = self._told.masked_fill(over, math.nan)
        whole = self.peers.gather(torch.stack(sums)).transpose(0, 1).flatten()
        if self._succeeded is None and bool(whole.isnan().all()):
            return
        before = self._succeeded
        if before is None:
            before = torch.full((len(self._finished),), math.nan, dtype=torch.float64, device=whole.device)
        self._succeeded = torch.cat([before, whole[ended]])[-WINDOW:]

    def episodes(self) -> dict[str, float | int | str]:
        """``reward`` (mean return) and ``episode_length`` of the last finished episodes; nothing before any ended.

        Where environments say so, ``success`` too: the share of those episodes one of whose steps was a success.
        """
        if not len(self._finished):
            return {}
        reward, length = self._finished.mean(0).tolist()
        known = self._succeeded is not None and not bool(self._succeeded.isnan().all())
        success = {"success": float(self._succeeded.nanmean())} if self._succeeded is not None and known else {}
        return {"reward": reward, "episode_length": length, **success}

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, the same on all processes and for any number of them."""
        whole = {name: self._whole(value) for name, value in self.environment.state().items()}
        told = {}
        if self._succeeded is not None:
            told = {"told": self._whole(self._told), "succeeded": self._succeeded.clone()}
        return {
            **told,
            **{PREFIX + name: value for name, value in whole.items()},
            "running": self._whole(self._running.T).T.clone(),
            "finished": self._finished.clone(),
            "transitions": torch.tensor(self.transitions),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned, on as many environments as there were."""
        whole = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        self.observation = self.environment.load_state({name: self._own(value) for name, value in whole.items()})
        device = self.observation.device
        self._running, self._finished = self._own(state["running"].T).T.to(device), state["finished"].to(device)
        self.transitions = int(state["transitions"])
        if "succeeded" in state:
            self._told, self._succeeded = self._own(state["told"]).to(device), state["succeeded"].to(device)

    def _whole(self, rows: Tensor) -> Tensor:
        """The rows of this process's environments and of all others'."""
        return self.peers.gather_rows(rows, self.count)

    def _own(self, rows: Tensor) -> Tensor:
        """Of the rows of all environments, those of this process's."""
        return rows[self.peers.share(len(rows))]
