"""Groups with equal rewards: counted, warned about, and on request replaced, whoever computes and however often."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dipod import runs
from dipod.idle import UPDATES, idle, warning
from dipod.noise import derive
from dipod.parallel import Processes, start
from dipod.recipes import build_policy, build_task, build_trainer
from dipod.rollouts import Rollouts
from dipod.runs import Silent
from dipod.stopping import Interrupted
from dipod.tasks.sudoku import SudokuTask
from dipod.tasks.text.questions import Questions
from dipod.trainer import Trainer
from tests.test_trainer import StopAfter, final_files, tiny, without_seconds

SIZE = 2


def build(rounds: int, processes: Processes | None = None) -> Trainer:
    sizes: dict[str, object] = {"trainer__prompts": 9, "trainer__group_size": SIZE, "monitor__every": 0}
    config = tiny(**sizes, trainer__resample_idle=rounds)
    task = build_task(config)
    return build_trainer(config, build_policy(config, task), task, processes)


def collected(trainer: Trainer) -> tuple[Rollouts, int]:
    drawn, again = trainer._resample(trainer._draw(derive(trainer.seed, "rollout")))
    return trainer._rollouts(drawn), again


def test_a_group_is_idle_where_all_rewards_are_one() -> None:
    assert idle(torch.tensor([1.0, 1.0, 0.5, 1.0, 0.0, 0.0]), 2).tolist() == [True, False, True]


def test_without_the_setting_a_batch_is_what_it_was() -> None:
    trainer = build(0)
    rollouts, again = collected(trainer)
    plain = trainer.collect("rollout")
    assert again == 0
    assert torch.equal(rollouts.action.ids, plain.action.ids)
    assert torch.equal(rollouts.advantage, plain.advantage)
    assert "resampled_groups" not in trainer.train_step()


def test_idle_groups_are_replaced_by_fresh_ones_and_the_others_stay() -> None:
    plain, _ = collected(build(0))
    stay = ~idle(plain.reward, SIZE)
    assert 0 < int(stay.sum()) < 9, "some of each"
    one, replaced = collected(build(1))
    assert replaced == int((~stay).sum())
    rows, still = stay.repeat_interleave(SIZE), ~idle(one.reward, SIZE)
    for name in ("reward", "advantage", "counted", "order"):
        assert torch.equal(getattr(one, name)[rows], getattr(plain, name)[rows])
    assert torch.equal(one.observation.ids[rows], plain.observation.ids[rows])
    prompts = one.observation.ids.view(9, SIZE, -1)
    assert (prompts[:, :1] == prompts).all(), "a group has one prompt"
    assert (prompts[~stay, 0] != plain.observation.ids.view(9, SIZE, -1)[~stay, 0]).any(-1).all(), "another one"
    assert bool((still | ~stay).all())
    more, replaced = collected(build(50))
    assert bool((~idle(more.reward, SIZE)).all()), "rounds end when no group is idle"
    assert replaced > int((~stay).sum())
    assert bool((more.advantage != 0).all())
    trainer = build(50)
    metrics = trainer.train_step()
    assert metrics["resampled_groups"] == replaced
    assert metrics["idle_groups"] == 0
    assert metrics["reward"] == float(plain.reward.double().mean()), "what the policy earns, before any choice"
    assert float(metrics["forward_rows"]) > float(build(0).train_step()["forward_rows"])


@dataclass
class Table:
    """Where two threads meet that play two processes."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    parts: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Paired(Processes):
    """One of two processes, each a thread."""

    place: int
    table: Table

    @property
    def count(self) -> int:
        return 2

    @property
    def rank(self) -> int:
        return self.place

    def gather(self, rows: Tensor) -> Tensor:
        self.table.parts[self.place] = rows
        self.table.barrier.wait(60)
        both = torch.cat([self.table.parts[0], self.table.parts[1]])
        self.table.barrier.wait(60)
        return both


def test_two_processes_replace_what_one_replaces() -> None:
    """Nine groups of two on two processes: the fifth is split between them; one may have nothing to replace."""
    whole, replaced = collected(build(3))
    table, found, accelerator = Table(), {}, start().accelerator
    trainers = [build(3, Paired(accelerator, place, table)) for place in range(2)]

    def work(place: int) -> Callable[[], None]:
        return lambda: found.update({place: collected(trainers[place])})

    threads = [threading.Thread(target=work(place)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [again for _, again in found.values()] == [replaced] * 2
    for name in ("reward", "advantage", "order", "example"):
        both = torch.cat([getattr(found[place][0], name) for place in range(2)])
        assert torch.equal(both, getattr(whole, name)), name
    both = torch.cat([found[place][0].action.ids for place in range(2)])
    assert torch.equal(both, whole.action.ids)


def test_a_resumed_run_replaces_the_same(tmp_path: Path) -> None:
    config = tiny(trainer__group_size=SIZE, trainer__resample_idle=2, trainer__steps=4, trainer__evaluate_every=0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        runs.create(folder, config)
    runs.train(whole, Silent())
    with pytest.raises(Interrupted):
        runs.train(parts, StopAfter("trained", 1))
    runs.train(parts, Silent())
    assert final_files(parts) == final_files(whole)
    rows = [without_seconds(runs.read_metrics(folder)) for folder in (parts, whole)]
    assert rows[0] == rows[1]
    assert sum(row.get("resampled_groups", 0) for row in rows[0]) > 0


def test_problems_of_text_are_exchanged_row_by_row() -> None:
    mine = Questions(tuple({"question": str(i)} for i in range(4)), tuple((i,) for i in range(4)), (0, 0, 1, 1))
    others = Questions(({"question": "a"}, {"question": "b"}), ((8,), (9,)), (1, 0))
    both = mine.exchange([2, 0], others)
    assert [row["question"] for row in both.rows] == ["b", "1", "a", "3"]
    assert both.prompts == ((9,), (1,), (8,), (3,))
    assert both.parts == (0, 0, 1, 1)
    assert mine.exchange([], others.pick([])) == mine


def test_mostly_idle_batches_are_warned_about_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [updates for updates in range(1, 200) if warning(updates, 0.0)]
    assert said == [UPDATES, 2 * UPDATES, 4 * UPDATES, 8 * UPDATES]
    monkeypatch.setattr(SudokuTask, "reward", lambda self, problems, ids: torch.full((len(ids),), 0.25))  # noqa: ARG005
    trainer = build(2)
    trainer.state.idle = UPDATES - 1
    metrics = trainer.train_step()
    assert metrics["idle_groups"] == 1
    assert metrics["resampled_groups"] == 18, "every round replaces all"
    assert str(metrics["idle_warning"]).startswith(f"for {UPDATES} updates more than half of the groups have had equal")
    assert "(mean 0.25)" in str(metrics["idle_warning"])
    monkeypatch.undo()
    assert "idle_warning" not in build(50).train_step()
