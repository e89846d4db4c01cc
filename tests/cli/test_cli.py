"""The commands as a user types them: what they write, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dipod.cli import main
from dipod.cli.recipes import TIGHTENINGS
from dipod.config import RunConfig
from dipod.recipes import parse_algorithm
from dipod.report import read_runs
from dipod.runs import CHECKPOINTS, METRICS, create, read_metrics
from tests.test_trainer import TINY, tiny

SETTINGS = [part for key, value in TINY.items() for part in (f"--{key}", str(value))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with status 2 and one line on stderr; returns the line."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dipod: error: ")
    assert "Traceback" not in captured.err + captured.out
    return lines[0]


def test_train_report_and_eval(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sudoku", *SETTINGS, "--out", "run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 6
    page = (here / "run" / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert {"gap.png", "cosine.png", "solved_sampled.png"} <= {p.name for p in (here / "run" / "figures").iterdir()}
    assert "went from" in page
    assert main(["eval", "run", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["gap"] == pytest.approx(result["gap"])
    assert evaluated["solved_sampled"] == result["solved_sampled"]
    assert main(["eval", "run/base", "--problems", "8", "--task.blanks", "4-5"]) == 0
    assert "gap" in capsys.readouterr().out
    assert main(["eval", "--task.blanks=4", "run"]) == 0, "settings may come before the run"
    assert main(["report", "run", "--out", "elsewhere"]) == 0
    assert (here / "elsewhere" / "report.html").exists()


def test_a_run_that_has_no_checkpoint_yet_cannot_be_evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(here / "run", tiny())
    assert "it has no checkpoint yet; go on with `dipod train --resume run`" in refuse(capsys, "eval", "run")


def test_default_folders_are_numbered_and_resume_takes_the_last(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["train", "sudoku", *SETTINGS]) == 0
    names = sorted(p.name for p in (here / "runs").iterdir())
    assert names == ["sudoku-spg+dipod-seed0", "sudoku-spg+dipod-seed0-2"]
    assert main(["train", "sudoku", "--resume"]) == 0
    assert "seed0-2" in capsys.readouterr().out


def test_resume_auto_begins_goes_on_and_refuses_another_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a scheduler starts again: one command, whatever state the folder is in."""
    command = ["train", "sudoku", *SETTINGS, "--trainer.save_every", "2", "--resume", "auto"]
    (here / "run").mkdir()  # made by a start that was killed before it wrote anything
    assert main([*command, "--out", "run"]) == 0
    whole = load_file(here / "run" / CHECKPOINTS / "step-6" / "model.safetensors")
    for path in (here / "run" / CHECKPOINTS).glob("step-[46]"):
        shutil.rmtree(path)
    metrics = here / "run" / METRICS
    metrics.write_text(metrics.read_text()[:-20])  # killed while it wrote a line
    assert main([*command, "--out", "run"]) == 0
    again = load_file(here / "run" / CHECKPOINTS / "step-6" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    assert [row["step"] for row in read_metrics(here / "run")] == list(range(7))
    before = metrics.read_text()
    assert main([*command, "--out", "run"]) == 0, "a run that has ended stays as it is"
    assert metrics.read_text() == before
    line = refuse(capsys, *command, "--out", "run", "--beta", "0.123")
    assert "beta = 0.123: the run in run has 1.5; give another --out" in line
    assert "trainer.steps = 5: the run in run has 6" in refuse(capsys, *command, "--out", "run", "--trainer.steps", "5")
    assert main([*command, "--out", "run", "--trainer.steps", "7"]) == 0, "more updates are no other run"
    assert [row["step"] for row in read_metrics(here / "run")] == list(range(8))
    assert main(command) == main(command) == 0
    assert [path.name for path in (here / "runs").iterdir()] == ["sudoku-spg+dipod-seed0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_command_says_how_to_go_on(here: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "dipod", "train", "sudoku", *SETTINGS, "--trainer.steps", "2000", "--out", "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(read_metrics(here / "run")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "dipod: saved; go on with `dipod train --resume run`"
    done = len(read_metrics(here / "run"))
    resumed = subprocess.Popen(
        [sys.executable, "-m", "dipod", "train", "--resume", "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while len(read_metrics(here / "run")) <= done and time.monotonic() < deadline:
        time.sleep(0.05)
    resumed.send_signal(signal.SIGINT)
    resumed.communicate(timeout=60)
    steps = [row["step"] for row in read_metrics(here / "run")]
    assert steps == list(range(len(steps)))
    assert len(steps) > done


def test_compare_shares_bases_and_goes_on_where_it_stopped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "sudoku", "--algorithms", "fpo,fpo+dipod", "--seeds", "0,1", "--jobs", "2", "--out", "C"]
    assert main([*command, *SETTINGS, "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    for cell in (f"{name}, seed {seed}" for name in ("base", "fpo", "fpo+dipod") for seed in (0, 1)):
        assert [line for line in shown.err.splitlines() if line.startswith(cell) and "solved" in line], cell
    assert [(c["algorithm"], c["seed"]) for c in result["cells"]] == [
        ("fpo", 0),
        ("fpo", 1),
        ("fpo+dipod", 0),
        ("fpo+dipod", 1),
    ]
    first = {(run.config.algorithm, run.config.seed): run.metrics[0]["gap"] for run in read_runs([here / "C"])}
    assert first["fpo", 0] == first["fpo+dipod", 0] != first["fpo", 1]
    assert set(result["medians"]) == {"fpo", "fpo+dipod"}
    assert "fpo+dipod solves" in (here / "C" / "report.html").read_text()

    stamp = (here / "C" / "fpo" / "seed-0" / "metrics.jsonl").stat().st_mtime_ns
    latest = here / "C" / "fpo+dipod" / "seed-1" / "checkpoints" / "step-6"
    os.rename(latest, here / "gone")
    assert main([*command, *SETTINGS, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["cells"] == result["cells"]
    assert (here / "C" / "fpo" / "seed-0" / "metrics.jsonl").stat().st_mtime_ns == stamp
    assert latest.exists()
    assert "other settings" in refuse(capsys, *command, *SETTINGS, "--learning_rate", "0.5")


def test_two_token(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["two-token", "--steps", "3", "--out", "T"]) == 0
    assert "spg+interleave" in capsys.readouterr().out
    assert len(json.loads((here / "T" / "two_token.json").read_text())["methods"]["pg"]["gap"]) == 4
    assert (here / "T" / "two_token.png").stat().st_size > 10_000


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name}  " in listed for name in ("sudoku", "stabledrl", "fpopp"))
    for tightening in TIGHTENINGS.replace(" or", ",").split(", "):
        parse_algorithm(f"fpo{tightening}", RunConfig())
    assert main(["recipes", "--fields"]) == 0
    assert "--corruption.samples INT" in capsys.readouterr().out
    assert main(["recipes", "sudoku", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["algorithm"] == "spg+dipod"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "sudok"], "recipe = 'sudok': did you mean sudoku?"),
        (["train", "sudoku", "--bta", "1"], "field = 'bta': did you mean beta?"),
        (["train", "sudoku", "--beta", "-1"], "beta = -1.0: give a number of at least 0"),
        (["train", "sudoku", "--beta"], "--beta = '': a value is missing"),
        (
            ["train", "sudoku", "--corruption.samples", "3"],
            "corruption.samples = 3: antithetic pairs need an even number",
        ),
        (["train", "sudoku", "--task.blanks", "17"], "task.blanks = '17'"),
        (["train", "sudoku", "--block_length", "3"], "sampler.block_length = 3: give a divisor"),
        (["train", "sudoku", "--algorithm", "ppo"], "algorithm = 'ppo': choose a base from fpo, spg"),
        (["train", "sudoku", "--task.train_csv", "none.csv"], "csv = 'none.csv': not a readable CSV file"),
        (["train", "sudoku", "--base", "nowhere"], "model = 'nowhere': not a readable checkpoint"),
        (["train", "sudoku", "--out", "file"], "out = 'file': choose a folder that can be written"),
        (["train", "sudoku", "--tracker", "trackio"], "logging.tracker = 'trackio': install it with: pip install"),
        (["train", "gsm8k-llada-spg", "--model", "nowhere"], "model = 'nowhere': give a folder or a hub name"),
        (["train", "sudoku", "--dry-run", "--bta", "1"], "did you mean beta?"),
        (["train"], "recipe = None: name one"),
        (["train", "--resume", "auto", "--out", "run"], "--resume auto begins where there is no run yet: name the"),
        (["train", "--resume", "nowhere"], "run = 'nowhere': no config.yaml there"),
        (["train", "sudoku", "--resume"], "there is no such run"),
        (["train", "--resume", "nowhere", "--beta", "1"], "no config.yaml there"),
        (["compare", "sudoku", "--algorithms", "fpo,nope", "--out", "C"], "algorithm = 'nope'"),
        (["compare", "sudoku", "--seeds", "a", "--out", "C"], "seeds = 'a': give whole numbers"),
        (["compare", "sudoku", "--seeds", "0,0", "--out", "C"], "seeds = '0,0': name each once"),
        (["compare", "sudoku", "--jobs", "0", "--out", "C"], "jobs = 0"),
        (["eval", "nowhere"], "model = 'nowhere': give the folder of a run or of a model"),
        (["eval", "owner/model"], "task = None: choose one of gsm8k"),
        (["train", "sudoku", "--beta", "--out", "run"], "--beta = '': a value is missing"),
        (["report", "nowhere"], "run = 'nowhere': no run there"),
        (["two-token", "--steps", "0"], "steps = 0"),
        (["two-token", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["frobnicate"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    (here / "file").write_text("precious")
    assert complaint in refuse(capsys, *arguments)
    assert [p.name for p in here.iterdir()] == ["file"]
    assert (here / "file").read_text() == "precious"


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["compare", "--help"],
        ["eval", "--help"],
        ["two-token", "--help"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith("usage: dipod")
        assert max(map(len, text.splitlines())) <= 120


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m dipod recipes --fields | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("Settings of")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("command", "blamed"),
    [
        (["eval", "runs/x", "--lengths", "8,a"], "--lengths = '8,a'"),
        (["eval", "runs/x", "--lengths", ""], "--lengths = ''"),
        (["eval", "runs/x", "--problems", "0"], "--problems = 0"),
        (["two-token", "--steps", "0"], "--steps = 0"),
        (["compare", "sudoku", "--seeds", "0,x"], "--seeds = '0,x'"),
    ],
)
def test_the_flag_that_was_typed_is_blamed(
    command: list[str], blamed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert blamed in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
