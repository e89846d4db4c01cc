"""Flow policies as files: whole ones to go on with, and their zero-noise action for programs without this library."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from importlib.util import find_spec
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
from dipod.tasks.control.units import ActionUnits

FORMAT = "dipod-flow-policy"
METADATA_FILE = "metadata.json"
TOLERANCE = 1e-5
"""Largest difference between an exported action and the policy's own, in the units that `export_torchscript` says."""
PROBES = 64
"""Observations that an export is compared on."""
OPSET = 18
INPUT, OUTPUT = "observation", "action"
ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "silu": nn.SiLU, "relu": nn.ReLU, "tanh": nn.Tanh}


class ZeroNoiseFlow(nn.Module):
    """Observations [N, o] as the environment gives them to what it receives for a flow policy's zero-noise actions.

    Normaliser, K Euler steps, the action's scale and the environment's own mapping and clip are inside, copied, so that
    the policy may go on learning. All of it is plain tensor code, for `torch.jit.script`, `torch.jit.trace` and ONNX.

    Args:
        policy: whose actions they are; `forward` computes its `mode` in ``units``.
        units: what becomes of actions before the environment receives them; None leaves them as the policy gives them.
    """

    def __init__(self, policy: FlowPolicy, units: ActionUnits | None = None) -> None:
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
        units = units or ActionUnits.plain(self.action_size)
        low, high = _inside(units.low, dtype, up=True), _inside(units.high, dtype, up=False)
        self.mapped = bool((units.offset != 0).any() or (units.factor != 1).any())
        self.clipped = bool(low.isfinite().any() or high.isfinite().any())
        device = first.weight.device
        self.offset: Tensor = nn.Buffer(units.offset.to(device, dtype))
        self.factor: Tensor = nn.Buffer(units.factor.to(device, dtype))
        self.low: Tensor = nn.Buffer(low.to(device))
        self.high: Tensor = nn.Buffer(high.to(device))
        self.requires_grad_(False)

    def forward(self, observation: Tensor) -> Tensor:
        """[N, o] to [N, d]."""
        encoded = F.linear((observation - self.mean) / self.spread, self.by_observation)
        x = torch.zeros(observation.shape[0], self.action_size, dtype=encoded.dtype, device=encoded.device)
        for i in range(self.steps):
            velocity = self.rest(encoded + self.table[i] + F.linear(x, self.by_action))
            x = x - velocity * (self.output_scale / self.steps)
        action = x * self.scale
        if self.mapped:
            action = self.offset + self.factor * action
        if self.clipped:
            action = torch.minimum(torch.maximum(action, self.low), self.high)
        return action


def _inside(bound: Tensor, dtype: torch.dtype, up: bool) -> Tensor:
    """A bound in another precision, never beyond itself."""
    rounded = bound.to(dtype)
    beyond = rounded.double() < bound if up else rounded.double() > bound
    inwards = torch.full_like(rounded, math.inf if up else -math.inf)
    return torch.where(beyond, torch.nextafter(rounded, inwards), rounded)


