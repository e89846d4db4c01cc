"""Clocks, resets, truncation, resuming and randomness: the same laws for every environment."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import Drawing, Environment, check_step, make
from tests.tasks.control import draw_actions, play, seeded

EMBEDDED: dict[str, dict[str, Any]] = {
    "track": {"dimensions": 5, "max_episode_length": 30},
    "pendulum": {"max_episode_length": 12},
    "cartpole-swingup": {"rail": 0.3, "force": 20.0, "max_episode_length": 40},
    "multigoal": {"reach": 0.4, "control_cost": 0.1, "max_episode_length": 25},
}
GYMNASIUM: dict[str, dict[str, Any]] = {
    "Hopper-v5": {"max_episode_length": 30},
    "Pendulum-v1": {"max_episode_length": 12},
    "HalfCheetah-v5": {"max_episode_length": 12},
}
NAMES = [*EMBEDDED, *GYMNASIUM]
ENDING = ["track", "cartpole-swingup", "multigoal", "Hopper-v5"]
"""Those of them whose episodes may end for good."""
N, T = 6, 70


def build(name: str, count: int = N, **settings: Any) -> Environment:
    if name in GYMNASIUM:
        pytest.importorskip("gymnasium")
    return make(name, count, **{**EMBEDDED.get(name, {}), **GYMNASIUM.get(name, {}), **settings})


def same(first: Any, second: Any, rows: slice = slice(None)) -> bool:
    fields = ("observation", "reward", "terminated", "truncated", "final_observation")
    return all(torch.equal(getattr(first, field)[rows], getattr(second, field)[rows]) for field in fields)


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_ends_once_and_the_next_begins_at_once(name: str) -> None:
    environment = build(name)
    generator = seeded()
    environment.reset(generator)
    length = torch.zeros(N, dtype=torch.int64)
    for step in play(environment, draw_actions(environment, T), generator):
        check_step(environment, step)
        length += 1
        assert not (step.terminated & step.truncated).any()
        assert torch.equal(step.truncated, (length == environment.max_episode_length) & ~step.terminated)
        running = ~step.done
        assert torch.equal(step.observation[running], step.final_observation[running])
        assert (step.observation[step.done] != step.final_observation[step.done]).any(-1).all()
        length[step.done] = 0


@pytest.mark.parametrize("name", ENDING)
def test_some_episodes_end_for_good(name: str) -> None:
    environment = build(name, max_episode_length=1000)
    generator = seeded()
    environment.reset(generator)
    push = torch.ones(150, N, environment.action_size)
    steps = play(environment, push, generator)
    assert torch.stack([step.terminated for step in steps]).any()
    assert not torch.stack([step.truncated for step in steps]).any()


@pytest.mark.parametrize("name", ENDING)
def test_an_end_for_good_is_not_a_time_out_where_both_fall_on_one_step(name: str) -> None:
    def first_end(limit: int) -> tuple[int, Any]:
        environment = build(name, 1, max_episode_length=limit)
        generator = seeded()
        environment.reset(generator)
        for length in range(1, 1000):
            step = environment.step(torch.ones(1, environment.action_size), generator)
            if step.done:
                return length, step
        raise AssertionError

    length, _ = first_end(1000)
    again, step = first_end(length)
    assert again == length
    assert step.terminated
    assert not step.truncated
    _, step = first_end(length - 1)
    assert step.truncated
    assert not step.terminated


@pytest.mark.parametrize("name", NAMES)
def test_generators_alone_decide(name: str) -> None:
    runs = []
    for seed in (0, 0, 1):
        environment, generator = build(name), seeded(seed)
        first = environment.reset(generator, spread=True)
        runs.append((first, play(environment, draw_actions(environment, T), generator)))
    (first, steps), (first_again, steps_again), (first_other, _) = runs
    assert torch.equal(first, first_again)
    assert all(same(a, b) for a, b in zip(steps, steps_again, strict=True))
    assert not torch.equal(first, first_other)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str) -> None:
    environment, generator = build(name), seeded()
    environment.reset(generator, spread=True)
    actions = draw_actions(environment, T)
    before = play(environment, actions[: T // 2], generator)
    state, noise = environment.state(), generator.get_state()
    after = play(environment, actions[T // 2 :], generator)

    resumed, generator = build(name), torch.Generator()
    generator.set_state(noise)
    assert torch.equal(resumed.load_state(state), before[-1].observation)
    again = play(resumed, actions[T // 2 :], generator)
    assert all(same(a, b) for a, b in zip(after, again, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_a_copy(name: str) -> None:
    environment, generator = build(name), seeded()
    environment.reset(generator)
    actions = draw_actions(environment, 8)
    play(environment, actions[:4], generator)
    state = environment.state()
    kept = {key: value.clone() for key, value in state.items()}
    play(environment, actions[4:], generator)
    environment.load_state(state)
    play(environment, actions[4:], generator)
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], kept[key]) for key in state)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_else_changes_an_environments_episodes(name: str) -> None:
    environment, other = build(name), build(name)
    actions = draw_actions(environment, T)
    changed = actions.clone()
    changed[:, 0] = 1
    generators = seeded(), seeded()
    environment.reset(generators[0])
    other.reset(generators[1])
    steps, others = play(environment, actions, generators[0]), play(other, changed, generators[1])
    assert all(same(a, b, slice(1, None)) for a, b in zip(steps, others, strict=True))
    assert torch.stack([step.done[1:] for step in steps]).any()


@pytest.mark.parametrize("name", NAMES)
def test_alone_an_environment_goes_as_in_the_batch(name: str) -> None:
    environment, generator = build(name), seeded()
    environment.reset(generator)
    actions = draw_actions(environment, 4)
    play(environment, actions[:2], generator)
    alone = build(name, 1)
    alone.load_state({key: value[3:4] for key, value in environment.state().items()})
    for action in actions[2:]:
        together, single = environment.step(action, generator), alone.step(action[3:4], generator)
        assert not together.done[3]
        torch.testing.assert_close(single.observation[0], together.observation[3], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(single.reward[0], together.reward[3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EMBEDDED)
def test_single_precision_follows_double(name: str) -> None:
    single, double = build(name, dtype=torch.float32), build(name, dtype=torch.float64)
    generators = seeded(), seeded()
    first = single.reset(generators[0]), double.reset(generators[1])
    torch.testing.assert_close(first[0], first[1].float(), rtol=1e-5, atol=1e-5)
    for action in draw_actions(single, 5):
        step, exact = single.step(action, generators[0]), double.step(action, generators[1])
        assert (step.observation.dtype, step.reward.dtype) == (torch.float32, torch.float32)
        assert (exact.observation.dtype, exact.reward.dtype) == (torch.float64, torch.float64)
        torch.testing.assert_close(step.final_observation, exact.final_observation.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(step.reward, exact.reward.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_goes_as_the_cpu(name: str) -> None:
    here, there = build(name), build(name, device="cuda")
    generators = seeded(), seeded()
    torch.testing.assert_close(here.reset(generators[0]), there.reset(generators[1]).cpu())
    for action in draw_actions(here, 5):
        step, far = here.step(action, generators[0]), there.step(action.cuda(), generators[1])
        assert far.observation.device.type == "cuda"
        torch.testing.assert_close(step.observation, far.observation.cpu(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(step.reward, far.reward.cpu(), rtol=1e-4, atol=1e-4)


def test_episodes_may_begin_at_any_time() -> None:
    environment, generator = make("pendulum", 4000, max_episode_length=20), seeded()
    environment.reset(generator, spread=True)
    steps = play(environment, torch.zeros(20, 4000, 1), generator)
    ends = torch.stack([step.truncated for step in steps])
    assert (ends.sum(0) == 1).all()
    torch.testing.assert_close(ends.float().mean(-1), torch.full((20,), 1 / 20), rtol=0.0, atol=0.015)


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_drawing_lies_within_its_bounds(name: str) -> None:
    environment, generator = build(name), seeded()
    environment.reset(generator)
    play(environment, draw_actions(environment, 10), generator)
    drawing = environment.view(2)
    assert isinstance(drawing, Drawing)
    left, right, bottom, top = drawing.bounds
    shapes = [*(line.points for line in drawing.lines), *(circle.centre[None] for circle in drawing.circles)]
    assert any(line.role == "body" for line in drawing.lines)
    for points in shapes:
        assert points.shape[1] == 2
        assert ((points[:, 0] >= left) & (points[:, 0] <= right)).all()
        assert ((points[:, 1] >= bottom) & (points[:, 1] <= top)).all()


@pytest.mark.parametrize("name", NAMES)
def test_mistakes_are_named(name: str) -> None:
    environment, generator = build(name), seeded()
    right = torch.zeros(N, environment.action_size)
    for early in (lambda: environment.step(right, generator), environment.state, lambda: environment.view(0)):
        with pytest.raises(UserError, match="call reset"):
            early()
    environment.reset(generator)
    with pytest.raises(UserError, match="action shape"):
        environment.step(right[:-1], generator)
    with pytest.raises(UserError, match="action shape"):
        environment.step(torch.zeros(N, environment.action_size + 1), generator)
    with pytest.raises(UserError, match="counted from 0"):
        environment.view(N)
    with pytest.raises(UserError, match="state clock shape"):
        build(name, 2).load_state(environment.state())
    with pytest.raises(UserError, match=r"state .* shape"):
        environment.load_state({"clock": torch.zeros(N, dtype=torch.int64)})
    with pytest.raises(UserError, match="environments"):
        build(name, 0)
    with pytest.raises(UserError, match="max_episode_length"):
        build(name, max_episode_length=-1)
