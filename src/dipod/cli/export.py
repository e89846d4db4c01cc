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

ONNX and TorchScript take observations [N, o] as the environment gives them to zero-noise actions [N, d] in its units:
normaliser, Euler steps and the action's scale are inside. A file is read back and compared with the policy before it
is kept. safetensors is the whole policy as a folder, for `dipod.policies.flow_export.load_flow_policy`.
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
    WRITERS[arguments.format](policy, arguments.out)
    step = int(checkpoint.name[5:])
    if arguments.json:
        print(json.dumps({"file": str(arguments.out), "format": arguments.format, "checkpoint": step}))
    else:
        print(f"{folder} after {step} iterations: {arguments.format} in {arguments.out}")