def save_flow_policy(
    policy: FlowPolicy,
    folder: Path | str,
    units: ActionUnits | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``config.json`` (shape, settings, units) and ``model.safetensors`` (weights, normaliser) into a folder.

    Args:
        policy: what is written.
        folder: where.
        units: what becomes of its actions before an environment receives them; kept for `load_action_units`.
        metadata: written into both files.

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
        save_file(tensors, aside, dict(metadata or {}))
    config = {
        "format": FORMAT,
        "chain": isinstance(policy, ChainPolicy),
        "shape": shape,
        "settings": asdict(policy.settings),
        "action_units": (units or ActionUnits.plain(policy.action_size)).state(),
        "metadata": dict(metadata or {}),
    }
    write_json(folder / CONFIG_FILE, config)


def load_action_units(folder: Path | str) -> ActionUnits:
    """The units that `save_flow_policy` was given.

    ``ZeroNoiseFlow(load_flow_policy(folder), load_action_units(folder))`` acts in them.

    Raises:
        UserError: not a folder of a flow policy, or one written before units were kept.
    """
    file = Path(folder) / CONFIG_FILE
    try:
        return ActionUnits.from_state(json.loads(file.read_text())["action_units"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        mend = f"it says no units of actions ({type(error).__name__}); write it again with `dipod export`"
        raise UserError("folder", str(folder), mend) from error


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


def export_torchscript(
    policy: FlowPolicy,
    file: Path | str,
    units: ActionUnits | None = None,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Write the zero-noise action as TorchScript: ``torch.jit.load(file)(observation [N, o]) -> action [N, d]``.

    Args:
        policy: what is written.
        file: where.
        units: what becomes of its actions before the environment receives them; inside the file.
        metadata: written into the file as ``metadata.json``.

    Returns:
        The largest difference from what the environment receives for `FlowPolicy.mode`, on random observations, in
        units of the largest of 1, the action, and half the distance between its bounds.

    Raises:
        UserError: a file that cannot be written, or actions that differ by more than 1e-5.
    """
    module = ZeroNoiseFlow(policy, units).cpu()
    kept = {METADATA_FILE: json.dumps(dict(metadata or {}))}
    with _quiet_export():
        scripted = torch.jit.script(module)
        return _export(policy, units, Path(file), lambda aside: torch.jit.save(scripted, aside, kept), _torchscript)


def export_onnx(
    policy: FlowPolicy,
    file: Path | str,
    units: ActionUnits | None = None,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Write the zero-noise action as ONNX, from ``observation`` [N, o] to ``action`` [N, d], any N, float32.

    Args:
        policy: what is written.
        file: where.
        units: what becomes of its actions before the environment receives them; inside the file.
        metadata: written into the file as ``metadata_props``.

    Returns:
        As `export_torchscript`, computed by onnxruntime where it is installed, else by ONNX's own reference.

    Raises:
        UserError: onnx is not installed, a file that cannot be written, or actions that differ by more than 1e-5.
    """
    onnx = load_extra("onnx", "onnx")
    module = ZeroNoiseFlow(policy, units).cpu()
    module = module if module.low.dtype == torch.float32 else _in_float32(policy, units)
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
        model = onnx.load(str(aside))
        onnx.helper.set_model_props(model, dict(metadata or {}))
        onnx.save(model, str(aside))

    return _export(policy, units, Path(file), write, _onnx)


def _in_float32(policy: FlowPolicy, units: ActionUnits | None) -> ZeroNoiseFlow:
    """The module of a policy in another precision, with bounds rounded inwards."""
    copied = deepcopy(policy).cpu()
    copied.network.float()
    return ZeroNoiseFlow(copied, units)


def _statistics(policy: FlowPolicy, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What the normaliser subtracts and divides by, [o] each."""
    normaliser = policy.normaliser
    return normaliser.mean.to(dtype), normaliser.variance.sqrt().to(dtype) + EPSILON


def _torchscript(file: Path) -> Callable[[Tensor], Tensor]:
    return cast(Callable[[Tensor], Tensor], torch.jit.load(file))


def _onnx(file: Path) -> Callable[[Tensor], Tensor]:
    load_extra("onnx", "onnx").checker.check_model(str(file))
    if find_spec("onnxruntime") is not None:
        session = load_extra("onnxruntime", "onnx").InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda observation: torch.from_numpy(session.run(None, {INPUT: observation.numpy()})[0])
    evaluator = load_extra("onnx.reference", "onnx").ReferenceEvaluator(str(file))
    return lambda observation: torch.from_numpy(evaluator.run(None, {INPUT: observation.numpy()})[0])


def _export(
    policy: FlowPolicy,
    units: ActionUnits | None,
    file: Path,
    write: Callable[[Path], None],
    read: Callable[[Path], Callable[[Tensor], Tensor]],
) -> float:
    """Write a file, read it back and compare; it stays only if it acts as the policy does."""
    make_folder(file.parent, "file")
    device, dtype = policy.network.first.weight.device, policy.network.first.weight.dtype
    mean, spread = _statistics(policy, torch.float32)
    draws = torch.randn(PROBES, policy.network.observation_size, generator=keyed_generator(0, "export"))
    probe = mean.cpu() + draws * spread.cpu()
    units = units or ActionUnits.plain(policy.action_size)
    expected = units(policy.mode(probe.to(device, dtype)).cpu())
    scale = torch.where(units.low.isfinite() & units.high.isfinite(), units.factor.abs(), 1.0).clamp_min(1)
    with replacing(file) as aside:
        write(aside)
        found = read(aside)(probe).double()
        difference = float(((found - expected).abs() / expected.abs().maximum(scale)).max())
        within = bool(((found >= units.low) & (found <= units.high)).all())
        mend = "exported actions leave the bounds; nothing was written"
        require(within, "bounds", [units.low.tolist(), units.high.tolist()], mend)
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
