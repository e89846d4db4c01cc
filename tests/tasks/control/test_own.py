"""Environments of the user's own: found by name, flattened, seeded, refused or reset, and what they say of success."""

from __future__ import annotations

import math
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import EnvironmentNote, GymnasiumEpisodes, OwnConfig, WorldEpisodes, build_own, make
from dipod.tasks.control.episodes import Episodes
from dipod.tasks.control.gymnasium_interface import success
from dipod.tasks.control.worlds import Draws, State
from tests.tasks.control import draw_actions, play, seeded

toys = pytest.importorskip("tests.tasks.control.toys")
gymnasium = toys.gymnasium
HERE = "tests.tasks.control.test_own"
TOYS = "tests.tasks.control.toys"


@dataclass(frozen=True)
class Reach:
    """A world as a user writes it: plain attributes, no name, and no picture."""

    speed: float = 0.1
    observation_size: int = 4
    action_size: int = 2
    max_episode_length: int = 9

    def begin(self, draws: Draws) -> State:
        return {"x": draws.uniform(-1, 1, 2), "g": draws.uniform(-1, 1, 2)}

    def advance(self, s: State, a: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor]:
        x = s["x"] + self.speed * a.clamp(-1, 1)
        apart = (x - s["g"]).norm(dim=-1)
        return {"x": x, "g": s["g"]}, -apart, apart < 0.05

    def observe(self, s: State) -> torch.Tensor:
        return torch.cat([s["x"], s["g"]], -1)


READY = Reach(speed=0.2)


def batch(count: int) -> Episodes:
    return WorldEpisodes(Reach(), count)  # type: ignore[arg-type]


def single() -> Any:
    return toys.Point()


ALONE = toys.Point()


def three() -> int:
    return 3


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        (f"{HERE}:Reach", {"speed": 0.3}, WorldEpisodes),
        (f"{HERE}:READY", {}, WorldEpisodes),
        (f"{HERE}:batch", {}, WorldEpisodes),
        (f"{HERE}:single", {}, GymnasiumEpisodes),
        (f"{TOYS}:Point", {"goal": 0.5}, GymnasiumEpisodes),
    ],
)
def test_whatever_makes_an_environment_is_one(name: str, arguments: dict[str, Any], kind: type[Episodes]) -> None:
    environment = build_own(OwnConfig(name, arguments=arguments), 3)
    assert isinstance(environment, kind)
    generator = seeded()
    assert environment.reset(generator).shape == (3, environment.observation_size)
    step = environment.step(torch.zeros(3, 2), generator)
    assert torch.equal(environment.load_state(environment.state()), step.observation)
    if "speed" in arguments:
        assert environment.world.speed == 0.3  # type: ignore[attr-defined]


def test_a_file_s_name_holds_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("from tests.tasks.control.test_own import Reach\nclass Mine(Reach):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    config = OwnConfig("mine.py:Mine", max_episode_length=3)
    monkeypatch.chdir("/")
    environment = build_own(config, 2)
    assert (environment.name, environment.max_episode_length) == ("Mine", 3)
    environment.reset(seeded())
    with pytest.raises(UserError, match=r"environment = 'Mine': Mine has no draw that works"):
        environment.view(0)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (OwnConfig("no_such_module:Thing"), "task.name = 'no_such_module:Thing': give module:function .*No module"),
        (OwnConfig("nothing.py:Thing"), "nothing.py cannot be read"),
        (OwnConfig(f"{HERE}:Nothing"), f"{HERE} has no Nothing"),
        (OwnConfig(f"{HERE}:three"), "it makes a int; give one Gymnasium environment, a world"),
        (OwnConfig(f"{HERE}:ALONE"), "copies of it are needed; name the class"),
        (OwnConfig(f"{HERE}:READY", arguments={"speed": 1}), "task.arguments = .*an object already made"),
        (
            OwnConfig(f"{HERE}:Reach", arguments={"sped": 1}),
            r"task.arguments = \{'sped': 1\}: .*refuses them",
        ),
        (OwnConfig(f"{HERE}:batch", on_error="reset"), "task.on_error = 'reset': a batch has limits"),
    ],
)
def test_what_is_no_environment_is_named(config: OwnConfig, named: str) -> None:
    with pytest.raises(UserError, match=named):
        build_own(config, 2)


