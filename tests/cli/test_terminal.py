"""Text of others is shown as it is: brackets are no markup, and nothing steers a terminal or a page."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dipod.cli import terminal
from dipod.cli.main import main
from dipod.report.data import Run
from dipod.report.samples import examples
from dipod.visible import escape, visible
from tests.test_trainer import TINY, tiny

EVIL = "\x1b[2J\x1b]0;title\x07\x9b1m\u202e\ud800\r"


def test_control_characters_are_written_out() -> None:
    assert visible("a\tb\nc — é 数 😀") == "a\tb\nc — é 数 😀"
    assert visible(EVIL) == "<1b>[2J<1b>]0;title<07><9b>1m<202e><d800><0d>"
    assert escape("<b>\x00") == "&lt;b&gt;&lt;00&gt;"


def test_what_is_printed_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.plain():
        print(EVIL)
        terminal.console().print(f"[bold]{EVIL}[/bold] :smile:", soft_wrap=True)
    assert capsys.readouterr().out == f"{visible(EVIL)}\n[bold]{visible(EVIL)}[/bold] :smile:\n"
    assert main(["report", f"no{EVIL}\nrun"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "\x1b" not in shown


def test_a_letter_that_the_encoding_lacks_is_written_by_its_number() -> None:
    behind = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print("≥", file=terminal.Plain(behind), flush=True)
    assert behind.buffer.getvalue() == b"\\u2265\n"


def test_a_terminal_that_is_gone_does_not_end_the_work() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(5, "Input/output error")

    Console(file=terminal.Lasting(Gone())).print("lost")  # type: ignore[arg-type]


def test_folders_may_be_called_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "[red]a[/red] [/] :boom: <b>"
    settings = [part for key, value in {**TINY, "trainer.steps": 1}.items() for part in (f"--{key}", str(value))]
    assert main(["train", "sudoku", *settings, "--out", name]) == 0
    assert f"seed 0: {name}\n" in capsys.readouterr().out
    again = ["compare", "sudoku", *settings, "--algorithms", "spg+dipod", "--seeds", "0", "--out", name, "--jobs", "0"]
    assert main(again) == 2
    assert main(["report", name]) == 0
    assert name in capsys.readouterr().out


def test_prompts_do_not_steer_the_page(tmp_path: Path) -> None:
    row = {"prompt": f"p{EVIL}<script>", "reference": EVIL, "sampled": EVIL, "greedy": EVIL}
    page = examples({f"x{EVIL}": [Run(tmp_path, tiny(), [], {"before": [row]})]})
    assert visible(page) == page
    assert "<script>" not in page
    page.encode()
