"""Completion scripts, as a shell uses them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dipod.cli.main import main


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_recipes_settings_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "dipod.sh").write_text(capsys.readouterr().out)
    typed = [["dr"], ["train", "count"], ["train", "sudoku", "--trainer.sav"], ["eval", "x", "--leng"]]
    lines = [
        f"COMP_WORDS=(dipod {' '.join(w)}); COMP_CWORD={len(w)}; _shtab_dipod; echo ${{COMPREPLY[@]}}" for w in typed
    ]
    command = ["bash", "-c", "\n".join([f"source {tmp_path / 'dipod.sh'}", *lines])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "drift"
    assert "countdown-tiny" in said[1].split()
    assert said[2:] == ["--trainer.save_every", "--lengths"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "sudoku" in capsys.readouterr().out


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "dos"]) == 2
    assert "choose one of" in capsys.readouterr().err