def test_dicts_and_tuples_follow_each_other_in_the_space_s_order() -> None:
    environment = build_own(OwnConfig(f"{TOYS}:Goals"), 1)
    observation = environment.reset(seeded())
    assert environment.observation_size == 6
    place = environment._copies[0].unwrapped.place  # type: ignore[attr-defined]
    assert observation.tolist() == [[7, 0, 0, 1, *torch.tensor(place).float().tolist()]]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        (
            "OldStep",
            r"step = 'returned 4 values': OldStep must give \(observation, reward, terminated, ",
        ),
        ("OldReset", r"reset = 'returned ndarray': OldReset must give \(observation, info\); .* before Gymnasium 0.26"),
    ],
)
def test_the_old_interface_is_named_before_anything_runs(name: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        build_own(OwnConfig(f"{TOYS}:{name}"), 2)


@pytest.mark.parametrize("name", ["GoalBeforeSeed", "OwnGenerators"])
def test_a_seed_reaches_whatever_is_drawn_from(name: str) -> None:
    """Two batches, made apart, live the same episodes; a saved one is played again exactly; nothing else is moved."""
    config = OwnConfig(f"{TOYS}:{name}")
    outside = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    one, other = build_own(config, 2), build_own(config, 2)
    actions = draw_actions(one, 15)
    first, second = seeded(3), seeded(3)
    assert torch.equal(one.reset(first), other.reset(second))
    for mine, theirs in zip(play(one, actions, first), play(other, actions, second), strict=True):
        assert torch.equal(mine.observation, theirs.observation)
    state = one.state()
    assert state["clock"].tolist() == [3, 3]
    assert torch.equal(build_own(config, 2).load_state(state), one._observe())  # type: ignore[attr-defined]
    assert not torch.equal(one.reset(seeded(4)), other.reset(seeded(5)))
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    assert now == outside


def test_what_no_seed_reaches_is_said_once_and_what_one_does_reach_is_not() -> None:
    with pytest.warns(
        EnvironmentNote, match=r"Restless draws from .*no seed reaches: .* apart at once.*not the same bit"
    ):
        made = build_own(OwnConfig(f"{TOYS}:Restless"), 2)
    assert isinstance(made, GymnasiumEpisodes)
    assert not made.repeatable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = build_own(OwnConfig(f"{TOYS}:Point"), 2)
    assert isinstance(plain, GymnasiumEpisodes)
    assert plain.repeatable
    assert not plain._globals


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_one_bad_environment_is_reset_and_counted(how: str) -> None:
    """The failing step is cut at the observation before, with no reward; the other environment lives on untouched."""
    arguments = {"border": 0.6, "how": how}
    actions = torch.zeros(30, 2, 2)
    actions[:, 0] = torch.tensor([1.0, 0.0])  # drives the first to the border; the second stands still
    name = f"{TOYS}:Failing"
    environment, generator = build_own(OwnConfig(name, 1000, arguments, "reset"), 2), seeded(1)
    before = environment.reset(generator)
    failures = 0
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        for action in actions:
            step = environment.step(action, generator)
            assert step.failed is not None
            assert step.observation.isfinite().all()
            if step.failed[0]:
                failures += 1
                assert torch.equal(step.final_observation[0], before[0])
                assert bool(step.truncated[0])
                assert float(step.reward[0]) == 0
                assert not torch.equal(step.observation[0], before[0])
            assert not step.failed[1]
            assert torch.equal(step.observation[1], step.final_observation[1])
            before = step.observation
    assert failures >= 2
    said = [str(note.message) for note in notes]
    if how == "raise":
        assert len(said) == 1
        assert (
            "environment 0 of Failing fails in its step and begins anew: ZeroDivisionError: unstable (toys.py"
            in said[0]
        )
    stopping = build_own(OwnConfig(name, 1000, arguments), 2)
    stopping.reset(seeded(1))
    if how == "raise":
        with pytest.raises(UserError, match=r"environment 0 raised ZeroDivisionError: unstable \(toys.py line \d+\)"):
            play(stopping, actions, seeded(1))


def test_a_copy_that_cannot_begin_is_made_anew_and_one_that_never_can_ends_the_run() -> None:
    name = f"{TOYS}:Failing"
    environment = build_own(OwnConfig(name, 4, {"resets": 7, "border": 9.0}, "reset"), 1)
    environment.reset(seeded())  # the seventh, after six on trial
    with pytest.warns(EnvironmentNote, match="the simulator is gone"):
        play(environment, torch.zeros(20, 1, 2), seeded())
    broken = build_own(OwnConfig(name, 4, {"resets": 6}, "reset"), 1)
    broken._make = lambda: toys.Failing(resets=0)  # type: ignore[attr-defined]
    with (
        pytest.warns(EnvironmentNote),
        pytest.raises(UserError, match=r"RuntimeError: the simulator is gone .* in its reset 4 times in a row"),
    ):
        broken.reset(seeded())


def test_ids_that_gymnasium_knows_need_no_version() -> None:
    gymnasium.register("Point/Plain", entry_point=toys.Point, max_episode_steps=7)
    try:
        environment = make("Point/Plain", 1, goal=0.5)
        assert environment.max_episode_length == 7
        assert environment._copies[0].unwrapped.goal == 0.5  # type: ignore[union-attr]
    finally:
        del gymnasium.registry["Point/Plain"]


def test_success_is_read_as_environments_say_it() -> None:
    assert success({"success": True}) == 1
    assert success({"is_success": np.float32(0)}) == 0
    assert success({"success": np.array([1.0])}) == 1
    for unknown in ({}, {"success": "yes"}, {"success": np.ones(2)}, None):
        assert math.isnan(success(unknown))
