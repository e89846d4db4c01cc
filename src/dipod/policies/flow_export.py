"""Flow policies as files: whole ones to go on with, and their zero-noise action for programs without this library."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.files import make_folder, replacing, write_json
from dipod.likelihood.flow import TimesConfig
from dipod.noise import keyed_generator
from dipod.policies.flow import ChainPolicy, FlowPolicy, FlowSettings, make_flow
from dipod.policies.hub import CONFIG_FILE, WEIGHTS_FILE
from dipod.policies.normaliser import EPSILON

FORMAT = "dipod-flow-policy"
TOLERANCE = 1e-5
"""Largest difference between an exported action and the policy's own, in units of the larger of 1 and the action."""
PROBES = 64
"""Observations that an export is compared on."""
OPSET = 18
INPUT, OUTPUT = "observation", "action"
ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "silu": nn.SiLU, "relu": nn.ReLU, "tanh": nn.Tanh}


class ZeroNoiseFlow(nn.Module):
    """Observations [N, o] as the environment gives them to a flow policy's zero-noise actions [N, d] in its units.

    Normaliser, K Euler steps and the action's scale are inside, copied, so that the policy may go on learning. All of
    it is plain tensor code, for `torch.jit.script`, `torch.jit.trace` and ONNX.

    Args:
        policy: whose actions they are; its `mode` is what `forward` computes.
    """

    def __init__(self, policy: FlowPolicy) -> None:
        super().__init__()
        require(isinstance(policy, FlowPolicy), "policy", type(policy).__name__, "only flow policies are exported so")
        network, first = policy.network, policy.network.first
        dtype, steps = first.weight.dtype, policy.settings.sampling_steps
        self.observation_size, self.action_size, self.steps = network.observation_size, network.action_size, steps
        self.scale, self.output_scale = policy.settings.action_scale, network.output_scale
        parts = first.weight.detach().split([self.observation_size, network.time_features, self.action_size], 1)
        mean, spread = _statistics(policy, dtype)
        self.mean: Tensor = nn.Buffer(mean.clone())
        self.spread: Tensor = nn.Buffer(spread)
        self.by_observation: Tensor = nn.Buffer(parts[0].clone())
        self.by_action: Tensor = nn.Buffer(parts[2].clone())
        self.table: Tensor = nn.Buffer((network.time_table(steps) + first.bias).detach())
        self.rest = nn.Sequential()
        for layer in network.layers[1:]:
            assert isinstance(layer, nn.Linear)
            copied = nn.Linear(layer.in_features, layer.out_features, device=layer.weight.device, dtype=dtype)
            copied.load_state_dict(layer.state_dict())
            self.rest.append(ACTIVATIONS[network.activation_name]())
            self.rest.append(copied)
        self.requires_grad_(False)

    def forward(self, observation: Tensor) -> Tensor:
        """[N, o] to [N, d]."""
        encoded = F.linear((observation - self.mean) / self.spread, self.by_observation)
        x = torch.zeros(observation.shape[0], self.action_size, dtype=encoded.dtype, device=encoded.device)
        for i in range(self.steps):
            velocity = self.rest(encoded + self.table[i] + F.linear(x, self.by_action))
            x = x - velocity * (self.output_scale / self.steps)
        return x * self.scale


