"""Writes that were killed leave the old file whole, and what they left aside is swept, but not another's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dipod.errors import UserError
from dipod.files import ASIDE, alive, host, read_object, remove_folder, replacing, replacing_folder, sweep, write_text


def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_dead_are_dead_before_they_are_buried() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(process.pid)
    process.wait()
    assert not alive(process.pid)
    assert alive(os.getpid())


def test_names_aside_tell_who_writes(tmp_path: Path) -> None:
    with replacing(tmp_path / "metrics.jsonl") as file, replacing_folder(tmp_path / "checkpoints" / "step-4") as folder:
        for path in (file, folder):
            found = ASIDE.fullmatch(path.name)
            assert found is not None
            assert (int(found["pid"]), found["host"]) == (os.getpid(), host())
        assert file.suffix == ".jsonl"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "metrics.jsonl", "step-4"]


def test_only_what_the_dead_of_this_machine_were_writing_is_swept(tmp_path: Path) -> None:
    gone = dead()
    left = [f".page.{gone}@{host()}.a1b2c3d4.html", f".step-4.{gone}@{host()}.abcd_234"]
    kept = [f".page.{os.getpid()}@{host()}.a1b2c3d4.html", f".page.{gone}@another.a1b2c3d4.html", ".lock", "step-2"]
    (tmp_path / left[1]).mkdir()
    (tmp_path / left[1] / "model.safetensors").touch()
    for name in (left[0], *kept):
        (tmp_path / name).touch()
    assert sorted(path.name for path in sweep(tmp_path, tmp_path / "nowhere")) == left
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "old").touch()
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    with pytest.raises(FileNotFoundError), replacing_folder(tmp_path / "step-1") as aside:
        os.rename(tmp_path / "nothing", aside / "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "step-1"]
    assert os.listdir(tmp_path / "step-1") == ["old"]


def test_a_folder_is_gone_or_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"[1]", "holds no object"), (None, "No such file")],
)
def test_an_object_or_one_line(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "kept.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"kept\.json = .*{complaint}.*; delete it"):
        read_object(path, "delete it")
