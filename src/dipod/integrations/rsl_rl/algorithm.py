"""Flow estimators in the place of rsl_rl's PPO: it acts, takes in steps and updates when the runner says so."""

from __future__ import annotations

import logging
import time
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.modules import EmpiricalNormalization
from rsl_rl.storage import RolloutStorage
from rsl_rl.utils import compile_model, resolve_callable, resolve_obs_groups
from tensordict import TensorDict
from torch import Tensor

from dipod.control.alignment import alignment_of
from dipod.control.config import SelfDistillationConfig
from dipod.control.distillation import self_distil
from dipod.control.evaluation import entropy_of, own_gap
from dipod.control.peers import Peers
from dipod.control.rollouts import Collector
from dipod.control.update import Transitions
from dipod.drift import Gap
from dipod.drift.monitor import Beta, Look, Spent, Watch, look, spread
from dipod.errors import require
from dipod.integrations.rsl_rl.actor import FlowActor
from dipod.integrations.rsl_rl.config import FlowAlgorithmConfig, read
from dipod.integrations.rsl_rl.environment import RunnerEnvironment, refuse_unfinite
from dipod.integrations.rsl_rl.learner import GroupLearner
from dipod.loop import Metrics
from dipod.noise import derive, keyed_generator
from dipod.objectives.returns import generalised_advantages
from dipod.policies.normaliser import Normaliser
from dipod.tasks.control import Environment

STATE = "dipod"
"""Key of the algorithm's own state in rsl_rl's files."""
KEPT = ("updates", "rounds", "beta", "gap", "gap_before")
"""What is in it besides the monitor's memory."""


