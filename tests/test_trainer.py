"""The loop: resumed equals uninterrupted bit for bit, and each tightening does what it says."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dipod import runs
from dipod.checkpoints import latest_checkpoint
from dipod.config import RunConfig
from dipod.errors import RewardFailed, UserError
from dipod.files import host
from dipod.loop import Metrics
from dipod.parallel import Processes, start
from dipod.recipes import build_policy, build_task, build_trainer, language, load, overlay
from dipod.runs import Silent
from dipod.stopping import Interrupted
from dipod.trainer import Trainer
from tests.test_files import dead

TINY: dict[str, object] = {
    "threads": 1,
    "model.width": 16,
    "model.layers": 2,
    "model.heads": 2,
    "pretrain.steps": 6,
    "pretrain.batch": 16,
    "trainer.steps": 6,
    "trainer.prompts": 3,
    "trainer.group_size": 4,
    "trainer.evaluate_every": 3,
    "trainer.evaluate_problems": 8,
    "trainer.gap_problems": 4,
    "trainer.cosine_rollouts": 4,
    "trainer.save_every": 2,
    "task.blanks": "4-5",
}


def tiny(**changes: object) -> RunConfig:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return language(overlay(load("sudoku"), {**TINY, **given}))


def build(**changes: object) -> Trainer:
    config = tiny(**changes)
    task = build_task(config)
    return build_trainer(config, build_policy(config, task), task)


class StopAfter:
    """A listener that sends a signal once a phase has reached a step."""

    def __init__(self, phase: str, step: int, number: int = signal.SIGINT) -> None:
        self.phase, self.step, self.number = phase, step, number

    def pretrained(self, step: int, steps: int, elbo: float) -> None:
        del steps, elbo
        self._check("pretrained", step)

    def trained(self, metrics: Metrics, steps: int) -> None:
        del steps
        self._check("trained", int(metrics["step"]))

    def _check(self, phase: str, step: int) -> None:
        if (phase, step) == (self.phase, self.step):
            os.kill(os.getpid(), self.number)


class Twice(StopAfter):
    """Ctrl-C, and again at once."""

    def _check(self, phase: str, step: int) -> None:
        super()._check(phase, step)
        super()._check(phase, step)


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(("seconds", "monitor_share"))} for row in rows
    ]


def final_files(folder: Path) -> Mapping[str, bytes]:
    last = latest_checkpoint(folder / runs.CHECKPOINTS)
    assert last is not None
    return {path.name: path.read_bytes() for path in sorted(last.iterdir())}


@pytest.mark.parametrize("algorithm", ["spg+dipod", "fpo+interleave"])
@pytest.mark.parametrize(
    ("phase", "step", "number"),
    [("pretrained", 3, signal.SIGINT), ("trained", 0, signal.SIGHUP), ("trained", 3, signal.SIGTERM)],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, algorithm: str, phase: str, step: int, number: int
) -> None:
    """Parameters, optimiser moments and metrics, bit for bit, wherever the interruption falls."""
    config = tiny(algorithm=algorithm, interleave__every=2, interleave__steps=2, trainer__inner_updates=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs.create(whole, config)
    runs.train(whole, Silent())
    runs.create(parts, config)
    with pytest.raises(Interrupted):
        runs.train(parts, StopAfter(phase, step, number))
    assert not runs.finished(parts, config)
    runs.train(parts, Silent())
    assert runs.finished(parts, config)
    assert final_files(parts) == final_files(whole)
    assert without_seconds(runs.read_metrics(parts)) == without_seconds(runs.read_metrics(whole))
    assert (parts / runs.COMPLETIONS).read_bytes() == (whole / runs.COMPLETIONS).read_bytes()


def test_pretraining_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    class Kill(Silent):
        def pretrained(self, step: int, steps: int, elbo: float) -> None:
            del steps, elbo
            seen.append(step)
            if len(seen) == 5:
                raise MemoryError

    seen: list[int] = []
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        runs.create(folder, tiny(pretrain__save_every=2, trainer__steps=0))
    runs.train(whole, Silent())
    with pytest.raises(MemoryError):
        runs.train(killed, Kill())
    partial = killed / runs.CHECKPOINTS / runs.PRETRAINING
    assert [path.name for path in partial.iterdir()] == ["step-4"]
    assert runs.kept(killed) == "step 4 of pre-training is saved"
    runs.train(killed, Kill())
    assert seen == [1, 2, 3, 4, 5, 5, 6]
    assert not partial.exists()
    assert final_files(killed) == final_files(whole)


def test_what_a_killed_write_left_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runs.create(folder, tiny(trainer__steps=0))
    runs.train(folder, Silent())
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    gone = f"{dead()}@{host()}.abcdefgh"
    for name in (f".metrics.{gone}.jsonl", f"checkpoints/.step-9.{gone}", "checkpoints/.step-9", f".base.{gone}"):
        (folder / name).mkdir()
    runs.train(folder, Silent())
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_what_is_saved_is_said_in_words(tmp_path: Path) -> None:
    runs.create(tmp_path, tiny())
    assert runs.kept(tmp_path) == "nothing was saved yet"
    with pytest.raises(KeyboardInterrupt):
        runs.train(tmp_path, Twice("pretrained", 3))
    assert runs.kept(tmp_path) == "nothing was saved yet"
    with pytest.raises(KeyboardInterrupt):
        runs.train(tmp_path, Twice("trained", 1))
    assert runs.kept(tmp_path) == "the base model is saved, no update is"
    with pytest.raises(KeyboardInterrupt):
        runs.train(tmp_path, Twice("trained", 3))
    assert runs.kept(tmp_path) == "update 2 of 3 is saved"


def test_a_crash_between_checkpoints_goes_back_to_the_last_one(tmp_path: Path) -> None:
    whole, crashed = tmp_path / "whole", tmp_path / "crashed"
    for folder in (whole, crashed):
        runs.create(folder, tiny())
        runs.train(folder, Silent())
    for step in (6, 4):
        for path in (crashed / runs.CHECKPOINTS / f"step-{step}").iterdir():
            path.unlink()
        (crashed / runs.CHECKPOINTS / f"step-{step}").rmdir()
    with (crashed / runs.METRICS).open("a") as file:
        file.write('{"step": 7, "rew')  # a line cut off
    runs.train(crashed, Silent())
    assert final_files(crashed) == final_files(whole)
    assert without_seconds(runs.read_metrics(crashed)) == without_seconds(runs.read_metrics(whole))


def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        runs.create(tmp_path / name, tiny(seed=seed, trainer__steps=2))
        runs.train(tmp_path / name, Silent())
        files.append(final_files(tmp_path / name)["model.safetensors"])
    assert files[0] == files[1] != files[2]


def test_metrics_have_their_agreed_keys(tmp_path: Path) -> None:
    runs.create(tmp_path / "run", tiny(algorithm="fpo+dipod", trainer__inner_updates=2))
    runs.train(tmp_path / "run", Silent())
    rows = runs.read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(7))
    every_step = {"step", "reward", "beta", "grad_norm", "seconds", "clip_fraction_positive", "clip_fraction_negative"}
    evaluated = {"solved_sampled", "solved_greedy", "elbo", "gap", "gap_kind"}
    assert all(every_step <= set(row) for row in rows[1:])
    assert [row["step"] for row in rows if evaluated <= set(row)] == [0, 3, 6]
    assert all("gap" not in row for row in rows if row["step"] not in (0, 3, 6))
    assert {row["step"] for row in rows if "cosine" in row} <= {1, 3, 6}
    assert all(row["gap_kind"] == "exact" for row in rows if "gap" in row)
    json.dumps(rows, allow_nan=False)


def test_a_checkpoint_that_is_damaged_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runs.create(folder, tiny())
    runs.train(folder, Silent())
    before = (folder / runs.METRICS).read_bytes()
    path = folder / runs.CHECKPOINTS / "step-6" / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step-6.*delete this folder to go on from the one before"):
        runs.train(folder, Silent())
    assert (folder / runs.METRICS).read_bytes() == before


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    runs.create(tmp_path / "run", tiny())
    with pytest.raises(UserError, match="it holds a run already"):
        runs.create(tmp_path / "run", tiny(seed=1))
    assert runs.read_config(tmp_path / "run").seed == 0


def test_dipod_moves_the_elbo_term_into_the_update() -> None:
    """From equal states and rollouts, the updates of fpo and fpo+dipod with β = 0 are equal, with β > 0 are not."""
    parameters = []
    for algorithm, beta in (("fpo", 1.0), ("fpo+dipod", 0.0), ("fpo+dipod", 1.0)):
        trainer = build(algorithm=algorithm, beta=beta)
        trainer.train_step()
        parameters.append(torch.cat([p.detach().flatten() for p in trainer.parameters]))
    assert torch.equal(parameters[0], parameters[1])
    assert not torch.equal(parameters[0], parameters[2])


def test_interleave_distils_before_the_rollouts_with_an_optimiser_of_its_own() -> None:
    trainer = build(algorithm="fpo+interleave", interleave__every=2, interleave__steps=3)
    first, second = trainer.train_step(), None
    trainer.state.step += 1
    second = trainer.train_step()
    assert first["distillation_steps"] == 3
    assert "distillation_steps" not in second
    steps = {name: o.state_dict()["state"][0]["step"] for name, o in trainer.optimisers.items()}
    assert {name: int(step) for name, step in steps.items()} == {"policy": 2, "distillation": 3}


def test_self_distillation_tightens_a_loose_bound() -> None:
    """A base made loose by noise; Algorithm 1's stage closes most of its gap."""
    trainer = build(
        algorithm="fpo+interleave",
        interleave__steps=60,
        interleave__learning_rate=0.01,
        trainer__prompts=16,
        task__blanks="4",
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainer.parameters:
            parameter.add_(2.0 * parameter.std() * torch.randn(parameter.shape, generator=generator))
        trainer.policy.network.get_parameter("head.weight").mul_(60)
    before = float(trainer.evaluate()["gap"])
    trainer.train_step()
    after = float(trainer.evaluate()["gap"])
    assert before > 0.2
    assert after < 0.5 * before


def test_inner_updates_share_rollouts_and_start_from_ratio_one() -> None:
    trainer = build(algorithm="fpo", trainer__inner_updates=1, trainer__group_size=8)
    metrics = trainer.train_step()
    assert metrics["clip_fraction_positive"] == metrics["clip_fraction_negative"] == 0


class Sharded(Processes):
    """One process that says its parameters are not whole."""

    sharded = True


class Partner(Processes):
    """One of two processes; on the other one a reward function has failed."""

    @property
    def count(self) -> int:
        return 2

    def total(self, value: torch.Tensor) -> torch.Tensor:
        return value.double() + 1


def test_a_reward_that_fails_on_one_process_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = start()
    assert alone.together(lambda: 3) == 3
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: [*mine, ("reward function f", 1, "mend it")])
    with pytest.raises(RewardFailed, match=r"^reward function f = 1: mend it$"):
        Partner(alone.accelerator).together(lambda: 3)


def test_the_cosine_is_left_out_where_no_process_has_the_whole_gradient() -> None:
    config = tiny()
    task = build_task(config)
    sharded = build_trainer(config, build_policy(config, task), task, Sharded(start().accelerator))
    assert "cosine" in build().train_step()
    assert "cosine" not in sharded.train_step()


def test_a_gradient_that_is_not_a_number_is_named_before_it_does_harm() -> None:
    trainer = build()
    rollouts = trainer.collect("rollout")
    trainer.policy.network.get_parameter("norm.weight").data[0] = float("nan")
    before = [p.clone() for p in trainer.parameters]
    with pytest.raises(UserError, match=r"parameter norm\.weight = nan: lower optimiser\.learning_rate"):
        trainer.updater.update(rollouts, 0.0, trainer.optimisers["policy"], 0)
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, trainer.parameters, strict=True))
