"""A comparison's plan: which cells there are, what they share, and what is refused before anything is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dipod import compare, runs
from dipod.cli.compare import parse_vary
from dipod.cli.main import main
from dipod.errors import UserError
from dipod.files import alive, write_text
from dipod.locks import hold
from dipod.recipes import overlay, to_yaml
from dipod.report.data import by_label, read_runs
from dipod.stopping import Interrupted
from tests.test_trainer import TINY, tiny

Vary = Mapping[str, Sequence[str]]


def plan(out: Path, vary: Vary, algorithms: Sequence[str] = ("fpo+dipod",), **changes: object) -> list[compare.Cell]:
    return compare.plan(tiny(**changes), algorithms, [0, 1], out, vary)


def trained(cells: Sequence[compare.Cell]) -> list[compare.Cell]:
    return [cell for cell in cells if not cell.is_base]


def test_cells_are_the_product_and_each_holds_its_values(tmp_path: Path) -> None:
    cells = trained(plan(tmp_path, {"beta": ["0", ".05"], "trainer.group_size": ["2", "4"]}, ("fpo", "fpo+dipod")))
    assert len(cells) == 2 * 2 * 2 * 2
    assert len({cell.folder for cell in cells}) == len(cells)
    cell = next(cell for cell in cells if cell.name == "fpo+dipod beta=0.05 trainer.group_size=4, seed 1")
    assert cell.folder == tmp_path / "fpo+dipod beta=0.05 trainer.group_size=4" / "seed-1"
    assert isinstance(cell.config, type(tiny()))
    assert (cell.config.beta, cell.config.trainer.group_size, cell.config.seed) == (0.05, 4, 1)


def test_without_a_sweep_labels_are_algorithms(tmp_path: Path) -> None:
    cells = plan(tmp_path, {}, ("fpo", "spg"))
    assert [cell.name for cell in cells] == [
        "base, seed 0", "base, seed 1", "fpo, seed 0", "fpo, seed 1", "spg, seed 0", "spg, seed 1"
    ]  # fmt: skip


def test_bases_are_shared_unless_a_swept_setting_changes_them(tmp_path: Path) -> None:
    cells = plan(tmp_path, {"beta": ["0", "1"], "width": ["8", "16"], "trainer.steps": ["2", "3"]}, ("fpo", "spg"))
    bases = {cell.folder.relative_to(tmp_path): cell for cell in cells if cell.is_base}
    assert set(bases) == {Path("bases") / f"width={w}" / f"seed-{s}" for w in (8, 16) for s in (0, 1)}
    for cell in trained(cells):
        assert isinstance(cell.config, type(tiny()))
        assert cell.base is not None
        assert isinstance(cell.base.config, type(tiny()))
        assert cell.config.base == str(cell.base.folder / "base")
        for group in ("task", "model", "pretrain", "seed"):
            assert getattr(cell.base.config, group) == getattr(cell.config, group)
    assert {cell.config.beta for cell in bases.values()} == {tiny().beta}


def test_a_base_that_is_given_is_everyones(tmp_path: Path) -> None:
    runs.create(tmp_path / "run", tiny(trainer__steps=0))
    runs.train(tmp_path / "run", runs.Silent())
    base = str(tmp_path / "run" / "base")
    cells = plan(tmp_path / "C", {}, base=base)
    assert [cell.base for cell in cells] == [None, None]
    assert {getattr(cell.config, "base", "") for cell in cells} == {base}


def test_folders_that_hold_the_same_runs_are_taken_and_others_refused(tmp_path: Path) -> None:
    vary = {"beta": ["0", "0.5"]}
    for cell in plan(tmp_path, vary):
        cell.folder.mkdir(parents=True)
        config = overlay(cell.config, {"evaluate_every": 5}) if cell.is_base else cell.config
        write_text(cell.folder / runs.CONFIG, to_yaml(config))
    plan(tmp_path, vary)
    with pytest.raises(UserError, match="other settings"):
        plan(tmp_path, vary, learning_rate=0.5)
    base = next(cell for cell in plan(tmp_path, vary) if cell.is_base)
    write_text(base.folder / runs.CONFIG, to_yaml(overlay(base.config, {"pretrain.steps": 99})))
    with pytest.raises(UserError, match="other settings"):
        plan(tmp_path, vary)


@pytest.mark.parametrize(
    ("vary", "complaint"),
    [
        ({"bta": ["1"]}, "did you mean beta"),
        ({"beta": ["-1"]}, "beta = -1.0"),
        ({"beta": ["much"]}, "give a number"),
        ({"beta": ["0.1", ".10"]}, "name each value once"),
        ({"group_size": ["2"], "trainer.group_size": ["4"]}, "the same setting"),
        ({"seed": ["1"]}, "--seeds"),
        ({"algorithm": ["fpo"]}, "--algorithms"),
        ({"base": ["x"]}, "its own bases"),
        ({"out": ["x"]}, "--out"),
        ({"threads": ["2"]}, "one thread"),
        ({"beta": []}, "give values"),
        ({"block_length": ["3"]}, "give a divisor"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(tmp_path: Path, vary: Vary, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        plan(tmp_path, vary)
    assert list(tmp_path.iterdir()) == []


def test_flags_are_names_and_values() -> None:
    assert parse_vary(["beta=0,.5", "group-size=4"]) == {"beta": ["0", ".5"], "group_size": ["4"]}
    for given in (["beta"], ["beta="], ["=1"], ["beta=1", "beta=2"]):
        with pytest.raises(UserError, match="vary = "):
            parse_vary(given)


def test_labels_of_a_comparison_are_those_of_its_report(tmp_path: Path) -> None:
    cells = trained(plan(tmp_path, {"width": ["8", "16"], "beta": ["0.5"], "remasking": ["random", "entropy"]}))
    for cell in cells:
        runs.create(cell.folder, overlay(cell.config, {"base": ""}))
        write_text(cell.folder / runs.METRICS, '{"step": 0, "gap": 1.0, "gap_kind": "exact"}\n')
    groups = by_label(read_runs([tmp_path]))
    names = [f"{label}, seed {run.config.seed}" for label, group in groups.items() for run in group]
    assert sorted(names) == sorted(cell.name for cell in cells)


def test_cells_that_are_done_already_are_concluded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for cell in compare.plan(tiny(), ["fpo+dipod"], [0], tmp_path, {"beta": ["0", "0.5"]}):
        runs.create(cell.folder, cell.config)
        runs.train(cell.folder, runs.Silent())
    settings = [part for key, value in TINY.items() for part in (f"--{key}", str(value))]
    command = ["compare", "sudoku", "--algorithms", "fpo+dipod", "--vary", "beta=0,.5", "--seeds", "0"]
    assert main([*command, *settings, "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(cell["label"], cell["settings"], cell["run"]) for cell in result["cells"]] == [
        (f"fpo+dipod beta={beta}", {"beta": beta}, f"fpo+dipod beta={beta}/seed-0") for beta in (0.0, 0.5)
    ]
    assert set(result["medians"]) == {"fpo+dipod beta=0.0", "fpo+dipod beta=0.5"}
    assert [path.name for path in (tmp_path / "bases").iterdir()] == ["seed-0"]
    assert "Final values over beta" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "figures" / "sweep.png").exists()


def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> list[compare.Cell]:
    """Two cells whose processes run a shell script instead, in their folders."""
    monkeypatch.setattr(compare, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(compare, "command", lambda cell: ["sh", "-c", f"cd '{cell.folder}'; {script}"])
    return compare.plan(tiny(), ["fpo"], [0, 1], tmp_path)[:2]


def started(cells: Sequence[compare.Cell]) -> bool:
    return all((cell.folder / "up").exists() for cell in cells)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    cells = stubs(tmp_path, monkeypatch, "trap 'touch saved; exit 130' TERM; touch up; while :; do sleep 0.01; done")

    sent: list[signal.Signals] = []

    def watch(running: Sequence[compare.Cell]) -> None:
        if not sent and len(running) == 2 and started(running):
            sent.append(number)
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="saved; the same command goes on"):
        compare.execute(cells, 2, watch, tmp_path)
    assert all((cell.folder / "saved").exists() for cell in cells)


def test_a_second_interrupt_stops_cells_at_once_and_says_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = stubs(tmp_path, monkeypatch, "trap 'touch asked' TERM; touch up; while :; do sleep 0.01; done")
    running: list[compare.Cell] = []

    def again() -> None:
        while not all((cell.folder / "asked").exists() for cell in running):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    def watch(now: Sequence[compare.Cell]) -> None:
        if len(now) == 2 and started(now) and not running:
            running.extend(now)
            os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=again).start()

    said = "stopped at once; 0 of 2 runs are done; base, seed 0: nothing was saved yet; base, seed 1: nothing was saved"
    with pytest.raises(Interrupted, match=said):
        compare.execute(cells, 2, watch, tmp_path)
    assert [cell.process and cell.process.returncode for cell in cells] == [-signal.SIGKILL] * 2


def test_a_cell_that_is_killed_is_named_with_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = stubs(tmp_path, monkeypatch, "kill -9 $$")
    with pytest.raises(UserError, match=r"base, seed 0 .*killed by SIGKILL; was memory short\?"):
        compare.execute(cells, 2, lambda _: None, tmp_path)


def test_a_comparison_that_is_held_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [part for key, value in TINY.items() for part in (f"--{key}", str(value))]
    with hold(tmp_path):
        assert main(["compare", "sudoku", *settings, "--out", str(tmp_path)]) == 2
    assert "another process works in it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_no_cell_outlives_a_comparison_that_is_killed(tmp_path: Path) -> None:
    settings = [part for key, value in TINY.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "dipod", "compare", "sudoku", "--algorithms", "fpo", "--seeds", "0"]
    command += [*settings, "--pretrain.steps", "100000", "--out", str(tmp_path)]
    cell = tmp_path / "bases" / "seed-0"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (cell / runs.CHECKPOINTS / runs.PRETRAINING).exists() and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    with hold(tmp_path):  # waits for the cells
        pid = int(json.loads((cell / ".lock").read_text())["pid"])
        assert not alive(pid)
        with hold(cell, patience=0.0):
            pass
