"""Playing a run: episodes as the environment has them, files that are whole, and paths that end at goals."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dipod import runs
from dipod.cli.main import main
from dipod.control.build import build_environment
from dipod.control.config import ControlConfig
from dipod.control.play import Episode, Moment, load_policy, paths, stage, watch
from dipod.errors import UserError
from dipod.noise import keyed_generator
from dipod.recipes import load, overlay
from dipod.report.pictures import ROLES, Canvas
from dipod.report.video import write_video
from dipod.tasks.control import Circle, Drawing, Line, MultiGoal

SMALL = {
    "algorithm": "fpopp",
    "task.name": "multigoal",
    "policy.hidden": "8",
    "policy.critic_hidden": "8",
    "policy.sampling_steps": "3",
    "trainer.steps": "2",
    "trainer.save_every": "1",
    "trainer.environments": "8",
    "trainer.horizon": "4",
    "trainer.warmup_steps": "2",
    "trainer.evaluate_episodes": "0",
    "trainer.gap_actions": "0",
}


def train(folder: Path, **settings: str) -> Path:
    runs.create(folder, overlay(load("track"), {**SMALL, **settings}))
    runs.train(folder, runs.Silent())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("play") / "run", **{"task.max_episode_length": "12"})


def config_of(folder: Path) -> ControlConfig:
    config = runs.read_config(folder)
    assert isinstance(config, ControlConfig)
    return config


def test_the_policy_of_a_checkpoint_is_the_one_that_was_trained(run: Path) -> None:
    config = config_of(run)
    first, last = (load_policy(config, run / "checkpoints" / f"step-{step}") for step in (1, 2))
    fresh = load_policy(config, None, run / "checkpoints" / "step-2")
    assert torch.equal(fresh.normaliser.mean, last.normaliser.mean)
    assert not torch.equal(first.normaliser.mean, last.normaliser.mean)
    observation = torch.randn(3, 4, generator=keyed_generator(0))
    assert len({str(policy.mode(observation)) for policy in (first, last, fresh)}) == 3


def test_returns_and_lengths_are_those_of_the_environment_s_own_episodes(run: Path) -> None:
    config = config_of(run)
    policy = load_policy(config, run / "checkpoints" / "step-2")
    with stage(config) as environment:
        seen = list(watch(policy, environment, "zero", seed=3, episodes=2, steps=100))
    moments = [found for found in seen if isinstance(found, Moment)]
    episodes = [found for found in seen if isinstance(found, Episode)]
    assert len(episodes) == 2
    assert len(moments) == sum(episode.length for episode in episodes)
    again = build_environment(config, 1)
    generator = keyed_generator(3, "play")
    observation, reward = again.reset(generator), 0.0
    for _ in range(episodes[0].length):
        step = again.step(policy.mode(observation), generator)
        observation, reward = step.observation, reward + float(step.reward[0])
    assert bool(step.done[0])
    assert episodes[0].reward == pytest.approx(reward)
    with stage(config) as environment:
        cut = list(watch(policy, environment, "sampled", seed=3, episodes=9, steps=5))[-1]
    assert isinstance(cut, Episode)
    assert (cut.ended, cut.length) == ("unfinished", 5)


def test_paths_start_in_the_middle_and_those_that_arrive_end_at_their_goal() -> None:
    settings = {**SMALL, "policy.perturbation": "1.5", "task.radius": "0.3"}
    config = overlay(load("track"), settings)
    assert isinstance(config, ControlConfig)
    assert isinstance(config.task, MultiGoal)
    found = paths(load_policy(config, None), config.task, 40, seed=0)
    assert len(set(found.goals) - {-1}) > 1
    for points, goal in zip(found.points, found.goals, strict=True):
        assert torch.equal(points[0], torch.zeros(2))
        apart = (points.double()[:, None] - config.task.goals).norm(dim=-1)
        assert bool((apart[:-1] >= config.task.reach - 1e-6).all())
        assert (goal >= 0) == bool((apart[-1] < config.task.reach).any())
        assert goal < 0 or float(apart[-1, goal]) < config.task.reach


def test_a_drawing_shows_its_shapes_in_the_colours_of_their_roles_where_they_are() -> None:
    line, disc = Line(torch.tensor([[-1.0, 0.0], [0.0, 0.0]]), "target", 0.5), Circle(torch.tensor([0.5, 0.5]), 0.3)
    drawing = Drawing((-1, 1, -1, 1), (line,), (disc,))
    pixels = Canvas(drawing).draw(drawing, "caption")
    assert all(side % 2 == 0 for side in pixels.shape[:2])
    body = np.array([int(ROLES["body"][i : i + 2], 16) for i in (1, 3, 5)])
    where = np.argwhere((pixels == body).all(-1))
    share = where.mean(0) / pixels.shape[:2]
    assert share[1] == pytest.approx(0.74, abs=0.03)
    assert share[0] == pytest.approx(0.30, abs=0.05)
    assert not np.array_equal(pixels, Canvas(drawing).draw(Drawing((-1, 1, -1, 1)), "caption"))


def test_play_writes_a_gif_in_real_time_and_says_how_it_went(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", str(run), "--noise", "sampled", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(run / "play.gif")
    assert told["checkpoint"] == 2
    with Image.open(told["file"]) as video:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(video)]
    assert len(durations) == told["frames"] == told["episodes"][0]["length"]
    assert set(durations[:-1]) == {50}
    assert main(["play", str(run), "--steps", "4", "--checkpoint", "0", "--out", str(run / "new" / "a.gif")]) == 0
    assert "checkpoint 0" in capsys.readouterr().out
    assert not list(run.glob(".play*"))


def test_play_draws_paths_before_and_after(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", str(run), "--paths", "7", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["shares"]) == ["untrained", "after 2 iterations"]
    with Image.open(run / "paths.png") as picture:
        assert picture.width > 1.5 * picture.height


@pytest.mark.parametrize("task", ["track", "pendulum", "cartpole-swingup"])
def test_every_embedded_world_can_be_played(tmp_path: Path, task: str) -> None:
    folder = train(tmp_path / "run", **{"task.name": task, "trainer.steps": "1"})
    assert main(["play", str(folder), "--steps", "6", "--fps", "10"]) == 0
    with Image.open(folder / "play.gif") as video:
        assert video.info["duration"] == 100


FFMPEG = shutil.which("ffmpeg") or importlib.util.find_spec("imageio_ffmpeg")


@pytest.mark.skipif(not FFMPEG, reason="mp4 needs ffmpeg")
def test_an_mp4_is_one(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [np.full((21, 30, 3), 40 * i, np.uint8) for i in range(5)], 10)
    assert b"ftyp" in (tmp_path / "a.mp4").read_bytes()[:16]


def test_mistakes_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def complaint(*arguments: str) -> str:
        assert main(["play", *arguments]) == 2
        return capsys.readouterr().err

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    language = tmp_path / "language"
    runs.create(language, load("sudoku"))
    fresh = tmp_path / "fresh"
    runs.create(fresh, overlay(load("track"), SMALL))
    assert "play shows control runs" in complaint(str(language))
    assert "no config.yaml there" in complaint(str(tmp_path))
    assert "it has no checkpoint yet" in complaint(str(fresh))
    assert "there are 0 (untrained), 1, 2" in complaint(str(run), "--checkpoint", "7")
    assert "ends in .gif or .mp4" in complaint(str(run), "--out", "a.webm")
    assert "pip install imageio-ffmpeg" in complaint(str(run), "--out", str(tmp_path / "a.mp4"))
    assert "--fps" in complaint(str(run), "--fps", "0")
    assert "--steps" in complaint(str(run), "--steps", "0")
    assert "--frames" in complaint(str(run), "--frames")
    with pytest.raises(UserError, match="--out"):
        write_video(tmp_path / "a.avi", [np.zeros((2, 2, 3), np.uint8)], 1)
