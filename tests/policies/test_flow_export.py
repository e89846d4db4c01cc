"""Flow policies as files: what comes back is the same policy, and what is exported acts as it does."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from dipod.errors import UserError
from dipod.likelihood.flow import TimesConfig
from dipod.noise import keyed_generator
from dipod.policies import flow_export
from dipod.policies.flow import ChainPolicy, FlowPolicy, FlowSettings, make_flow
from dipod.policies.flow_export import (
    ZeroNoiseFlow,
    export_onnx,
    export_torchscript,
    load_action_units,
    load_flow_policy,
    save_flow_policy,
)
from dipod.policies.gaussian import GaussianPolicy
from dipod.tasks.control import ActionUnits

OBSERVATION = 2 + 3 * torch.randn(6, 5, generator=keyed_generator(0))


def policy(act: str = "elu", chain: bool = False) -> FlowPolicy:
    settings = FlowSettings(7, action_scale=0.5, times=TimesConfig(4, beta=1.5))
    made = make_flow(5, 3, (16, 12), settings, keyed_generator(1), chain, act=act, output_scale=0.7, time_features=6)
    made.normaliser.update(1 + 2 * torch.randn(100, 5, generator=keyed_generator(2)))
    return made


@pytest.mark.parametrize("chain", [False, True])
def test_a_saved_policy_comes_back_bit_for_bit(tmp_path: Path, chain: bool) -> None:
    mine = policy("silu", chain)
    save_flow_policy(mine, tmp_path / "folder")
    found = load_flow_policy(tmp_path / "folder")
    assert isinstance(found, ChainPolicy) == chain
    assert found.settings == mine.settings
    assert torch.equal(found.mode(OBSERVATION), mine.mode(OBSERVATION))
    for one, other in zip(
        found.act(OBSERVATION, keyed_generator(3)), mine.act(OBSERVATION, keyed_generator(3)), strict=True
    ):
        assert str(one) == str(other)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("act", ["elu", "silu", "relu", "tanh"])
def test_the_module_to_export_is_the_zero_noise_action_whatever_the_policy_learns_later(act: str) -> None:
    mine = policy(act)
    module, expected = ZeroNoiseFlow(mine), mine.mode(OBSERVATION)
    torch.testing.assert_close(module(OBSERVATION), expected, rtol=0, atol=1e-6)
    mine.normaliser.update(OBSERVATION)
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(module(OBSERVATION), expected, rtol=0, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_torchscript_acts_as_the_policy_does(tmp_path: Path) -> None:
    mine, file = policy(), tmp_path / "new" / "policy.pt"
    assert export_torchscript(mine, file) < 1e-5
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load`", DeprecationWarning)
        loaded = torch.jit.load(file)
    for rows in (1, 6):
        torch.testing.assert_close(loaded(OBSERVATION[:rows]), mine.mode(OBSERVATION[:rows]), rtol=0, atol=1e-5)


def test_onnx_acts_as_the_policy_does(tmp_path: Path) -> None:
    reference = pytest.importorskip("onnx.reference")
    mine, file = policy(), tmp_path / "policy.onnx"
    assert export_onnx(mine, file) < 1e-5
    evaluator = reference.ReferenceEvaluator(str(file))
    for rows in (1, 6):
        (found,) = evaluator.run(None, {"observation": OBSERVATION[:rows].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), mine.mode(OBSERVATION[:rows]), rtol=0, atol=1e-5)


def test_without_onnx_the_mistake_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r'pip install "dipod\[onnx\]"'):
        export_onnx(policy(), tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_acts_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_export, "EPSILON", 0.02)
    with pytest.raises(UserError, match="largest difference"):
        export_torchscript(policy(), tmp_path / "policy.pt")
    assert not list(tmp_path.iterdir())


def test_what_is_no_flow_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="policy = 'GaussianPolicy'"):
        export_torchscript(GaussianPolicy(5, 3, (8,)), tmp_path / "policy.pt")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no config\.json"):
        load_flow_policy(tmp_path)
    save_flow_policy(policy(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, named in ({"format": "other"}, "format = 'other'"), ({"shape": {}}, "cannot be read"):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=named):
            load_flow_policy(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="cannot be read"):
        load_flow_policy(tmp_path)


UNITS = {
    "both ends": ([0.0, -2.0, 10.0], [3.0, 2.0, 11.0]),
    "no ends": ([-math.inf] * 3, [math.inf] * 3),
    "one end": ([0.1, -math.inf, -math.inf], [math.inf, 0.05, math.inf]),
    "mixed": ([-1.0, -math.inf, -1000.0], [1.0, 0.0, 1000.0]),
    "float64": ([0.1, -0.3, 1 / 3], [0.7, 0.1, 0.6]),
}


@pytest.mark.parametrize("name", UNITS)
def test_files_act_in_the_environment_s_units_whatever_its_bounds(name: str, tmp_path: Path) -> None:
    """Compared with NumPy's own arithmetic of the mapping; many of these actions would leave their bounds."""
    low, high = (torch.tensor(end, dtype=torch.float64) for end in UNITS[name])
    units, mine = ActionUnits.spread(low, high), policy()
    with torch.no_grad():
        mine.network.layers[-1].bias.add_(torch.tensor([3.0, -3.0, 0.5]))  # type: ignore[operator]
    plain = mine.mode(OBSERVATION).double().numpy()
    bounded = np.isfinite(low.numpy()) & np.isfinite(high.numpy())
    spread = plain.copy()
    ends = low.numpy()[bounded], high.numpy()[bounded]
    spread[:, bounded] = ends[0] + (plain[:, bounded] + 1) / 2 * (ends[1] - ends[0])
    expected = np.clip(spread, low.numpy(), high.numpy())
    width = np.where(bounded, (high - low).numpy(), 1)
    assert export_torchscript(mine, tmp_path / "policy.pt", units, {"task": "mine"}) < 1e-5
    extra = {"metadata.json": ""}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load`", DeprecationWarning)
        loaded = torch.jit.load(tmp_path / "policy.pt", _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == {"task": "mine"}
    save_flow_policy(mine, tmp_path / "folder", units, {"task": "mine"})
    whole = ZeroNoiseFlow(load_flow_policy(tmp_path / "folder"), load_action_units(tmp_path / "folder"))
    for found in (loaded(OBSERVATION), whole(OBSERVATION)):
        np.testing.assert_allclose(found.numpy() / width, expected / width, atol=1e-5)
        assert ((found.double() >= low) & (found.double() <= high)).all()
    if name != "no ends":
        assert (expected == high.numpy()).any() or (expected == low.numpy()).any()


def test_onnx_says_what_it_is_and_acts_in_the_environment_s_units(tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    low, high = (torch.tensor(end, dtype=torch.float64) for end in UNITS["float64"])
    units, mine, file = ActionUnits.spread(low, high), policy(), tmp_path / "policy.onnx"
    assert export_onnx(mine, file, units, {"task": "mine", "action_low": "[0.1]"}) < 1e-5
    kept = {prop.key: prop.value for prop in onnx.load(str(file)).metadata_props}
    assert kept == {"task": "mine", "action_low": "[0.1]"}
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"observation": OBSERVATION.numpy()})
    np.testing.assert_allclose(found, units(mine.mode(OBSERVATION)), atol=1e-5)
    assert ((found >= low.numpy()) & (found <= high.numpy())).all()
    double = policy()
    double.network.double()
    assert export_onnx(double, file, units) < 1e-5


def test_a_folder_without_units_says_so(tmp_path: Path) -> None:
    save_flow_policy(policy(), tmp_path)
    assert torch.equal(load_action_units(tmp_path).factor, torch.ones(3, dtype=torch.float64))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["action_units"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="it says no units of actions"):
        load_action_units(tmp_path)
