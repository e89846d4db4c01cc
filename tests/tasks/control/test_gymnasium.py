"""Gymnasium's environments behind the protocol: their own numbers, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import Drawing, check_step, make
from tests.tasks.control import draw_actions, play, seeded

gymnasium = pytest.importorskip("gymnasium")
spaces = gymnasium.spaces
VECTOR = spaces.Box(-1, 1, (2,), np.float32)


class Toy(gymnasium.Env):  # type: ignore[misc, name-defined]
    """Shows the last two actions; what tests change are its class attributes."""

    observation_space = VECTOR
    action_space = spaces.Box(np.array([-2.0, 0.0, -np.inf]), np.array([4.0, 1.0, np.inf]), dtype=np.float64)
    shown: Any = None
    gained: float = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.received = action
        return (np.zeros(2, np.float32) if self.shown is None else self.shown), self.gained, False, False, {}


@pytest.fixture
def toy() -> Iterator[Any]:
    """Registers a `Toy` with some attributes replaced, and returns its id."""
    made: list[str] = []

    def register(limit: int | None = 10, **attributes: Any) -> str:
        made.append(f"Toy{len(made)}-v0")
        gymnasium.register(made[-1], entry_point=type("Variant", (Toy,), attributes), max_episode_steps=limit)
        return made[-1]

    yield register
    for name in made:
        del gymnasium.registry[name]


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5", "Pendulum-v1"])
def test_every_copy_lives_the_episodes_that_gymnasium_gives(name: str) -> None:
    limit = 25
    environment, generator = make(name, 2, max_episode_length=limit), seeded()
    seeds = seeded()
    first = environment.reset(generator)
    actions = draw_actions(environment, 60)
    steps = play(environment, actions, generator)

    theirs = gymnasium.make(name, max_episode_steps=limit)
    space = theirs.action_space
    shown, _ = theirs.reset(seed=int(torch.randint(2**31, (2,), generator=seeds)[1]))
    np.testing.assert_array_equal(first[1], shown.astype(np.float32))
    for action, step in zip(actions, steps, strict=True):
        share = (action[1].double().numpy() + 1) / 2
        outer = np.clip(space.low + share * (space.high - space.low), space.low, space.high).astype(np.float32)
        shown, reward, terminated, truncated, _ = theirs.step(outer)
        np.testing.assert_allclose(step.final_observation[1], shown, rtol=1e-4, atol=1e-5)
        assert float(step.reward[1]) == pytest.approx(float(reward), rel=1e-4, abs=1e-5)
        assert bool(step.terminated[1]) == terminated
        assert bool(step.truncated[1]) == (truncated and not terminated)
        seed = int(torch.randint(2**31, (2,), generator=seeds)[1])
        if terminated or truncated:
            shown, _ = theirs.reset(seed=seed)
        np.testing.assert_allclose(step.observation[1], shown, rtol=1e-4, atol=1e-5)


def test_the_registered_time_limit_holds_unless_another_is_given() -> None:
    assert make("HalfCheetah-v5", 1).max_episode_length == 1000
    assert make("HalfCheetah-v5", 1, max_episode_length=7).max_episode_length == 7


def test_actions_are_spread_over_their_bounds_and_clipped(toy: Any) -> None:
    environment, generator = make(toy(), 1), seeded()
    environment.reset(generator)
    inner = environment._copies[0].unwrapped  # type: ignore[union-attr]
    for action, expected in {
        (-1.0, -1.0, -1.0): (-2, 0, -1),
        (0.0, 0.0, 0.0): (1, 0.5, 0),
        (1.0, 1.0, 5.0): (4, 1, 5),
        (-3.0, 3.0, 0.5): (-2, 1, 0.5),
    }.items():
        environment.step(torch.tensor([action]), generator)
        np.testing.assert_allclose(inner.received, expected, atol=1e-12)


def test_what_the_environment_itself_cuts_is_truncated(toy: Any) -> None:
    def step(self: Any, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        del self, action
        return np.ones(2, np.float32), 0.0, False, True, {}

    environment, generator = make(toy(step=step), 2), seeded()
    environment.reset(generator)
    outcome = environment.step(torch.zeros(2, 3), generator)
    assert outcome.truncated.all()
    assert not outcome.terminated.any()
    assert (outcome.final_observation == 1).all()
    assert (outcome.observation == 0).all()


def test_observations_of_any_shape_are_flattened(toy: Any) -> None:
    picture = spaces.Box(0, 255, (2, 2), np.uint8)

    def reset(self: Any, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        del self, seed, options
        return np.array([[1, 2], [3, 255]], np.uint8), {}

    shown = np.zeros((2, 2), np.uint8)
    observation = make(toy(observation_space=picture, reset=reset, shown=shown), 1).reset(seeded())
    assert observation.tolist() == [[1, 2, 3, 255]]
    assert observation.dtype == torch.float32


def test_an_episode_that_cannot_be_replayed_begins_anew(toy: Any) -> None:
    ends = False

    def step(self: Any, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        del self, action
        return np.ones(2, np.float32), 0.0, ends, False, {}

    name = toy(step=step)
    environment, generator = make(name, 2), seeded()
    environment.reset(generator)
    play(environment, torch.zeros(4, 2, 3), generator)
    state = environment.state()
    assert state["clock"].tolist() == [4, 4]
    assert torch.equal(environment.load_state(state), torch.ones(2, 2))
    ends = True
    resumed = make(name, 2)
    assert torch.equal(resumed.load_state(state), torch.zeros(2, 2))
    assert resumed.state()["clock"].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Reacher-v5"])
def test_mujoco_can_be_drawn_without_rendering(name: str) -> None:
    environment, generator = make(name, 2), seeded()
    environment.reset(generator)
    play(environment, draw_actions(environment, 10), generator)
    drawing = environment.view(1)
    assert isinstance(drawing, Drawing)
    assert len([line for line in drawing.lines if line.role == "body"]) >= 2
    left, right, bottom, top = drawing.bounds
    for line in drawing.lines:
        assert line.points.isfinite().all()
        assert ((line.points[:, 0] >= left) & (line.points[:, 0] <= right)).all()
        if line.role == "body":
            assert ((line.points[:, 1] >= bottom) & (line.points[:, 1] <= top)).all()


def test_frames_are_given_where_the_environment_can_render(toy: Any) -> None:
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def init(self: Any, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def render(self: Any) -> Any:
        del self
        return np.full((3, 4, 3), 7, np.uint8)

    closed = []

    def close(self: Any) -> None:
        closed.append(self)

    name = toy(metadata=metadata, render=render, __init__=init, close=close)
    environment = make(name, 2, render=True)
    environment.reset(seeded())
    frame = environment.view(0)
    assert isinstance(frame, torch.Tensor)
    assert frame.shape == (3, 4, 3)
    assert frame.dtype == torch.uint8
    environment.close()
    assert len(closed) == 2
    with pytest.raises(UserError, match="call reset"):
        environment.view(0)


def test_what_cannot_be_seen_is_named(toy: Any) -> None:
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def init(self: Any, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def render(self: Any) -> Any:
        raise RuntimeError(self.render_mode)

    name = toy(metadata=metadata, render=render, __init__=init)
    for visible, named in ((False, "render = False"), (True, r"render = True: .* \(RuntimeError\)")):
        environment = make(name, 1, render=visible)
        environment.reset(seeded())
        with pytest.raises(UserError, match=named):
            environment.view(0)


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("NoSuchRobot-v5", {}, r"environment = 'NoSuchRobot-v5': give an id that Gymnasium knows"),
        ("HalfCheetah-v77", {}, r"environment = 'HalfCheetah-v77'"),
        ("no_such_module:Robot-v0", {}, r"environment = 'no_such_module:Robot-v0'"),
        ("CartPole-v1", {}, r"action space = 'Discrete\(2\)': actions of CartPole-v1 must be a Box"),
        ("HalfCheetah-v5", {"legs": 3}, r"environment options = \{'legs': 3\}: HalfCheetah-v5 refuses them"),
        ("HalfCheetah-v5", {"max_episode_length": -3}, r"max_episode_length = -3"),
    ],
)
def test_ids_and_options_that_are_refused(name: str, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(name, 1, **settings)


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"observation_space": spaces.Dict({"text": spaces.Text(9)})}, r"observation space = .*must be vectors"),
        ({"observation_space": spaces.Box(0, 255, (8, 8, 3), np.uint8)}, r"observation space = .*looks like an image"),
        ({"observation_space": spaces.Dict({"a": spaces.Box(0, 1, (40, 40))})}, r"Box.*looks like an image"),
        ({"action_space": spaces.MultiDiscrete([3, 3])}, r"action space = .*a flow policy gives real numbers"),
        ({"action_space": spaces.Box(0, 9, (2,), np.int64)}, r"action space = .*must be real numbers"),
        ({"action_space": spaces.Box(-1, 1, (0,), np.float32)}, r"action size = 0"),
        ({"limit": None}, r"max_episode_length = 0: Toy0-v0 registers no time limit and may never end"),
    ],
)
def test_spaces_that_are_refused(toy: Any, attributes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(toy(**attributes), 1)


def test_an_environment_without_a_registered_limit_takes_a_given_one(toy: Any) -> None:
    assert make(toy(limit=None), 1, max_episode_length=5).max_episode_length == 5


def test_what_breaks_its_promise_is_named(toy: Any) -> None:
    with pytest.raises(UserError, match=r"observation shape = \(3,\): environment 0 of Toy0-v0 promised \(2,\)"):
        make(toy(shown=np.zeros(3)), 2)
    environment, generator = make(toy(gained=float("nan")), 2), seeded()
    environment.reset(generator)
    with pytest.raises(UserError, match=r"reward\[0\] = nan: environment 0 of Toy1-v0"):
        check_step(environment, environment.step(torch.zeros(2, 3), generator))


def test_an_action_that_is_not_finite_is_named() -> None:
    environment, generator = make("HalfCheetah-v5", 2), seeded()
    environment.reset(generator)
    action = torch.zeros(2, 6)
    action[1, 4] = float("nan")
    with pytest.raises(UserError, match=r"action\[1, 4\] = nan: HalfCheetah-v5 takes finite actions"):
        environment.step(action, generator)
