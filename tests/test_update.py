"""The update: passes, inner steps, penalties and processes change nothing that they should not change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dipod import runs
from dipod.algorithms import ALGORITHMS
from dipod.config import OptimiserConfig, Settings, TrainerConfig
from dipod.errors import UserError
from dipod.likelihood.corruption import bounds
from dipod.parallel import Processes, start
from dipod.policies.masked import MaskedPolicy
from dipod.policies.sampling import SamplerConfig
from dipod.policies.tokens import Tokens
from dipod.recipes import build_policy, build_task, build_trainer, language, load, overlay, to_yaml
from dipod.rollouts import Rollouts
from dipod.runs import Silent
from dipod.stopping import Interrupted
from dipod.trainer import Trainer
from dipod.update import Updater, rows_in_passes
from tests import conftest
from tests.checkpoints import write_tiny_llada
from tests.test_trainer import StopAfter, build, tiny


def double(**changes: object) -> Trainer:
    trainer = build(trainer__cosine_rollouts=0, corruption__scheme="own", corruption__samples=0, **changes)
    trainer.policy.network.double()
    return trainer


def parameters(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


def after_one_step(**changes: object) -> Tensor:
    trainer = double(**changes)
    trainer.train_step()
    return parameters(trainer)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("suffix", ["", "+dipod"])
def test_every_row_trains_with_and_without_tightening_in_any_passes(name: str, suffix: str) -> None:
    """One update equals itself in passes of 1 and of 5 completions (float64), with two inner steps."""
    changes = {"algorithm": name + suffix, "beta": 0.5, "beta_ramp": 0, "trainer.inner_updates": 2}
    whole = after_one_step(**changes)
    assert not torch.equal(whole, parameters(double(**changes)))
    for rows in (1, 5):
        torch.testing.assert_close(after_one_step(**changes, trainer__rows_per_pass=rows), whole, rtol=1e-6, atol=1e-9)


def test_passes_hold_whole_rollouts_where_there_is_room() -> None:
    assert rows_in_passes(6, 4, 0) == ([slice(0, 6)], 4)
    assert rows_in_passes(6, 4, 8) == ([slice(0, 2), slice(2, 4), slice(4, 6)], 4)
    assert rows_in_passes(2, 4, 3) == ([slice(0, 1), slice(1, 2)], 3)


@pytest.mark.parametrize("name", ["fpo", "d1", "unigrpo", "stabledrl"])
def test_masks_are_fresh_or_kept_as_the_row_says(name: str) -> None:
    trainer = double(algorithm=name, trainer__inner_updates=3)
    rollouts = trainer.collect("rollout")
    corruptions = [trainer.updater.corrupt(rollouts, 0.0, 0, i) for i in range(3)]
    again = trainer.updater.corrupt(rollouts[2:5], 0.0, 0, 1)
    assert torch.equal(again.masked, corruptions[1].masked[2:5]), "a rollout's masks do not depend on its batch"
    if name == "unigrpo":
        assert (corruptions[2].masked.sum() >= corruptions[0].masked.sum()).all()
    elif name != "d1":
        assert torch.equal(corruptions[0].masked, corruptions[2].masked) != trainer.algorithm.corruption.fresh


def test_rows_that_do_not_bound_get_masks_of_their_own_for_the_elbo() -> None:
    for name, row in ALGORITHMS.items():
        for block in (32, 2):
            trainer = double(algorithm=f"{name}+dipod", corruption__block_length=block)
            rollouts, own = trainer.collect("rollout"), row.corruption.samples
            drawn = trainer.updater.corrupt(rollouts, 0.5, 0, 0)
            assert (drawn.samples > own) != bounds(trainer.algorithm.corruption, 5)
            alone = trainer.updater.corrupt(rollouts, 0.0, 0, 0)
            assert torch.equal(drawn.pick(slice(0, own)).masked, alone.masked), "the estimator's masks stay as they are"
            assert alone.samples == own


def test_the_beta_term_is_an_elbo_where_the_estimator_s_masks_are_not_and_the_released_one_the_estimator_s() -> None:
    """SPG in blocks of 2, fpo's released masks, hidden prompt tokens: β's own masks bound; unless told otherwise."""
    cases: list[dict[str, object]] = [
        {"algorithm": "spg-elbo+dipod", "corruption.block_length": 2},
        {"algorithm": "fpo+dipod", "corruption.scheme": "released-fpo"},
        {"algorithm": "fpo+dipod", "corruption.prompt_share": 0.2},
    ]
    for case in cases:
        updater = double(**case).updater
        assert updater.bound is not None
        assert bounds(updater.bound, 5)
        assert updater.bounding == updater.bound
        assert updater.tells_elbo
        released = double(**case, corruption__elbo="estimator").updater
        assert released.bound is None
        assert bounds(released.bounding, 5), "a stage maximises an ELBO all the same"
        assert not released.tells_elbo
    metrics = double(**cases[0], beta=0.5, beta_ramp=0).train_step()
    plain = double(algorithm="spg-elbo", corruption__block_length=2).train_step()
    assert "train_elbo" in metrics
    assert "train_elbo" not in plain
    assert float(metrics["forward_rows"]) > float(plain["forward_rows"]), "the ELBO's masks are counted"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_update_says_its_elbo_where_its_masks_bound_and_is_silent_elsewhere(name: str) -> None:
    bounding = bounds(ALGORITHMS[name].corruption, 5)
    assert ("train_elbo" in double(algorithm=name).train_step()) == bounding
    assert "train_elbo" in double(algorithm=f"{name}+dipod", beta=0.5, beta_ramp=0).train_step()


class OfTwo(Processes):
    """One of two processes with as many rollouts each."""

    def total(self, value: Tensor) -> Tensor:
        return 2 * super().total(value)


def step_of(policy: MaskedPolicy, rollouts: Rollouts, processes: Processes, name: str, block: int) -> Tensor:
    """How one plain gradient step moves the parameters, with hidden prompt tokens and β."""
    corruption = replace(ALGORITHMS[name].corruption, prompt_share=0.4, block_length=block)
    algorithm = replace(ALGORITHMS[name], corruption=corruption, normaliser="rollouts")
    settings = Settings(TrainerConfig(), SamplerConfig(), OptimiserConfig(max_grad_norm=1e9), corruption=corruption)
    own = replace(policy, network=deepcopy(policy.network))
    parameters = list(own.network.parameters())
    updater = Updater(own, own, algorithm, settings, 0, processes, parameters, 4)
    before = torch.cat([p.detach().flatten() for p in parameters])
    updater.update(rollouts, 0.3, torch.optim.SGD(parameters, 1e-3), 0)
    return torch.cat([p.detach().flatten() for p in parameters]) - before


@pytest.mark.parametrize(("name", "block"), [("fpo", 32), ("spg", 2), ("d1", 32)])
def test_hidden_prompt_tokens_do_not_depend_on_who_shares_the_rollouts(name: str, block: int) -> None:
    """Prompts of 1 to 6 tokens: two halves, padded to widths of their own, move the parameters as the whole does."""
    policy, sizes = conftest.build_policy(4, 6, sharpness=1.0), torch.tensor([3, 1, 6, 2])
    ids = torch.randint(3, (4, 6), generator=torch.Generator().manual_seed(0))
    prompt = Tokens(ids, torch.arange(6) >= 6 - sizes[:, None])
    action = Tokens.full(conftest.every_completion(4)[[5, 50, 70, 33]])
    counted = torch.arange(4) < torch.tensor([4, 2, 3, 4])[:, None]
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    order = torch.arange(4).expand(4, -1)
    whole = Rollouts(prompt, action, counted, advantage, advantage, torch.arange(4), order)
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        width = int(sizes[rows].max())
        narrow = Tokens(prompt.ids[rows, 6 - width :], prompt.valid[rows, 6 - width :])
        halves.append(replace(whole[rows], observation=narrow))
    moved = torch.stack([step_of(policy, half, OfTwo(start().accelerator), name, block) for half in halves]).sum(0)
    torch.testing.assert_close(moved, step_of(policy, whole, start(), name, block), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_kl_penalty_pulls_back_to_the_base_from_the_second_inner_step_on(estimator: str) -> None:
    """At the base itself k2 and k3 have no gradient; a heavy penalty keeps the policy nearer to the base."""
    common = {"algorithm": "fpo", "trainer.inner_updates": 4, "objective.kl": estimator}
    start = parameters(double(**common))
    free = (after_one_step(**common) - start).norm()
    if estimator == "k1":
        first = {**common, "trainer.inner_updates": 1}
        assert not torch.equal(after_one_step(**first, objective__kl_weight=1.0), after_one_step(**first))
    else:
        first = {**common, "trainer.inner_updates": 1}
        torch.testing.assert_close(after_one_step(**first, objective__kl_weight=1.0), after_one_step(**first))
        held = (after_one_step(**common, objective__kl_weight=100.0) - start).norm()
        assert held < free


def test_a_process_for_the_bound_does_not_take_the_place_of_what_makes_a_row() -> None:
    trainer = build(algorithm="d1+dipod", corruption__scheme="stratified", corruption__samples=4)
    rollouts = trainer.collect("rollout")
    corruption = trainer.updater.corrupt(rollouts, 0.5, 0, 0)
    assert corruption.samples == 1 + 4
    assert torch.equal(corruption.masked[:, 0], rollouts.counted)
    assert build(algorithm="fpo", corruption__scheme="stratified").algorithm.corruption.scheme == "stratified"
    assert build(algorithm="d1", corruption__scheme="structured").algorithm.corruption.scheme == "structured"


def test_dropout_needs_whole_rollouts_in_a_pass() -> None:
    with pytest.raises(UserError, match=r"trainer\.rows_per_pass = 1: with dropout"):
        double(algorithm="fpo", trainer__dropout=True, trainer__rows_per_pass=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixed_precision_sums_in_float32(dtype: str) -> None:
    """bfloat16 arithmetic moves an ELBO of some ten nats by per cents, and its sum is not rounded to bfloat16."""
    trainer = build(algorithm="fpo")
    rollouts = trainer.collect("rollout")
    plain = trainer.updater.evidence(rollouts, trainer.updater.corrupt(rollouts, 0.0, 0, 0)).elbo()
    policy = trainer.policy
    policy.network.to(getattr(torch, dtype))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = trainer.updater.evidence(rollouts, trainer.updater.corrupt(rollouts, 0.0, 0, 0)).elbo()
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, mixed.bfloat16().float())
    torch.testing.assert_close(mixed, plain, rtol=0.05, atol=0.05)


def test_dropout_is_keyed_and_leaves_torchs_own_generator_alone(tmp_path: Path) -> None:
    write_tiny_llada(tmp_path / "model")
    settings: dict[str, object] = {
        "model": str(tmp_path / "model"),
        "model.dtype": "float32",
        "model.lora_rank": 2,
        "task.name": "countdown",
        "task.train_source": "generate",
        "task.completion_length": 8,
        "task.max_prompt": 600,
        "sampler.steps": 4,
        "sampler.block_length": 8,
        "trainer.prompts": 2,
        "trainer.group_size": 2,
        "trainer.evaluate_problems": 0,
        "algorithm": "fpo+dipod",
    }
    results = []
    for share, dropout in ((0.5, True), (0.5, True), (0.0, True), (0.5, False)):
        given = {**settings, "model.lora_dropout": share, "trainer.dropout": dropout}
        config = language(overlay(load("llada"), given))
        task = build_task(config)
        trainer = build_trainer(config, build_policy(config, task), task)
        state = torch.get_rng_state()
        trainer.train_step()
        assert torch.equal(state, torch.get_rng_state())
        results.append(parameters(trainer))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(results[2], results[3]), "dropout of nothing is none"


def launch(folder: Path, processes: int) -> None:
    """`dipod train --resume` of a run folder on several processes on the CPU."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "dipod", "train", "--resume", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_two_processes_do_what_one_does_and_one_goes_on_where_two_stopped(tmp_path: Path) -> None:
    """Rollouts and advantages equal, parameters within 1e-6 (float32 sums in another order); checkpoints fit both.

    Prompts are of unlike length and partly hidden: no mask depends on the width that a process pads to.
    """
    config = tiny(
        algorithm="espo+dipod",
        beta_ramp=0,
        trainer__prompts=4,
        trainer__inner_updates=2,
        trainer__rows_per_pass=3,
        trainer__evaluate_problems=9,
        trainer__cosine_rollouts=0,
        corruption__prompt_share=0.3,
    )
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        runs.create(folder, config)
    with pytest.raises(Interrupted):
        runs.train(two, StopAfter("trained", 2))
    runs.train(one, Silent())
    launch(two, 2)
    rows = [runs.read_metrics(folder) for folder in (one, two)]
    assert [row["step"] for row in rows[1]] == list(range(7))
    for key in ("reward", "reward_std", "reward_sampled", "solved_greedy", "elbo", "gap", "train_elbo", "grad_norm"):
        values = [[row[key] for row in found if key in row] for found in rows]
        assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-5), key
    last = [load_file(folder / runs.CHECKPOINTS / "step-6" / "model.safetensors") for folder in (one, two)]
    for name, tensor in last[0].items():
        torch.testing.assert_close(last[1][name], tensor, rtol=1e-4, atol=1e-6)
    for path in (two / runs.CHECKPOINTS / "step-6").iterdir():
        path.unlink()
    (two / runs.CHECKPOINTS / "step-6").rmdir()
    runs.train(two, Silent())
    again = load_file(two / runs.CHECKPOINTS / "step-6" / "model.safetensors")
    for name, tensor in last[0].items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-4, atol=1e-6)


def test_prompts_must_divide_among_processes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runs.create(folder, tiny(trainer__prompts=3, trainer__group_size=3))
    assert "prompts: 3" in to_yaml(runs.read_config(folder))
    with pytest.raises(
        AssertionError, match=r"trainer\.prompts = 9: give a multiple of the number of processes \(2\)"
    ) as refused:
        launch(folder, 2)
    assert str(refused.value).count("dipod: error") == 1, "one process speaks for all"
    assert json.dumps(runs.read_metrics(folder)) == "[]"