class FlowAlgorithm(PPO):  # type: ignore[misc]
    """``class_name: "dipod.integrations.rsl_rl:FlowAlgorithm"``.

    One iteration: where one is due, a stage of self-distillation, before the rollout's first action; the rollout,
    in which noise samples and old proxies are kept by value; the library's gradient steps; and only then what was
    seen enters the normalisers.

    Args:
        actor: a `FlowActor`.
        critic: one of rsl_rl's models without memory.
        storage: rsl_rl's.
        config: the settings.
        env: the runner's environment, for warm-up and stages.
        seed: of everything random.
        device: where all of it is computed.
        multi_gpu_cfg: rsl_rl's; None for one process.

    Attributes:
        updates: updates done, over all sessions of a run.
        rounds: rounds of self-distillation done.
        beta: β in force.
        gap: the last gap measured for the tightening's sake, in nats.
        gap_before: the one measured before that.
        watch: what the monitor of drift remembers.
        logger: the runner's, where `StageLogging` gave it.
    """

    def __init__(
        self,
        actor: FlowActor,
        critic: Any,
        storage: Any,
        config: FlowAlgorithmConfig,
        env: Any,
        seed: int = 0,
        device: str = "cpu",
        multi_gpu_cfg: dict[str, int] | None = None,
    ) -> None:
        found = config.resolve()
        self.config, self.env, self.seed = config, env, seed
        self.row, self.tightening = found.row, found.tightening
        given = multi_gpu_cfg or {"global_rank": 0, "world_size": 1}
        self.peers = Peers(given["global_rank"], given["world_size"], device)
        actor, critic = actor.to(device), critic.to(device)
        parts = (found.row, found.trainer, found.objective, found.optimiser)
        self.learner = GroupLearner(actor, critic, *parts, self.peers)
        super().__init__(
            actor,
            critic,
            storage,
            num_learning_epochs=config.num_learning_epochs,
            num_mini_batches=config.num_mini_batches,
            gamma=config.gamma,
            lam=config.lam,
            learning_rate=config.learning_rate,
            device=device,
            multi_gpu_cfg=multi_gpu_cfg,
        )
        self.optimizer = self.learner.optimiser
        self.learner.per_mini_batch = config.normalize_advantage_per_mini_batch
        self.updates, self.rounds = 0, 0
        self.beta: float | None = None
        self.gap: float | None = None
        self.gap_before: float | None = None
        self.watch, self._spent, self._since = Watch(), Spent(), time.perf_counter()
        self.logger: Any = None
        self._begun: int | None = None
        self._phase: Metrics = {}

    @staticmethod
    def construct_algorithm(obs: TensorDict, env: Any, cfg: dict[str, Any], device: str) -> FlowAlgorithm:
        """Actor, critic, storage and algorithm from the runner's configuration.

        Raises:
            UserError: a setting that does not exist or is refused.
        """
        chosen = {part: deepcopy(cfg[part]) for part in ("algorithm", "actor", "critic")}
        for part, given in chosen.items():
            require("class_name" in given, f"{part}.class_name", None, "name a class, as docs/rsl_rl.md does")
        kinds = {part: resolve_callable(chosen[part].pop("class_name")) for part in chosen}
        flow = isinstance(kinds["actor"], type) and issubclass(kinds["actor"], FlowActor)
        mend = 'give "dipod.integrations.rsl_rl:FlowActor"'
        require(flow, "actor.class_name", cfg["actor"]["class_name"], mend)
        config = read(FlowAlgorithmConfig, chosen["algorithm"], "algorithm")
        rows, parts = env.num_envs * cfg["num_steps_per_env"], config.num_mini_batches
        require(parts <= rows, "algorithm.num_mini_batches", parts, f"there are {rows} transitions")
        refuse_unfinite(obs)
        seed = cfg.get("seed") or 0
        groups = cfg["obs_groups"] = resolve_obs_groups(obs, cfg["obs_groups"], ["actor", "critic"])
        actor = kinds["actor"](obs, groups, "actor", env.num_actions, **{"seed": seed, **chosen["actor"]})
        neighbour, entropy = config.objective.entropy_neighbour, config.resolve().objective.entropy
        few = entropy > 0 and neighbour >= actor.policy.settings.times.samples
        require(not few, "algorithm.objective.entropy_neighbour", neighbour, "give less than actor.samples")
        critic: Any = kinds["critic"](obs, groups, "critic", 1, **chosen["critic"])
        mend = "give a critic without memory, such as MLPModel"
        require(not critic.is_recurrent, "critic.class_name", cfg["critic"]["class_name"], mend)
        if isinstance(critic.obs_normalizer, EmpiricalNormalization):  # ours agrees over processes in any version
            critic.obs_normalizer = Normaliser(critic.obs_normalizer.mean.shape[-1])
        storage = RolloutStorage("rl", env.num_envs, cfg["num_steps_per_env"], obs, [env.num_actions], device)
        made = kinds["algorithm"](actor, critic, storage, config, env, seed, device, cfg.get("multi_gpu"))
        made.compile(cfg.get("torch_compile_mode"))
        cfg["check_for_nan"] = False  # the algorithm's own check_finite says where
        cfg["algorithm"]["rnd_cfg"] = None  # rsl_rl 5.4 looks it up
        algorithm: FlowAlgorithm = made
        return algorithm

    @property
    def learning_rate(self) -> float:
        """η in force."""
        return self.learner.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.learner.learning_rate = rate

    def act(self, obs: TensorDict) -> Tensor:
        """Sample actions [N, d], and keep their noise samples and proxies."""
        if self.storage.step == 0 and self._begun != self.updates:
            obs = self._begin(obs)
        actor: FlowActor = self.actor
        action, record = actor.act(obs)
        evidence = actor.evidence(obs, action, record)
        old = self.row.proxy(evidence)
        kept = (*record, old, evidence.predicted_noise()) if self._steered else (*record, old)
        transition = self.transition
        transition.observations, transition.actions = obs, action
        transition.values = self.critic(obs).detach()
        transition.actions_log_prob = old.reshape(len(old), -1).mean(-1)
        transition.distribution_params = tuple(part.detach() for part in kept)
        return action

    def process_env_step(self, obs: TensorDict, rewards: Tensor, dones: Tensor, extras: dict[str, Tensor]) -> None:
        """Keep what actions led to; a time-out is worth γ times the value of the state before.

        Raises:
            UserError: observations or rewards that are not finite.
        """
        if self.config.check_finite:
            refuse_unfinite(obs, rewards)
        transition = self.transition
        transition.rewards, transition.dones = rewards.clone(), dones
        if "time_outs" in extras:
            transition.rewards += self.gamma * transition.values[:, 0] * extras["time_outs"].to(self.device)
        self.storage.add_transition(transition)
        transition.clear()

    def compute_returns(self, obs: TensorDict) -> None:
        """Advantages and returns of the rollout, standardised over all processes."""
        stored = self.storage
        value = stored.values[..., 0]
        following = torch.cat([value[1:], self.critic(obs).detach()[None, :, 0]])
        done = stored.dones[..., 0].bool()
        reward = stored.rewards[..., 0]
        advantage, returns = generalised_advantages(reward, value, following, done, done, self.gamma, self.lam)
        if not self.config.normalize_advantage_per_mini_batch:
            advantage = self.peers.standardise(advantage, self.config.advantage_limit)
        stored.returns[..., 0], stored.advantages[..., 0] = returns, advantage

    def update(self) -> dict[str, float]:
        """All gradient steps of an iteration; the normalisers take its observations in at the end."""
        batch, drift = self.transitions(), Metrics()
        if self.tightening.wants_gap(self.updates):
            found = self._gap(batch, self.config.adaptive.rollouts)
            if found is not None:
                self.gap_before, self.gap, drift["gap"] = self.gap, found.gap, found.gap
        self.beta = self.tightening.next_beta(self.updates, self.beta, self.gap, self.gap_before)
        drift |= self._look(batch)
        generator = keyed_generator(self.seed, "update", self.updates, device=self.device)
        metrics = self.learner.descend(batch, self.beta, generator) | self._phase | drift
        self._observe(cast(TensorDict, batch.observation))
        self.updates, self._phase = self.updates + 1, {}
        self.storage.clear()
        del metrics["learning_rate"]  # the runner logs it itself
        now = time.perf_counter()
        self._spent.total, self._since = self._spent.total + now - self._since, now
        return {name.removesuffix("_loss"): float(v) for name, v in metrics.items() if not isinstance(v, str)}

    def _gap(self, batch: Transitions, count: int) -> Gap | None:
        """The exact gap of own actions on ``count`` observations of the rollouts of all processes."""
        rows = spread(len(batch), -(-count // self.peers.size)).to(self.device)
        seen = self.actor.observation(batch.observation[rows])
        observation, seed = self.peers.gather(seen).flatten(0, 1), derive(self.seed, "monitor", self.updates)
        return own_gap(self.actor.policy, observation, self.config.objective.cutoff, seed, self.peers)

    def _look(self, batch: Transitions) -> Metrics:
        """What the monitor of drift says, where a look is due and within its budget; in words, in Python's log."""
        monitor = self.config.monitor
        beta = Beta(self.beta or 0.0, self.config.beta, self.tightening.settled(self.updates))

        def measure() -> Look:
            gap = self._gap(batch, monitor.rollouts)
            if gap is None or not monitor.aligned or self.peers.size > 1:
                return Look(gap, more={} if gap is None else entropy_of(gap))
            few = batch[spread(len(batch), monitor.aligned).to(self.device)]
            few = replace(few, observation=self.actor.observation(cast(TensorDict, few.observation)))
            generator = keyed_generator(self.seed, "monitor", self.updates, device=self.device)
            found = alignment_of(self.actor.policy, self.row, few, generator, self.beta or 0.0, self.learner.bound)
            return Look(gap, found, entropy_of(gap))

        def agreed(affordable: bool) -> bool:
            return bool(float(self.peers.gather(torch.tensor(float(affordable)))[0]))

        found = look(monitor, self.watch, self._spent, self.updates, beta, measure, agreed)
        if "warning" in found and self.peers.rank == 0:
            logging.getLogger("dipod").warning("iteration %d: %s", self.updates, found["warning"])
        return found

    def transitions(self) -> Transitions:
        """The rollout in the library's terms, its observations by group."""
        stored = self.storage
        kept = [part.flatten(0, 1) for part in stored.distribution_params]
        return Transitions(
            observation=stored.observations.flatten(0, 1),
            action=stored.actions.flatten(0, 1),
            record=tuple(kept[:3]),
            advantage=stored.advantages.flatten(),
            returns=stored.returns.flatten(),
            value=stored.values.flatten(),
            old=kept[3],
            change=kept[4] if self._steered else None,
            width=self.env.num_envs,
        )

    def save(self) -> dict[str, Any]:
        """What rsl_rl saves, and where the run stands."""
        state = {name: getattr(self, name) for name in KEPT} | {"watch": asdict(self.watch)}
        return {**super().save(), STATE: state}

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, bool] | None, strict: bool) -> bool:
        """Put back what `save` returned, or parts of it as rsl_rl names them.

        Raises:
            UserError: saved by another algorithm.
        """
        mend = "it was saved by another algorithm; give a file of a FlowAlgorithm"
        require(STATE in loaded_dict, "checkpoint", sorted(loaded_dict), mend)
        iteration = bool(super().load(loaded_dict, load_cfg, strict))
        if iteration:
            state = loaded_dict[STATE]
            for name in KEPT:
                setattr(self, name, state[name])
            self.watch = Watch.of(state["watch"])
            self._begun = None
        return iteration

    def compile(self, mode: str | None = None) -> None:
        """Compile the critic; the policy's sampler is not made for it."""
        self.critic = self.learner.critic = compile_model(self._raw_critic, mode)

    @property
    def _steered(self) -> bool:
        return self.learner.config.target_change > 0

    def _begin(self, obs: TensorDict) -> TensorDict:
        """Warm-up or a stage where one is due; returns what to act on then."""
        if self.config.check_finite:
            refuse_unfinite(obs)
        with torch.inference_mode(False), torch.no_grad():
            environment = RunnerEnvironment(self.env, self.actor, obs, self.device, self.logger)
            collector = Collector(cast(Environment, environment), self.peers)
            if self.updates == 0 and self.config.warmup_steps:
                self._warm_up(collector, environment)
            stage = self.tightening.distillation_before(self.updates, self.gap)
            if stage is not None:
                self._distil(collector, stage)
        if self.logger is not None:
            self.logger.tot_timesteps += collector.transitions
        self.actor.generator = self._generator("rollout", self.updates)
        self._begun = self.updates
        return environment.obs

    def _generator(self, *purpose: int | str) -> torch.Generator:
        """Of this process's environments."""
        total = self.env.num_envs * self.peers.size
        return self.peers.generator(self.seed, *purpose, total=total, device=self.device)

    def _warm_up(self, collector: Collector, environment: RunnerEnvironment) -> None:
        generator = self._generator("warm-up")
        for _ in range(self.config.warmup_steps):
            seen = environment.obs
            collector.collect(self.actor.policy, 1, generator)
            self._observe(seen)

    @torch.enable_grad()
    def _distil(self, collector: Collector, stage: SelfDistillationConfig) -> None:
        """One stage on all processes together, each bringing as much as one would alone."""
        started, policy, before = time.perf_counter(), self.actor.policy, collector.transitions
        seed, size = derive(self.seed, "stage", self.updates), self.peers.size
        cutoff, norm = self.config.objective.cutoff, self.config.max_grad_norm
        whole = replace(stage, batch=stage.batch * size, buffer=stage.buffer * size)
        rounds = self_distil(policy, collector, whole, cutoff, seed, norm)
        self._phase = {
            "distillation_loss_first": rounds[0].loss,
            "distillation_loss_last": rounds[-1].loss,
            "distillation_transitions": collector.transitions - before,
            "distillation_seconds": time.perf_counter() - started,
        }
        writer: Any = getattr(self.logger, "writer", None)
        for i, done in enumerate(rounds if writer is not None else [], self.rounds):
            for name, value in (("loss", done.loss), ("actions", done.actions), ("reward", done.reward)):
                writer.add_scalar(f"SelfDistillation/{name}", value, i)
        self.rounds += len(rounds)

    def _observe(self, obs: TensorDict) -> None:
        """Take observations by group, [R, ...] each, of all processes into the normalisers."""
        actor, critic = self._raw_actor, self._raw_critic
        if actor.obs_normalization:
            self.peers.observe(actor.policy.normaliser, actor.observation(obs))
        if isinstance(critic.obs_normalizer, Normaliser):
            self.peers.observe(critic.obs_normalizer, torch.cat([obs[group] for group in critic.obs_groups], -1))
        elif critic.obs_normalization:
            critic.update_normalization(obs)
