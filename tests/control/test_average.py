"""The running average of weights: what it is, and that it is what is evaluated and played."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dipod import runs
from dipod.control.build import build_environment
from dipod.control.evaluation import evaluate
from dipod.control.play import load_policy
from dipod.errors import UserError
from dipod.runs import Silent
from tests.control.test_runs import tiny


def weights(folder: Path, step: int, part: str) -> dict[str, Tensor]:
    """Those of a checkpoint under ``part``."""
    found = load_file(folder / runs.CHECKPOINTS / f"step-{step}" / "model.safetensors")
    return {name.removeprefix(part): value for name, value in found.items() if name.startswith(part)}


def averaged(folder: Path, **changes: object) -> Path:
    """A finished run with a checkpoint after every iteration."""
    settings = {"trainer__average": 0.9, "trainer__average_from": 2, "trainer__save_every": 1, **changes}
    runs.create(folder, tiny(**settings))
    runs.train(folder, Silent())
    return folder


def test_it_is_the_policy_for_a_while_and_then_follows_it(tmp_path: Path) -> None:
    folder = averaged(tmp_path)
    seen = [weights(folder, step, "policy.") for step in range(1, 5)]
    for step in (1, 2):
        assert all(
            torch.equal(value, seen[step - 1][name]) for name, value in weights(folder, step, "average.").items()
        )
    found = weights(folder, 4, "average.")
    for name, value in found.items():
        second, third, fourth = (policy[name] for policy in seen[1:])
        expected = 0.9 * (0.9 * second + 0.1 * third) + 0.1 * fourth
        torch.testing.assert_close(value, fourth if "normaliser" in name else expected)
    assert not torch.equal(found["network.layers.0.weight"], seen[3]["network.layers.0.weight"])


def test_a_stage_of_self_distillation_starts_it_anew(tmp_path: Path) -> None:
    """Before the third iteration: what is averaged then are the weights after the stage and those after the update."""
    changes = {"algorithm": "fpopp+interleave", "trainer__average_from": 0, "optimiser__learning_rate": 1e-12}
    folder = averaged(tmp_path, **changes, optimiser__weight_decay=0.0)
    for name, value in weights(folder, 3, "average.").items():
        torch.testing.assert_close(value, weights(folder, 3, "policy.")[name])
    before = weights(folder, 2, "policy.")["network.layers.0.weight"]
    assert not torch.allclose(weights(folder, 3, "policy.")["network.layers.0.weight"], before)


def test_it_is_what_is_evaluated_and_played(tmp_path: Path) -> None:
    folder = averaged(tmp_path, optimiser__learning_rate=1e-2)
    config, checkpoint = tiny(trainer__average=0.9), runs.last_checkpoint(folder)
    policy = load_policy(config, checkpoint)
    assert all(torch.equal(value, weights(folder, 4, "average.")[name]) for name, value in policy.state_dict().items())
    found = evaluate(policy, build_environment(config, config.trainer.evaluate_episodes))
    last = runs.read_metrics(folder)[-1]
    assert {key: last[key] for key in found} == found


def test_there_is_none_unless_asked_for(tmp_path: Path) -> None:
    folder = averaged(tmp_path, trainer__average=0.0)
    assert not weights(folder, 4, "average.")
    with pytest.raises(UserError, match=r"trainer\.average = 1\.0: give a number from 0 to below 1"):
        tiny(trainer__average=1.0)
