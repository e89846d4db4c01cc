"""``dipod motion`` as a user types it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dipod.cli import main
from dipod.motions import g1
from dipod.motions.kinematics import load_skeleton
from dipod.motions.motion import Motion, load_motion, save_motion
from tests.motions.robots import frames, write_csv, write_g1

pytest.importorskip("mujoco")
pytestmark = pytest.mark.filterwarnings("ignore:.*lowest part of the robot:dipod.errors.Note")  # its legs are sticks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a robot and a CSV of two seconds."""
    write_g1(tmp_path)
    write_csv(tmp_path / "dance.csv", frames(61, 29))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_convert_then_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["motion", "convert", "dance.csv", "--model", "g1.xml"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("dance.npz: 61 frames at 30 fps to 100 at 50 (2.0 s), 0.2 MB")
    assert main(["motion", "check", "dance.npz", "--model", "g1.xml"]) == 0
    assert "100 frames at 50 fps (2.0 s), 29 joints, 30 bodies" in capsys.readouterr().out
    with np.load(folder / "dance.npz") as file:
        shapes = {name: file[name].shape for name in file.files}
    assert shapes == {
        "fps": (1,),
        "joint_pos": (100, 29),
        "joint_vel": (100, 29),
        "body_pos_w": (100, 30, 3),
        "body_quat_w": (100, 30, 4),
        "body_lin_vel_w": (100, 30, 3),
        "body_ang_vel_w": (100, 30, 3),
    }


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["motion", "convert", "dance.csv", "--out", "d.npz", "--lines", "1:31", "--model", "g1.xml", "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    size = (folder / "d.npz").stat().st_size
    rest = {"fps_in": 30, "fps": 50, "seconds": 1, "bytes": size, "beyond_limits": 0}
    assert result == {"file": "d.npz", "frames_in": 31, "frames": 50, **rest}
    assert main(["motion", "check", "d.npz", "--model", "g1.xml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 50


def test_another_simulators_order_is_named_and_rewritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["motion", "convert", "dance.csv", "--model", "g1.xml"]) == 0
    right = load_motion(folder / "dance.npz", 29, 30)
    bodies, joints = load_skeleton(folder / "g1.xml").breadth_first()
    arrays = {k: v[:, bodies if k.startswith("body") else joints] for k, v in vars(right).items() if k != "fps"}
    save_motion(folder / "isaac.npz", Motion(**arrays))
    assert main(["motion", "check", "isaac.npz", "--model", "g1.xml"]) == 2
    assert "bodies and joints in Isaac Lab's breadth-first order" in capsys.readouterr().err
    assert main(["motion", "check", "isaac.npz", "--reorder", "mine.npz", "--model", "g1.xml"]) == 0
    np.testing.assert_array_equal(load_motion(folder / "mine.npz", 29, 30).body_pos_w, right.body_pos_w)


def test_limits_are_kept_where_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    motion = frames(61, 29)
    write_csv(folder / "far.csv", replace(motion, joints=motion.joints + 2 * np.eye(29)[0]))
    assert main(["motion", "convert", "far.csv", "--model", "g1.xml"]) == 2
    assert "left_hip_pitch_joint in line" in capsys.readouterr().err
    assert main(["motion", "convert", "far.csv", "--allow-limits", "--model", "g1.xml"]) == 0
    assert "angles beyond limits kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["convert", "none.csv"], "file = 'none.csv': it cannot be read"),
        (["convert", "wxyz.csv", "--model", "g1.xml"], "these look like wxyz"),
        (["convert", "dance.csv", "--out", "d.txt"], "out = 'd.txt': give a name that ends in .npz"),
        (["convert", "dance.csv", "--out", "none/d.npz", "--model", "g1.xml"], "choose a file that can be written"),
        (["convert", "dance.csv", "--fps", "0"], "fps = 0.0"),
        (["convert", "dance.csv", "--model", "none.xml"], "model = 'none.xml': give a MuJoCo model"),
        (["check", "dance.csv", "--model", "g1.xml"], "it cannot be read as a motion; give an npz"),
        (["download"], "give one of walk1_subject1"),
        (["download", "waltz"], "motion = 'waltz': choose one of walk1_subject1"),
        ([], "required: ACTION"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], complaint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upright = frames(61, 29)
    turned = replace(upright, rotation=np.roll(upright.rotation, 1, axis=1))
    write_csv(folder / "wxyz.csv", turned)
    assert main(["motion", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert complaint in captured.err


@pytest.mark.usefixtures("folder")
def test_without_mjlab_the_model_must_be_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(g1, "find_spec", lambda _: None)
    write_csv(Path("cm.csv"), replace(frames(61, 29), position=100 * frames(61, 29).position))
    for file, complaint in (("cm.csv", "looks like centimetres"), ("wxyz.csv", "cannot be read")):
        assert main(["motion", "convert", file]) == 2
        assert complaint in capsys.readouterr().err  # said before anyone installs 2.3 GB
    assert main(["motion", "convert", "dance.csv"]) == 2
    assert 'pip install "dipod[mjlab]", or give its MuJoCo model with --model' in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "count"), [(["--list"], 7), (["dance1_subject2"], 1)])
def test_download_says_how_and_under_which_licence(
    arguments: list[str], count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["motion", "download", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "CC BY-NC-ND 4.0" in printed
    assert printed.count("curl -fLO https://huggingface.co/") == count
    assert "dance1_subject2.csv" in printed
