"""Flow policies as files: what comes back is the same policy, and what is exported acts as it does."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

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
    load_flow_policy,
    save_flow_policy,
)
from dipod.policies.gaussian import GaussianPolicy

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
