"""Motion tracking in miniature: its physics, its reference, its reward, and how hard it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dipod.errors import UserError
from dipod.tasks.control import Track, WorldEpisodes
from dipod.tasks.control.track import chain
from tests.tasks.control import returns, seeded


def controller(world: Track, observation: torch.Tensor) -> torch.Tensor:
    """Feed-forward and proportional-derivative feedback, from what the policy sees alone."""
    d = world.dimensions
    error, velocity_error, target, target_velocity = observation[:, : 4 * d].split(d, -1)
    phase = torch.atan2(observation[:, -2], observation[:, -1]) / (2 * math.pi)
    position, velocity = target - error, target_velocity - velocity_error
    ahead = world.acceleration(phase + world.dt / world.period)
    wanted = ahead + 100 * error + 20 * velocity_error
    action: torch.Tensor = (wanted + world.damping * velocity + world.coupling * chain(position)) / world.strength
    return action


def random_state(world: Track, count: int = 3) -> dict[str, torch.Tensor]:
    numbers = torch.randn(3, count, world.dimensions, generator=seeded(), dtype=torch.float64) / 5
    phase = torch.rand(count, generator=seeded(), dtype=torch.float64)
    return {"position": numbers[0], "velocity": numbers[1], "phase": phase, "action": numbers[2]}


def test_steps_agree_with_a_loop_over_joints() -> None:
    world = Track(dimensions=4)
    state = random_state(world)
    action = 1.5 * torch.randn(3, 4, generator=seeded(2), dtype=torch.float64)
    after, reward, ended = world.advance(state, action)
    target, target_velocity = world.reference(after["phase"])
    for n in range(3):
        q, v = state["position"][n].numpy(), state["velocity"][n].numpy()
        a, old = np.clip(action[n].numpy(), -1, 1), state["action"][n].numpy()
        new_q, new_v = np.zeros(4), np.zeros(4)
        for i in range(4):
            pull = sum(q[j] - q[i] for j in (i - 1, i + 1) if 0 <= j < 4)
            new_v[i] = v[i] + 0.02 * (20 * a[i] - 1.0 * v[i] + 5.0 * pull)
            new_q[i] = q[i] + 0.02 * new_v[i]
        e, de = new_q - target[n].numpy(), new_v - target_velocity[n].numpy()
        expected = math.exp(-np.mean(e**2) / 0.04) + 0.5 * math.exp(-np.mean(de**2)) - 0.01 * np.mean((a - old) ** 2)
        np.testing.assert_allclose(after["position"][n], new_q, atol=1e-14)
        np.testing.assert_allclose(after["velocity"][n], new_v, atol=1e-14)
        assert float(reward[n]) == pytest.approx(0.02 * expected, abs=1e-14)
        assert bool(ended[n]) == (np.abs(e).max() > 0.5)


def test_springs_keep_momentum_and_energy() -> None:
    world = Track(dimensions=6, damping=0.0, coupling=30.0, dt=1e-3)
    state = random_state(world)

    def energy(state: dict[str, torch.Tensor]) -> torch.Tensor:
        stretch = state["position"][:, 1:] - state["position"][:, :-1]
        return (state["velocity"].square().sum(-1) + 30.0 * stretch.square().sum(-1)) / 2

    momentum, start = state["velocity"].sum(-1), energy(state)
    for _ in range(2000):
        state, _, _ = world.advance(state, torch.zeros(3, 6, dtype=torch.float64))
    torch.testing.assert_close(state["velocity"].sum(-1), momentum, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(energy(state), start, rtol=0.01, atol=0.0)


def test_the_reference_is_a_smooth_periodic_motion() -> None:
    world = Track()
    phase = torch.arange(0, 1, 1e-3, dtype=torch.float64)
    position, velocity = world.reference(phase)
    rate = world.period * 1e-3
    step = (position.roll(-1, 0) - position.roll(1, 0)) / (2 * rate)
    torch.testing.assert_close(step, velocity, rtol=0.0, atol=1e-3)
    turn = (velocity.roll(-1, 0) - velocity.roll(1, 0)) / (2 * rate)
    torch.testing.assert_close(turn, world.acceleration(phase), rtol=0.0, atol=5e-3)
    rms = position.square().mean(0).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, world.amplitude))
    assert not torch.allclose(position, Track(motion=1).reference(phase)[0], atol=0.1)


def test_a_full_action_can_follow_the_reference() -> None:
    world = Track()
    phase = torch.arange(0, 1, 1e-3, dtype=torch.float64)
    position, velocity = world.reference(phase)
    force = world.acceleration(phase) + world.damping * velocity + world.coupling * chain(position)
    assert float(force.abs().max()) < world.strength


def test_a_controller_tracks_to_the_end_near_the_largest_reward() -> None:
    world = Track()
    total, length = returns(WorldEpisodes(world, 64), lambda observation: controller(world, observation))
    assert (length == world.max_episode_length).all()
    assert float(total.mean()) > 0.99 * 250 * world.reward_bound
    assert float(total.max()) <= 250 * world.reward_bound


def test_doing_nothing_or_anything_falls_quickly() -> None:
    noise = seeded(3)
    for policy in (lambda o: torch.zeros(len(o), 29), lambda o: torch.randn(len(o), 29, generator=noise)):
        total, length = returns(WorldEpisodes(Track(), 256), policy)
        assert float(length.mean()) < 25
        assert float(total.mean()) < 0.1 * 250 * Track().reward_bound


def test_an_episode_begins_near_the_reference_at_any_time() -> None:
    world = Track()
    observation = WorldEpisodes(world, 4000).reset(seeded())
    errors = observation[:, : 2 * 29]
    assert float(errors.std()) == pytest.approx(0.02, rel=0.05)
    phase = torch.atan2(observation[:, -2], observation[:, -1]) / (2 * math.pi) % 1
    assert torch.histc(phase, 10, 0, 1).min() > 330


def test_the_observation_is_the_state() -> None:
    world = Track(dimensions=3)
    state = random_state(world)
    observation = world.observe(state)
    error, velocity_error, target, target_velocity = observation[:, :12].split(3, -1)
    torch.testing.assert_close(target - error, state["position"])
    torch.testing.assert_close(target_velocity - velocity_error, state["velocity"])
    later, later_velocity = world.reference(state["phase"] + 5 * 0.02 / 5)
    torch.testing.assert_close(observation[:, 12:15] + target, later)
    torch.testing.assert_close(observation[:, 15:18] + target_velocity, later_velocity)
    torch.testing.assert_close(observation[:, 18:21], state["action"])
    assert observation.shape[1] == world.observation_size


@pytest.mark.parametrize(
    ("field", "value"), [("dimensions", 0), ("threshold", 0.0), ("coupling", -1.0), ("period", math.nan)]
)
def test_settings_are_checked(field: str, value: float) -> None:
    with pytest.raises(UserError, match=field):
        Track(**{field: value})  # type: ignore[arg-type]
