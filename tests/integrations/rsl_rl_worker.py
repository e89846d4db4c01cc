"""One of two processes that share an update under rsl_rl; rsl_rl's own runner starts several on GPUs only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dipod.integrations.rsl_rl import FlowAlgorithm, VectorEnvironment

Given = dict[str, Any]
PARTS = ("actions", "rewards", "dones", "values", "actions_log_prob", "returns", "advantages")


def build(cfg: Given, count: int, seed: int, rank: int, size: int) -> tuple[FlowAlgorithm, VectorEnvironment]:
    """An algorithm of ``size`` processes, its critic's weights drawn after seeding by rank."""
    torch.manual_seed(rank)
    env = VectorEnvironment("track", count, seed=seed, dimensions=3, max_episode_length=20)
    processes = {"global_rank": rank, "local_rank": rank, "world_size": size} if size > 1 else None
    return FlowAlgorithm.construct_algorithm(env.get_observations(), env, {**cfg, "multi_gpu": processes}, "cpu"), env


def roll_out(algorithm: FlowAlgorithm, env: VectorEnvironment, steps: int) -> None:
    """One rollout as the runner does it."""
    with torch.inference_mode():
        obs = env.get_observations()
        for _ in range(steps):
            obs, reward, dones, extras = env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, reward, dones, extras)
        algorithm.compute_returns(obs)


def flat(algorithm: FlowAlgorithm) -> Tensor:
    """All weights and what the normalisers hold."""
    models = (algorithm.actor, algorithm.critic)
    return torch.cat([part.detach().double().flatten() for model in models for part in model.state_dict().values()])


def kept(algorithm: FlowAlgorithm) -> Given:
    """A rollout, what was made of it, [T, N, ...] each, and the weights that it was drawn with."""
    storage = algorithm.storage
    found: Given = {name: getattr(storage, name).clone() for name in PARTS}
    found["observations"] = storage.observations["policy"].clone()
    found["distribution_params"] = [part.clone() for part in storage.distribution_params]
    return {**found, "before": flat(algorithm)}


def put_back(algorithm: FlowAlgorithm, shares: list[Given]) -> None:
    """Let one process hold the rollouts of several, and their weights."""
    rest = shares[0]["before"]
    for model in (algorithm.actor, algorithm.critic):
        for part in model.state_dict().values():
            part.copy_(rest[: part.numel()].reshape(part.shape))
            rest = rest[part.numel() :]
    storage = algorithm.storage
    for name in PARTS:
        setattr(storage, name, torch.cat([share[name] for share in shares], 1))
    storage.observations["policy"] = torch.cat([share["observations"] for share in shares], 1)
    parts = zip(*(share["distribution_params"] for share in shares), strict=True)
    storage.distribution_params = tuple(torch.cat(part, 1) for part in parts)


def work(rank: int, size: int, folder: str, cfg: Given, count: int) -> None:
    """Two iterations; what came of each is written to ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    algorithm, env = build(cfg, count, 10 + rank, rank, size)
    algorithm.broadcast_parameters()
    found: list[Given] = [{"weights": flat(algorithm)}]
    for _ in range(2):
        roll_out(algorithm, env, cfg["num_steps_per_env"])
        share = kept(algorithm)
        algorithm.update()
        found.append({**share, "weights": flat(algorithm), "rate": algorithm.learning_rate})
    torch.save(found, Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()
