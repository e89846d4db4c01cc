"""``dipod export``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dipod import runs
from dipod.control.config import ControlConfig
from dipod.control.play import load_policy
from dipod.errors import UserError
from dipod.policies.flow import FlowPolicy
from dipod.policies.flow_export import export_onnx, export_torchscript, save_flow_policy

NAME = "export"
HELP = "write a control run's flow policy as ONNX, TorchScript or safetensors"
DESCRIPTION = """Write the flow policy of a control run's last checkpoint for other programs.

  dipod export runs/track-fpopp+initial-seed0 --format onnx --out policy.onnx
  dipod export runs/track-fpopp+initial-seed0 --format torchscript --out policy.pt
  dipod export runs/track-fpopp+initial-seed0 --format safetensors --out policy

ONNX and TorchScript take observations [N, o] as the environment gives them to zero-noise actions [N, d] in its units:
normaliser, Euler steps and the action's scale are inside. A file is read back and compared with the policy before it
is kept. safetensors is the whole policy as a folder, for `dipod.policies.flow_export.load_flow_policy`.
"""
PROGRAMS = {"onnx": export_onnx, "torchscript": export_torchscript}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a control run")
    parser.add_argument("--format", choices=[*PROGRAMS, "safetensors"], required=True, help="of what is written")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a folder for safetensors")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Write the file, or the folder."""
    folder, out = arguments.folder, arguments.out
    config = runs.read_config(folder)
    if not isinstance(config, ControlConfig):
        raise UserError("run", str(folder), "export is for control runs; `dipod merge` makes a model of this one")
    checkpoint = runs.last_checkpoint(folder)
    policy = load_policy(config, checkpoint)
    if not isinstance(policy, FlowPolicy):
        raise UserError("run", str(folder), f"{config.algorithm} trained no flow policy here; give a run that did")
    difference = None
    if arguments.format in PROGRAMS:
        difference = PROGRAMS[arguments.format](policy, out)
    else:
        save_flow_policy(policy, out)
    step = int(checkpoint.name[5:])
    if arguments.json:
        result = {"file": str(out), "format": arguments.format, "run": str(folder), "step": step}
        print(json.dumps({**result, "difference": difference}))
        return
    near = "" if difference is None else f", within {difference:.1g} of the policy's zero-noise actions"
    print(f"{folder} after {step} iterations: {arguments.format} in {out}{near}")
