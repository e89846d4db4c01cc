"""After a number that is not finite: it is named with its step, nothing bad is saved, and the printed command works."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dipod import runs
from dipod.checkpoints import save_checkpoint, steps_of
from dipod.cli.main import main
from dipod.errors import RewardFailed, UserError
from dipod.guard import NotFinite, first_bad, largest
from dipod.recipes import AnyConfig
from dipod.rewinding import CHANGES, advice, rewind
from dipod.runs import Silent
from tests.control.test_runs import tiny as tiny_control
from tests.test_checkpoints import small
from tests.test_trainer import build, tiny


def test_the_first_bad_entry_is_found_and_the_largest_weight() -> None:
    fine, bad = torch.tensor([1.0, -3.0]), torch.tensor([[0.0, -math.inf], [math.nan, 0.0]])
    assert first_bad([("none", None), ("fine", fine), ("whole", torch.arange(3))]) is None
    assert first_bad([("fine", fine), ("bad", bad), ("later", bad)]) == ("bad", -math.inf)
    assert float(largest([fine, torch.zeros(0), torch.tensor(2.0)])) == 3.0
    assert math.isnan(float(largest([fine, torch.tensor([math.nan, 5.0])])))


def settings(changes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace(".", "__"): value for name, value in changes.items()}


CASES: dict[str, tuple[Callable[..., AnyConfig], dict[str, Any], str]] = {
    "masked": (tiny, {"optimiser.learning_rate": 1e30, "optimiser.warmup": 0}, "gradient"),
    "grown": (
        tiny,
        {"optimiser.learning_rate": 50.0, "trainer.steps": 20, "trainer.evaluate_every": 0, "optimiser.warmup": 20},
        "gradient|proxy|ELBO",
    ),
    "stage": (tiny, {"algorithm": "fpo+interleave", "interleave.learning_rate": 1e30}, "gradient|ELBO"),
    "pretraining": (tiny, {"pretrain.learning_rate": 1e30, "pretrain.save_every": 1}, "gradient"),
    "control": (tiny_control, {"optimiser.learning_rate": 1e30, "algorithm": "fpopp"}, "gradient|action|ratio"),
    "control stage": (
        tiny_control,
        {"distillation.learning_rate": 1e30, "algorithm": "fpopp+initial"},
        "losses|action|gradient",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_command_that_is_printed_brings_the_run_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, changes, named = CASES[case]
    folder = tmp_path / "a run"
    runs.create(folder, make(**settings({**changes, "trainer.save_every": 1})))
    assert main(["train", "--resume", str(folder)]) == 2
    said = capsys.readouterr().err.strip()
    assert re.match(rf"dipod: error: [^=]*({named})[^=]* at step \d", said), said
    command = re.search(r"`dipod (.*)`", said)
    assert command is not None, said
    assert main(shlex.split(command[1])) == 0, capsys.readouterr().err
    assert runs.finished(folder, runs.read_config(folder))
    (change,) = (json.loads(line) for line in (folder / CHANGES).read_text().splitlines())
    assert change["before"] == max(change["before"], 50.0) > change["after"]


def test_a_bad_weight_is_not_saved_over_a_good_checkpoint(tmp_path: Path) -> None:
    network = small()
    save_checkpoint(tmp_path / "step-1", network, {}, {"step": 1})
    before = {path.name: path.read_bytes() for path in (tmp_path / "step-1").iterdir()}
    network.get_parameter("head.weight").data[0, 0] = math.inf
    with pytest.raises(NotFinite, match=r"parameter head\.weight = inf"):
        save_checkpoint(tmp_path / "step-1", network, {}, {"step": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "step-1").iterdir()} == before


def test_rewards_of_any_task_must_be_finite() -> None:
    trainer = build()
    whole = trainer.task.reward

    def broken(problems: Any, completion: Tensor) -> Tensor:
        reward = whole(problems, completion)
        reward[3] = math.nan
        return reward

    trainer.task.reward = broken  # type: ignore[method-assign]
    with pytest.raises(RewardFailed, match=r"reward of completion 3 at step 1 = nan: give finite rewards"):
        trainer.train_step()


def with_checkpoints(folder: Path, weights: dict[int, float], losses: dict[int, float]) -> AnyConfig:
    config = tiny(optimiser__learning_rate=1.0)
    runs.create(folder, config)
    rows = [{"step": step, "largest_weight": 2.0} for step in range(max(weights) + 2)]
    (folder / runs.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, weight in weights.items():
        state = {"step": step, "largest_weight": weight, "loss": losses.get(step, 0.5)}
        save_checkpoint(folder / runs.CHECKPOINTS / f"step-{step}", small(), {}, state)
    return config


def test_the_last_healthy_checkpoint_is_the_one_that_is_advised(tmp_path: Path) -> None:
    """Twenty is ten times the untrained model's; its recipe's rate is what is advised."""
    found = NotFinite("gradient", math.nan, "lower it")
    config = with_checkpoints(tmp_path / "sick", {2: 3.0, 4: 15.0, 6: 21.0}, {})
    said = advice(tmp_path / "sick", config, found)
    assert "update 4 is healthy (largest weight 15, loss 0.5)" in said
    assert f"--resume {tmp_path / 'sick'} --from 4 --optimiser.learning_rate 0.0015`" in said
    config = with_checkpoints(tmp_path / "well", {2: 3.0, 4: 5.0}, {})
    assert "--from" not in advice(tmp_path / "well", config, found)
    (tmp_path / "well" / CHANGES).write_text('{"step": 4, "setting": "optimiser.learning_rate"}\n')
    assert "update 2 is healthy" in advice(tmp_path / "well", config, found), "from 4 it did not help"
    config = with_checkpoints(tmp_path / "next", {2: 3.0, 4: 5.0, 5: 5.0}, {})
    (tmp_path / "next" / runs.METRICS).write_text('{"step": 5}\n')
    assert "update 4 is healthy" in advice(tmp_path / "next", config, found), "the bad step began with 5"
    config = with_checkpoints(tmp_path / "loss", {2: 3.0, 4: 5.0}, {4: math.inf, 2: math.nan})
    assert "begin again" in advice(tmp_path / "loss", config, found)


def test_going_back_keeps_what_came_after_aside(tmp_path: Path) -> None:
    with_checkpoints(tmp_path, {2: 1.0, 4: 1.0, 6: 1.0}, {})
    with pytest.raises(UserError, match="--from = 3: choose one of its checkpoints: 0, 2, 4, 6"):
        rewind(tmp_path, 3)
    assert rewind(tmp_path, 6) is None
    aside = rewind(tmp_path, 2)
    assert aside == tmp_path / "set-aside-1"
    assert sorted(path.name for path in aside.iterdir()) == [runs.METRICS, "step-4", "step-6"]
    assert list(steps_of(tmp_path / runs.CHECKPOINTS)) == [2]
    assert rewind(tmp_path, 0) == tmp_path / "set-aside-2"


def test_a_rate_may_change_on_resuming_and_other_settings_may_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    runs.create(folder, tiny(trainer__steps=2))
    runs.train(folder, Silent())
    for given, said in (
        (["--beta", "3"], "beta = 3.0"),
        (["--pretrain.learning_rate", "0.1"], "the base is made already"),
        (["--optimiser.learning_rate", "-1"], "give a positive number"),
    ):
        assert main(["train", "--resume", str(folder), *given]) == 2
        assert said in capsys.readouterr().err
    assert not (folder / CHANGES).exists()
    assert main(["train", "--resume", str(folder), "--from", "0", "--learning_rate", "1e-4"]) == 0
    assert runs.read_config(folder).optimiser.learning_rate == 1e-4
    assert main(["train", "sudoku", "--from", "0", "--out", str(tmp_path / "other")]) == 2
    assert "it goes with --resume" in capsys.readouterr().err
