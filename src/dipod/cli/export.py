"""``dipod export``."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

from dipod import __version__, runs
from dipod.control.build import build_environment
from dipod.control.config import ControlConfig
from dipod.control.play import load_policy
from dipod.errors import UserError
from dipod.policies.flow import FlowPolicy
from dipod.policies.flow_export import export_onnx, export_torchscript, save_flow_policy
from dipod.tasks.control import ActionUnits, Environment

NAME = "export"
HELP = "write a control run's flow policy as ONNX, TorchScript or safetensors"
DESCRIPTION = """Write the flow policy of a control run's last checkpoint for other programs.

ONNX and TorchScript take observations [N, o] as the environment gives them to what its step receives for the
zero-noise action, [N, d]: normaliser, Euler steps, the mapping to the action space's bounds and the clip are inside. A
file is read back and compared with the policy and its environment before it is kept, and says in its metadata where it
comes from. safetensors is the whole policy as a folder, for `dipod.policies.flow_export.load_flow_policy`, whose
actions `load_action_units` takes to the environment's units.
"""
WRITERS = {"onnx": export_onnx, "torchscript": export_torchscript, "safetensors": save_flow_policy}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a control run")
    parser.add_argument("--format", choices=list(WRITERS), required=True, help="of what is written")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a folder for safetensors")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Write the file, or the folder."""
    folder, config = arguments.folder, runs.read_config(arguments.folder)
    if not isinstance(config, ControlConfig):
        raise UserError("run", str(folder), "export is for control runs; `dipod merge` makes a model of this one")
    checkpoint = runs.last_checkpoint(folder)
    policy = load_policy(config, checkpoint)
    if not isinstance(policy, FlowPolicy):
        raise UserError("run", str(folder), f"{config.algorithm} trained no flow policy here; give a run that did")
    environment = build_environment(replace(config, device="cpu"), 1)
    units, step = ActionUnits.of(environment), int(checkpoint.name[5:])
    metadata = describe(policy, config, environment, folder, step)
    WRITERS[arguments.format](policy, arguments.out, units, metadata)
    if arguments.json:
        said = {"file": str(arguments.out), "format": arguments.format, "checkpoint": step}
        print(json.dumps({**said, "metadata": metadata}))
        return
    print(f"{folder} after {step} iterations: {arguments.format} in {arguments.out}")
    sizes = f"observations [N, {metadata['observation_size']}] as {environment.name} gives them"
    if arguments.format == "safetensors":
        print(f"{sizes}, actions [N, {metadata['action_size']}] as the policy has them; load_action_units has the rest")
    else:
        print(f"{sizes}, to actions [N, {metadata['action_size']}] as its step takes them{_bounds(units)}")


def describe(
    policy: FlowPolicy, config: ControlConfig, environment: Environment, folder: Path, step: int
) -> dict[str, str]:
    """What a file says of itself: values as text, bounds as JSON (null: none)."""
    units = ActionUnits.of(environment).state()
    return {
        "dipod_version": __version__,
        "task": environment.name,
        "algorithm": config.algorithm,
        "run": folder.absolute().name,
        "iterations": str(step),
        "observation_size": str(environment.observation_size),
        "action_size": str(environment.action_size),
        "action": "zero noise, in the units that the environment's step takes",
        "action_low": json.dumps(units["low"]),
        "action_high": json.dumps(units["high"]),
        "normaliser": "included",
        "sampling_steps": str(policy.settings.sampling_steps),
        "dtype": str(policy.network.first.weight.dtype).removeprefix("torch."),
    }


def _bounds(units: ActionUnits) -> str:
    """Where actions lie, if there are bounds."""
    ends = list(zip(units.low.tolist(), units.high.tolist(), strict=True))
    if not any(math.isfinite(end) for pair in ends for end in pair):
        return ", without bounds"
    different = list(dict.fromkeys(ends))
    shown = ", ".join(f"{low:g} to {high:g}" for low, high in different[:4])
    return f", within {shown}{', ...' if len(different) > 4 else ''}"