def save_flow_policy(policy: FlowPolicy, folder: Path | str) -> None:
    """Write ``config.json`` (shape, settings) and ``model.safetensors`` (weights, normaliser) into a folder.

    Raises:
        UserError: a folder that cannot be written.
    """
    folder, network = make_folder(Path(folder), "folder"), policy.network
    shape = {
        "observation_size": network.observation_size,
        "action_size": network.action_size,
        "hidden": list(network.hidden),
        "activation": network.activation_name,
        "time_features": network.time_features,
        "output_scale": network.output_scale,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
    with replacing(folder / WEIGHTS_FILE) as aside:
        save_file(tensors, aside)
    chain = isinstance(policy, ChainPolicy)
    write_json(
        folder / CONFIG_FILE, {"format": FORMAT, "chain": chain, "shape": shape, "settings": asdict(policy.settings)}
    )


def load_flow_policy(folder: Path | str, device: torch.device | str = "cpu") -> FlowPolicy:
    """The policy that `save_flow_policy` wrote, bit for bit.

    Raises:
        UserError: no such folder, not a flow policy's, or a damaged one.
    """
    folder = Path(folder)
    mend = "give a folder written by save_flow_policy"
    require((folder / CONFIG_FILE).is_file(), "folder", str(folder), f"there is no {CONFIG_FILE}; {mend}")
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
        require(config.get("format") == FORMAT, f"{CONFIG_FILE} format", config.get("format"), mend)
        settings, shape = dict(config["settings"]), dict(config["shape"])
        chosen = FlowSettings(**{**settings, "times": TimesConfig(**settings["times"])})
        sizes = (shape.pop("observation_size"), shape.pop("action_size"), shape.pop("hidden"))
        policy = make_flow(*sizes, chosen, chain=config["chain"], act=shape.pop("activation"), **shape)
        policy.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError("folder", str(folder), f"the policy cannot be read ({reason}); {mend}") from error
    return policy.to(device)


def export_torchscript(policy: FlowPolicy, file: Path | str) -> float:
    """Write the zero-noise action as TorchScript: ``torch.jit.load(file)(observation [N, o]) -> action [N, d]``.

    Returns:
        The largest difference from `FlowPolicy.mode` on random observations, in units of the larger of 1 and the
        action.

    Raises:
        UserError: a file that cannot be written, or actions that differ by more than 1e-5.
    """
    module = ZeroNoiseFlow(policy).cpu()
    with _quiet_export():
        scripted = torch.jit.script(module)
        return _export(policy, Path(file), lambda aside: torch.jit.save(scripted, aside), _torchscript)


def export_onnx(policy: FlowPolicy, file: Path | str) -> float:
    """Write the zero-noise action as ONNX, from ``observation`` [N, o] to ``action`` [N, d], any N, float32.

    Returns:
        As `export_torchscript`, computed by ONNX's own reference.

    Raises:
        UserError: onnx is not installed, a file that cannot be written, or actions that differ by more than 1e-5.
    """
    load_extra("onnx", "onnx")
    module = ZeroNoiseFlow(policy).float().cpu()
    probe = torch.zeros(2, module.observation_size)

    def write(aside: Path) -> None:
        with _quiet_export():
            torch.onnx.export(
                module,
                (probe,),
                str(aside),
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "N"}, OUTPUT: {0: "N"}},
                dynamo=False,
            )

    return _export(policy, Path(file), write, _onnx)


def _statistics(policy: FlowPolicy, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What the normaliser subtracts and divides by, [o] each."""
    normaliser = policy.normaliser
    return normaliser.mean.to(dtype), normaliser.variance.sqrt().to(dtype) + EPSILON


def _torchscript(file: Path) -> Callable[[Tensor], Tensor]:
    return cast(Callable[[Tensor], Tensor], torch.jit.load(file))


def _onnx(file: Path) -> Callable[[Tensor], Tensor]:
    load_extra("onnx", "onnx").checker.check_model(str(file))
    evaluator = load_extra("onnx.reference", "onnx").ReferenceEvaluator(str(file))
    return lambda observation: torch.from_numpy(evaluator.run(None, {INPUT: observation.numpy()})[0])


def _export(
    policy: FlowPolicy, file: Path, write: Callable[[Path], None], read: Callable[[Path], Callable[[Tensor], Tensor]]
) -> float:
    """Write a file, read it back and compare; it stays only if it acts as the policy does."""
    make_folder(file.parent, "file")
    device, dtype = policy.network.first.weight.device, policy.network.first.weight.dtype
    mean, spread = _statistics(policy, torch.float32)
    draws = torch.randn(PROBES, policy.network.observation_size, generator=keyed_generator(0, "export"))
    probe = mean.cpu() + draws * spread.cpu()
    expected = policy.mode(probe.to(device, dtype)).cpu().double()
    with replacing(file) as aside:
        write(aside)
        found = read(aside)(probe).double()
        difference = float(((found - expected).abs() / expected.abs().clamp_min(1)).max())
        mend = f"the exported actions differ from the policy's by more than {TOLERANCE:g}; nothing was written"
        require(difference <= TOLERANCE, "largest difference", difference, mend)
    return difference


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Without torch's own notices that the formats of TorchScript and of its exporter are not its newest."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)", DeprecationWarning)
        warnings.filterwarnings("ignore", r"You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", r"The feature will be removed", DeprecationWarning)
        yield
