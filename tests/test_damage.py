"""Files of a run that something has damaged: one line that names the file and the mend, or the run goes on without."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dipod import runs
from dipod.cli.main import main
from dipod.recipes import AnyConfig
from dipod.report import read_runs
from dipod.runs import Silent
from tests.control.test_runs import tiny as tiny_control
from tests.test_trainer import tiny

Damage = Callable[[Path], object]
LAST = "checkpoints/step-2"


def content(data: bytes) -> Damage:
    """The file holds this instead."""
    return lambda path: path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(path: Path) -> None:
    gone(path)
    path.mkdir()


def file_instead(path: Path) -> None:
    gone(path)
    path.touch()


def pipe(path: Path) -> None:
    gone(path)
    os.mkfifo(path)


def loop(path: Path) -> None:
    gone(path)
    path.symlink_to(path.name)


def before(line: bytes) -> Damage:
    """A line more at the beginning."""
    return lambda path: path.write_bytes(line + b"\n" + path.read_bytes())


def after(data: bytes) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes() + data)


def said(**changes: object) -> Damage:
    """An object of JSON says something else."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rows(change: Callable[[list[dict[str, object]]], object]) -> Damage:
    """The last line of completions holds other problems."""

    def damage(path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[-1]["rows"] = change(lines[-1]["rows"])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return damage


def tensors(**changed: torch.Tensor | None) -> Damage:
    """Tensors are others; None takes one out."""

    def damage(path: Path) -> None:
        found = {**load_file(path), **{name.replace("__", "."): value for name, value in changed.items()}}
        save_file({name: value for name, value in found.items() if value is not None}, path)

    return damage


REFUSED: list[tuple[str, str, Damage, str]] = [
    ("train", "metrics.jsonl", before(b"{'step': 0}"), r"metrics\.jsonl:1.*line 1 is damaged \(not JSON\); delete it"),
    ("train", "metrics.jsonl", before(b"\xff\xfe\x00"), "not JSON|not UTF-8"),
    ("train", "metrics.jsonl", before(b"\x00\x00"), "line 1 is damaged"),
    ("train", "metrics.jsonl", before(b"[1, 2]"), "not an object"),
    ("train", "metrics.jsonl", before(b'{"reward": 1}'), "no step"),
    ("train", "metrics.jsonl", before(b'{"step": "0"}'), "no step"),
    ("train", "metrics.jsonl", before(b"[" * 100_000), "not JSON"),
    ("train", "metrics.jsonl", folder, "cannot be read"),
    ("train", "metrics.jsonl", loop, "cannot be read"),
    ("report", "metrics.jsonl", pipe, "cannot be read"),
    ("report", "metrics.jsonl", before(b"x"), "line 1 is damaged"),
    ("report", "metrics.jsonl", content(b""), "no metrics yet"),
    ("train", "completions.jsonl", before(b"x"), r"completions\.jsonl:1.*line 1 is damaged"),
    ("report", "completions.jsonl", folder, "cannot be read"),
    ("report", "completions.jsonl", rows(lambda _: "x"), "line 3 does not hold the problems of the first"),
    ("report", "completions.jsonl", rows(lambda kept: kept[1:]), "line 3 does not hold"),
    ("report", "completions.jsonl", rows(lambda kept: [{"sampled": [1]}] * len(kept)), "line 3 does not hold"),
    ("report", "completions.jsonl", rows(lambda kept: [{**row, "greedy": 3} for row in kept]), "line 3 does not hold"),
    ("train", "config.yaml", content(b""), r"config\.yaml"),
    ("train", "config.yaml", content(b"\x00\xff\x12"), r"config\.yaml"),
    ("train", "config.yaml", content(b"trainer: [\n"), r"config\.yaml"),
    ("train", "config.yaml", content(b"- a\n- b\n"), r"config\.yaml"),
    ("train", "config.yaml", after(b"colour: red\n"), r"config\.yaml.*colour"),
    ("train", "config.yaml", after(b"threads: many\n"), r"config\.yaml.*threads"),
    ("train", "config.yaml", half, r"config\.yaml"),
    ("report", "config.yaml", half, r"config\.yaml"),
    ("train", "config.yaml", folder, r"config\.yaml"),
    ("train", f"{LAST}/state.json", content(b""), r"step-2'.*cannot be read.*delete this folder"),
    ("train", f"{LAST}/state.json", cut, "step-2'.*delete this folder"),
    ("train", f"{LAST}/state.json", content(b"[2]"), "step-2'.*holds no object"),
    ("train", f"{LAST}/state.json", content(b'{"step": 2}'), "step-2'.*evaluated"),
    ("train", f"{LAST}/state.json", said(step=1), "step-2'.*is of step 1"),
    ("train", f"{LAST}/state.json", said(beta="x"), "step-2'.*beta in state.json is no number"),
    ("train", f"{LAST}/state.json", content(b"\xff\xfe"), "step-2'.*delete this folder"),
    ("train", f"{LAST}/state.json", folder, "step-2'.*delete this folder"),
    ("train", f"{LAST}/model.safetensors", half, "step-2'.*delete this folder"),
    ("train", f"{LAST}/model.safetensors", content(b""), "step-2'.*delete this folder"),
    ("train", f"{LAST}/model.safetensors", gone, "step-2'.*delete this folder"),
    ("train", f"{LAST}/model.safetensors", tensors(norm__weight=torch.zeros(3)), "step-2'.*norm.weight has shape"),
    ("train", f"{LAST}/policy.safetensors", cut, "step-2'.*delete this folder"),
    ("train", f"{LAST}/policy.safetensors", gone, "step-2'.*delete this folder"),
    ("train", f"{LAST}/policy.safetensors", tensors(strange=torch.zeros(1)), "step-2'.*delete this folder"),
    ("train", f"{LAST}/policy.safetensors", tensors(**{"0.exp_avg": torch.zeros(3)}), "0.exp_avg has shape"),
    ("train", f"{LAST}/policy.safetensors", tensors(**{"99.exp_avg": torch.zeros(3)}), "step-2'.*delete this folder"),
    ("train", LAST, file_instead, "step-2'.*delete this folder"),
    ("train", "base/model.safetensors", half, "base'.*delete this folder to have it made again"),
    ("train", "base/model.safetensors", gone, "base'"),
    ("control", f"{LAST}/tensors.safetensors", gone, "step-2'.*delete this folder"),
    ("control", f"{LAST}/tensors.safetensors", half, "step-2'.*delete this folder"),
    ("control", f"{LAST}/model.safetensors", half, "step-2'.*delete this folder"),
]
RECOVERED: list[tuple[str, Damage]] = [
    ("metrics.jsonl", cut),
    ("metrics.jsonl", content(b"")),
    ("metrics.jsonl", gone),
    ("metrics.jsonl", after(b"\x00" * 4096)),
    ("metrics.jsonl", after(b'{"step": 3, "rew')),
    ("completions.jsonl", cut),
    ("completions.jsonl", content(b"\n\n")),
    ("completions.jsonl", gone),
    ("checkpoints", gone),
    ("base", gone),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each family that has done all its steps."""
    made: dict[str, AnyConfig] = {
        "train": tiny(trainer__steps=2, trainer__evaluate_every=1, trainer__save_every=1),
        "control": tiny_control(trainer__steps=2),
    }
    found = {name: tmp_path_factory.mktemp("finished") / name for name in made}
    for name, config in made.items():
        runs.create(found[name], config)
        runs.train(found[name], Silent())
    return found | {"report": found["train"]}


@pytest.mark.parametrize(("command", "file", "damage", "complaint"), REFUSED)
def test_damage_is_one_line_with_the_file_and_the_mend(
    tmp_path: Path,
    finished: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    command: str,
    file: str,
    damage: Damage,
    complaint: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[command], run)
    damage(run / file)
    there = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = ["report", str(run)] if command == "report" else ["train", "--resume", str(run)]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("dipod: error: ")
    assert str(run) in line
    assert re.search(complaint, line), line
    assert all(path.read_bytes() == before for path, before in there.items() if path.name != ".lock")


@pytest.mark.parametrize(("file", "damage"), RECOVERED)
def test_what_can_be_done_without_is(tmp_path: Path, finished: dict[str, Path], file: str, damage: Damage) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished["train"], run)
    damage(run / file)
    runs.train(run, Silent())
    assert runs.finished(run, runs.read_config(run))
    for name in ("model", "policy"):
        path = Path(LAST) / f"{name}.safetensors"
        assert (run / path).read_bytes() == (finished["train"] / path).read_bytes()
    if file != "metrics.jsonl":
        assert read_runs([run])


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    tmp_path: Path, finished: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for it: checkpoints no longer fit, metrics do."""
    run = tmp_path / "run"
    shutil.copytree(finished["train"], run)
    shutil.rmtree(run / LAST)
    shutil.rmtree(run / "figures", ignore_errors=True)
    before = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        assert main(["train", "--resume", str(run)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "file too large" in line
    assert f"update 1 of 2 is saved; mend that, then go on with `dipod train --resume {run}`" in line
    assert {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()} == before
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    runs.train(run, Silent())
    path = Path(LAST) / "model.safetensors"
    assert (run / path).read_bytes() == (finished["train"] / path).read_bytes()
