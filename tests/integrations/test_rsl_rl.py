"""Flow policies under rsl_rl's runner: ratios of one, the library's own update, resumption, stages, export."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

pytest.importorskip("rsl_rl")

import numpy as np
from rsl_rl.runners import OnPolicyRunner
from rsl_rl.utils import LogWriter

from dipod.control.evaluation import measure_gap
from dipod.control.rollouts import Trajectories
from dipod.control.update import Learner
from dipod.drift.monitor import Watch
from dipod.errors import UserError
from dipod.integrations.rsl_rl import DipodRunner, FlowActor, FlowAlgorithm, VectorEnvironment
from dipod.noise import derive, keyed_generator
from tests.integrations import rsl_rl_worker

ENVS, STEPS = 16, 8


def environment(count: int = ENVS, seed: int = 0) -> VectorEnvironment:
    return VectorEnvironment("track", count, seed=seed, dimensions=3, max_episode_length=20)


def configuration(**algorithm: Any) -> dict[str, Any]:
    return {
        "num_steps_per_env": STEPS,
        "save_interval": 50,
        "seed": 3,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {
            "class_name": "dipod.integrations.rsl_rl:FlowActor",
            "hidden_dims": [32, 32],
            "samples": 4,
            "sampling_steps": 5,
        },
        "critic": {"class_name": "MLPModel", "hidden_dims": [32], "activation": "elu", "obs_normalization": True},
        "algorithm": {"class_name": "dipod.integrations.rsl_rl:FlowAlgorithm", **algorithm},
    }


def runner(env: Any = None, kind: Any = OnPolicyRunner, log_dir: str | None = None, **algorithm: Any) -> Any:
    torch.manual_seed(0)  # rsl_rl draws the critic's weights from the global generator
    return kind(env or environment(), configuration(**algorithm), log_dir=log_dir, device="cpu")


def roll_out(made: Any) -> FlowAlgorithm:
    """One rollout as the runner does it."""
    algorithm: FlowAlgorithm = made.alg
    with torch.inference_mode():
        obs = made.env.get_observations()
        for _ in range(STEPS):
            obs, reward, dones, extras = made.env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, reward, dones, extras)
        algorithm.compute_returns(obs)
    return algorithm


def recorded(env: VectorEnvironment) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A list that rewards, dones and time-outs of the environment's steps go into."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    step = env.step

    def kept(actions: Tensor) -> Any:
        obs, reward, dones, extras = step(actions)
        found.append((reward.clone(), dones > 0, extras["time_outs"].clone()))
        return obs, reward, dones, extras

    env.step = kept  # type: ignore[method-assign]
    return found


def parameters(made: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in made.alg.learner.parameters])


@pytest.mark.parametrize("estimator", ["fpo", "fpopp"])
def test_ratios_are_one_before_the_first_step_also_once_normalisers_have_moved(estimator: str) -> None:
    made = runner(estimator=estimator, num_learning_epochs=1)
    for count in (0, ENVS * STEPS):
        algorithm = roll_out(made)
        normaliser = algorithm.actor.policy.normaliser
        assert float(normaliser.count) == count, "it does not move during a rollout"
        batch = algorithm.transitions()
        evidence = algorithm.actor.evidence(batch.observation, batch.action, batch.record)
        _, log_ratio = algorithm.row.contributions(evidence, batch.old, batch.advantage)
        assert float(log_ratio.abs().max()) <= 2e-6, "float32 sums in batches of other sizes"
        algorithm.update()
        assert float(normaliser.count) == float(algorithm.critic.obs_normalizer.count) == count + ENVS * STEPS


@pytest.mark.parametrize(
    "settings", [{"estimator": "fpopp+dipod", "beta": 0.1}, {"estimator": "fpo", "clip_param": 0.1}]
)
def test_an_update_is_the_librarys_own(settings: dict[str, Any]) -> None:
    made = runner(**settings, schedule="adaptive", desired_kl=1e-3)
    made.env.episode_length_buf = torch.arange(ENVS) + 4  # the time limit of 20 strikes within the rollout
    steps = recorded(made.env)
    algorithm = roll_out(made)
    stored = algorithm.storage
    reward, done, cut = (torch.stack(part) for part in zip(*steps, strict=True))
    assert bool(cut.any())
    observation = stored.observations["policy"]
    seen = Trajectories(
        observation,
        stored.actions,
        tuple(part.clone() for part in stored.distribution_params[:3]),
        reward,
        done & ~cut,
        cut,
        torch.cat([observation[1:], made.env.get_observations()["policy"][None]]),
    )
    policy, critic = deepcopy(algorithm.actor.policy), deepcopy(algorithm.critic.mlp)
    found = algorithm.config.resolve()
    mine = Learner(policy, critic, found.row, found.trainer, found.objective, found.optimiser)
    expected = mine.update(seen, float(settings.get("beta", 0)), keyed_generator(3, "update", 0))
    metrics = algorithm.update()
    assert metrics["value"] == pytest.approx(expected["value_loss"], rel=1e-4)
    assert algorithm.learning_rate == expected["learning_rate"] != algorithm.config.learning_rate
    torch.testing.assert_close(
        parameters(made), torch.cat([p.detach().flatten() for p in mine.parameters]), rtol=0, atol=2e-5
    )
    torch.testing.assert_close(algorithm.actor.policy.normaliser.mean, policy.normaliser.mean)


STAGE = {"iterations": 4, "environment_steps": 2, "batch": 32}


@pytest.mark.parametrize("estimator", ["fpo", "fpopp", "fpo+dipod", "fpopp+interleave", "fpopp+initial"])
def test_three_iterations_under_the_plain_runner(estimator: str) -> None:
    made = runner(
        estimator=estimator,
        distillation={**STAGE, "every": 2},
        warmup_steps=2,
        entropy_coef=1e-4,
        use_clipped_value_loss=True,
        normalize_advantage_per_mini_batch=True,
        objective={"tighten": "flat", "negative_loss_limit": 10.0},
    )
    before = parameters(made)
    made.learn(3, init_at_random_ep_len=True)
    assert bool(torch.isfinite(parameters(made)).all())
    assert float((parameters(made) - before).abs().max()) > 1e-4
    assert made.alg.updates == 3
    assert made.alg.rounds == {"interleave": 8, "initial": 4}.get(estimator.partition("+")[2], 0)
    assert float(made.alg.actor.policy.normaliser.count) == (3 * STEPS + 2) * ENVS, "stages leave it alone"


HELD = {"target": 0.01, "every": 1, "rollouts": 8}


def test_a_gap_is_held_by_a_moving_beta_or_by_stages() -> None:
    moving = runner(estimator="fpopp+adaptive", beta=0.1, adaptive={**HELD, "rate": 0.2})
    moving.learn(3)
    assert moving.alg.gap > 0.01 * np.e**2, "so the rule moves log β by its most at each update"
    assert moving.alg.beta == pytest.approx(0.1 * np.exp(3 * 0.2 * 2))
    staged = runner(estimator="fpopp+tolerance", distillation=STAGE, adaptive=HELD)
    staged.learn(3)
    assert staged.alg.rounds == 2 * STAGE["iterations"], "one after each measurement that an update follows"


def test_watching_reports_the_exact_gap_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    made = runner(monitor={"every": 1, "budget": 1.0, "rollouts": 16, "aligned": 16})
    watched = roll_out(made)
    observation = watched.storage.observations["policy"].flatten(0, 1)[torch.arange(16) * STEPS]
    expected = measure_gap(watched.actor.policy, observation, 0.005, derive(3, "monitor", 0))
    found = watched.update()
    assert found["monitor_gap"] == pytest.approx(expected["gap"], rel=1e-5)
    assert found["monitor_entropy"] == pytest.approx(expected["entropy"], rel=1e-5)
    assert 0.8 < found["monitor_cosine"] <= 1
    assert watched.watch.looks[0][1] == found["monitor_gap"]
    unwatched = roll_out(runner(monitor={"every": 0}))
    assert "monitor_gap" not in unwatched.update()
    assert all(torch.equal(a, b) for a, b in zip(watched.learner.parameters, unwatched.learner.parameters, strict=True))
    watched.watch = Watch(reference=[1e-3, 1e-3, 0, 0, 1])
    roll_out(made).update()
    assert "the gap has grown" in caplog.text


@pytest.mark.parametrize("estimator", ["fpopp+initial", "fpopp+adaptive", "fpopp+tolerance"])
def test_a_run_that_is_resumed_equals_one_that_never_stopped(tmp_path: Path, estimator: str) -> None:
    settings: dict[str, Any] = {"estimator": estimator, "distillation": STAGE, "schedule": "adaptive", "adaptive": HELD}
    whole = runner(**settings)
    whole.learn(2)
    whole.save(str(tmp_path / "model.pt"))
    state = whole.env.state()
    whole.learn(2)
    resumed = runner(environment(seed=5), **{**settings, "learning_rate": 1e-3})
    resumed.load(str(tmp_path / "model.pt"))
    resumed.env.load_state(state)
    resumed.learn(2)
    assert torch.equal(parameters(whole), parameters(resumed))
    assert whole.alg.learning_rate == resumed.alg.learning_rate
    assert whole.alg.save()["dipod"] == resumed.alg.save()["dipod"]
    if estimator == "fpopp+initial":
        assert resumed.alg.rounds == STAGE["iterations"], "the stage is not run again"


class Recorder(LogWriter):  # type: ignore[misc]
    """Keeps what the runner logs."""

    seen: dict[str, list[float]]

    def __init__(self, log_dir: str) -> None:
        del log_dir
        self.seen = {}

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None) -> None:
        del global_step
        self.seen.setdefault(tag, []).append(float(scalar_value))


def test_the_first_stage_closes_the_gap_and_is_a_phase_of_its_own_in_the_log(tmp_path: Path) -> None:
    stage = {"iterations": 150, "environment_steps": 2, "batch": 256, "learning_rate": 5e-3}
    cfg = configuration(estimator="fpopp+initial", distillation=stage, learning_rate=1e-5)
    cfg["logger"] = {"class_name": Recorder}
    made = DipodRunner(environment(64), cfg, log_dir=str(tmp_path), device="cpu")
    observation = made.env.get_observations()["policy"]
    before = measure_gap(made.alg.actor.policy, observation, 0.005)
    made.learn(1)
    after = measure_gap(made.alg.actor.policy, observation, 0.005)
    assert float(after["gap"]) < 0.5 * float(before["gap"])
    seen = made.logger.writer.seen
    assert len(seen["SelfDistillation/loss"]) == 150
    assert seen["Loss/distillation_transitions"] == [150 * 2 * 64]
    assert made.logger.tot_timesteps == 64 * (STEPS + 150 * 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's, of its exporters
@pytest.mark.parametrize("normalised", [True, False])
def test_exported_actions_are_the_policys(tmp_path: Path, normalised: bool) -> None:
    reference = pytest.importorskip("onnx.reference")
    cfg = configuration()
    cfg["actor"] |= {"obs_normalization": normalised, "action_scale": 1.5, "output_scale": 0.5}
    made = OnPolicyRunner(environment(), cfg, device="cpu")
    made.learn(2)
    policy: FlowActor = made.get_inference_policy(device="cpu")
    obs = made.env.get_observations()
    with torch.inference_mode():
        expected = policy(obs)
        sampled = policy(obs, stochastic_output=True)
    assert float(policy.output_std.mean()) == pytest.approx(float(sampled.std(0, unbiased=False).mean()))
    made.export_policy_to_jit(str(tmp_path))
    scripted = torch.jit.load(str(tmp_path / "policy.pt"))
    scripted.reset()
    torch.testing.assert_close(scripted(obs["policy"]), expected, rtol=0, atol=1e-5)
    made.export_policy_to_onnx(str(tmp_path))
    session = reference.ReferenceEvaluator(str(tmp_path / "policy.onnx"))
    rows = [session.run(["actions"], {"obs": row[None].numpy()})[0] for row in obs["policy"]]
    np.testing.assert_allclose(np.concatenate(rows), expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's, of its exporters
def test_exported_actions_are_clipped_as_the_wrapper_clips_them(tmp_path: Path) -> None:
    """Mjlab's and Isaac Lab's wrappers have ``clip_actions``; what stands behind them is what a file is for."""
    received: list[torch.Tensor] = []

    class Clipping(VectorEnvironment):
        clip_actions = 0.1

        def step(self, actions: torch.Tensor) -> Any:
            received.append(actions.clamp(-self.clip_actions, self.clip_actions))
            return super().step(received[-1])

    cfg = configuration()
    cfg["actor"] |= {"action_scale": 4.0}
    made = DipodRunner(Clipping("pendulum", 6), cfg, device="cpu")
    policy: FlowActor = made.get_inference_policy(device="cpu")
    obs = made.env.get_observations()
    with torch.inference_mode():
        made.env.step(policy(obs))
    assert (received[-1].abs() == Clipping.clip_actions).any()
    made.export_policy_to_jit(str(tmp_path))
    scripted = torch.jit.load(str(tmp_path / "policy.pt"))
    torch.testing.assert_close(scripted(obs["policy"]), received[-1], rtol=0, atol=1e-5)


def test_without_normalisation_the_policy_sees_what_the_environment_gives() -> None:
    cfg = configuration()
    cfg["actor"]["obs_normalization"] = False
    made = OnPolicyRunner(environment(), cfg, device="cpu")
    made.learn(1)
    seen = made.env.get_observations()["policy"]
    torch.testing.assert_close(made.alg.actor.policy.normaliser(seen), seen)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda cfg: cfg["algorithm"].update(clip_parm=0.1), "algorithm.clip_parm"),
        (lambda cfg: cfg["algorithm"].update(objective={"redution": "sum"}), "algorithm.objective.redution"),
        (lambda cfg: cfg["algorithm"].update(estimator="ppo"), "algorithm.estimator"),
        (lambda cfg: cfg["algorithm"].update(estimator="fpopp+tight"), "algorithm.estimator"),
        (lambda cfg: cfg["algorithm"].update(monitor={"budget": 0.0}), "algorithm.monitor.budget"),
        (lambda cfg: cfg["algorithm"].update(adaptive={"target": -1.0}), "algorithm.adaptive.target"),
        (lambda cfg: cfg["algorithm"].update(gamma=1.5), "algorithm.gamma"),
        (lambda cfg: cfg["algorithm"].update(lam="0.95"), "algorithm.lam"),
        (lambda cfg: cfg["algorithm"].update(num_mini_batches=1000), "algorithm.num_mini_batches"),
        (lambda cfg: cfg["algorithm"].update(schedule="cosine"), "algorithm.schedule"),
        (lambda cfg: cfg["algorithm"].update(optimizer="adam"), "algorithm.optimizer"),
        (lambda cfg: cfg["algorithm"].update(rnd_cfg={"weight": 1.0}), "algorithm.rnd_cfg"),
        (lambda cfg: cfg["algorithm"].update(clip_param=0.1, objective={"clip": 0.2}), "algorithm.clip_param"),
        (
            lambda cfg: cfg["algorithm"].update(entropy_coef=0.1, objective={"entropy_neighbour": 4}),
            "algorithm.objective.entropy_neighbour",
        ),
        (lambda cfg: cfg["actor"].pop("class_name"), "actor.class_name"),
        (lambda cfg: cfg["actor"].update(hiden_dims=[3]), "actor.hiden_dims"),
        (lambda cfg: cfg["actor"].update(hidden_dims=[0]), "actor.hidden_dims"),
        (lambda cfg: cfg["actor"].update(class_name="MLPModel"), "actor.class_name"),
        (lambda cfg: cfg["critic"].update(class_name="RNNModel"), "critic.class_name"),
    ],
)
def test_a_wrong_setting_is_named(change: Callable[[dict[str, Any]], None], field: str) -> None:
    cfg = configuration()
    change(cfg)
    with pytest.raises(UserError) as raised:
        OnPolicyRunner(environment(), cfg, device="cpu")
    assert raised.value.field == field


@pytest.mark.parametrize(("what", "entry"), [("observation group policy", [5, 2]), ("reward", [5])])
def test_what_is_not_finite_is_named_before_anything_is_learned(what: str, entry: list[int]) -> None:
    env = environment()
    step = env.step

    def broken(actions: Tensor) -> Any:
        obs, reward, dones, extras = step(actions)
        (reward if what == "reward" else obs["policy"])[tuple(entry)] = float("nan")
        return obs, reward, dones, extras

    env.step = broken  # type: ignore[method-assign]
    made = runner(env)
    before = parameters(made)
    with pytest.raises(UserError, match=rf"{what} .*environment 5") as raised:
        made.learn(1)
    assert raised.value.field == f"{what} {entry}"
    assert torch.equal(before, parameters(made))


def test_a_file_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    torch.save({"actor_state_dict": {}, "iter": 3, "infos": None}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="another algorithm"):
        runner().load(str(tmp_path / "model.pt"))


def test_the_environment_reports_time_outs_and_takes_clocks() -> None:
    env = environment()
    env.episode_length_buf = torch.full_like(env.episode_length_buf, 19)
    obs, reward, dones, extras = env.step(torch.zeros(ENVS, env.num_actions))
    assert obs["policy"].shape == (ENVS, env.environment.observation_size)
    assert reward.shape == (ENVS,)
    assert bool(extras["time_outs"].all())
    assert bool(dones.all())
    assert int(env.episode_length_buf.sum()) == 0


def test_two_processes_stay_one_policy_and_update_as_one_process_would(tmp_path: Path) -> None:
    cfg = configuration(
        estimator="fpopp+initial",
        distillation=STAGE,
        num_learning_epochs=2,
        num_mini_batches=2,
        schedule="adaptive",
        warmup_steps=2,
    )
    spawn(rsl_rl_worker.work, (2, str(tmp_path), cfg, ENVS), nprocs=2)
    one, other = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    for mine, theirs in zip(one, other, strict=True):
        assert torch.equal(mine["weights"], theirs["weights"])
        assert mine.get("rate") == theirs.get("rate")
    advantage = torch.cat([one[2]["advantages"], other[2]["advantages"]], 1)
    assert float(advantage.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantage.std()) == pytest.approx(1, abs=1e-4)
    alone, _ = rsl_rl_worker.build(cfg, 2 * ENVS, 0, 0, 1)
    rsl_rl_worker.put_back(alone, [one[1], other[1]])
    alone.update()
    torch.testing.assert_close(rsl_rl_worker.flat(alone), one[1]["weights"], rtol=0, atol=2e-5)
