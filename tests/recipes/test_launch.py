"""The launch files: accelerate reads them as they are meant, and `dipod recipes --launch` says where they are."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import get_args_parser

from dipod.cli import main
from dipod.cli.recipes import LAUNCH, launch_file
from dipod.errors import UserError

KINDS = {"ddp": DistributedType.MULTI_GPU, "fsdp": DistributedType.FSDP, "zero2": DistributedType.DEEPSPEED}


SCRIPTS = ("slurm", "torchrun")
STAND_IN = """#!/usr/bin/env python3
import json, os, sys
print(json.dumps({"program": os.path.basename(sys.argv[0]), "arguments": sys.argv[1:]}))
"""


def command_line(name: str) -> list[str]:
    return ["--config_file", str(launch_file(name)), "-m", "dipod", "train", "gsm8k-llada-spg"]


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_file(name: str) -> None:
    config = load_config_from_file(str(launch_file(name)))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == KINDS[name]
    assert (config.num_machines, config.num_processes, config.mixed_precision) == (1, 8, "no")


@pytest.mark.parametrize("name", KINDS)
def test_the_documented_command_line_is_understood(name: str) -> None:
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command_line(name)))
    assert (arguments.module, arguments.training_script) == (True, "dipod")
    assert arguments.training_script_args == ["train", "gsm8k-llada-spg"]
    assert (arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed) == tuple(name == kind for kind in KINDS)


def test_another_number_of_processes_is_an_option() -> None:
    given = ["--num_processes", "2", *command_line("ddp")]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    assert arguments.num_processes == 2


def test_fsdp_wraps_blocks_by_the_class_that_the_network_names(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--main_process_port", "0", *command_line("fsdp")]  # another run may have the usual one
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    for key, value in prepare_multi_gpu_env(arguments).items():
        if key.startswith("FSDP"):
            monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy is not None
    assert plugin.transformer_cls_names_to_wrap is None
    assert not plugin.cpu_ram_efficient_loading
    assert plugin.activation_checkpointing is False


def test_zero2_is_stage_2_without_offloading() -> None:
    config = load_config_from_file(str(launch_file("zero2")))
    assert isinstance(config, ClusterConfig)
    settings = dict(config.deepspeed_config)
    plugin = DeepSpeedPlugin(
        zero_stage=settings.pop("zero_stage"),
        gradient_accumulation_steps=settings.pop("gradient_accumulation_steps"),
        gradient_clipping=settings.pop("gradient_clipping"),
        offload_optimizer_device=settings.pop("offload_optimizer_device"),
        offload_param_device=settings.pop("offload_param_device"),
        zero3_init_flag=settings.pop("zero3_init_flag"),
    )
    assert not settings, "every field is one that the plugin has"
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == 2
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == 1


def test_the_command_prints_the_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.stem for path in LAUNCH.iterdir()} == {*KINDS, *SCRIPTS}
    for name in KINDS:
        assert main(["recipes", "--launch", name]) == 0
        assert Path(capsys.readouterr().out.strip()).read_text().startswith("# One node")
    assert main(["recipes", "--launch", "ddp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["launch"] == str(launch_file("ddp"))
    with pytest.raises(UserError, match="launch = 'ray': choose one of ddp, fsdp, slurm, torchrun, zero2"):
        launch_file("ray")


def scripted(name: str, tmp_path: Path, *programs: str, **environment: str) -> list[str]:
    """The words of the program that a script ends with; programs are stand-ins."""
    for program in programs:
        (tmp_path / program).write_text(STAND_IN)
        (tmp_path / program).chmod(0o755)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node-1; echo node-2\n")
    (tmp_path / "srun").write_text('#!/bin/sh\nshift; SLURM_NODEID=1 exec "$@"\n')
    (tmp_path / "dipod").write_text(f'#!/bin/sh\necho {LAUNCH}/"$3".yaml\n')
    for program in ("scontrol", "srun", "dipod"):
        (tmp_path / program).chmod(0o755)
    given = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
    line = ["bash", str(launch_file(name)), "sudoku", "--out", "runs/a b"]
    done = subprocess.run(line, env=given, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["program"] == programs[0]
    return list(found["arguments"])


def test_the_torchrun_script_starts_what_torchrun_understands(tmp_path: Path) -> None:
    words = scripted("torchrun", tmp_path, "torchrun", HEAD="node-a", NODES="4")
    parsed = get_args_parser().parse_args(words)
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.max_restarts) == ("4", "8", 3)
    assert (parsed.rdzv_backend, parsed.rdzv_endpoint) == ("c10d", "node-a:29400")
    command = [parsed.training_script, *parsed.training_script_args]
    assert command == ["dipod", "train", "sudoku", "--out", "runs/a b", "--resume", "auto"]


def test_the_slurm_script_starts_what_accelerate_understands(tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    words = scripted("slurm", tmp_path, "accelerate", LAUNCH="fsdp", SLURM_JOB_NODELIST="node-[1-2]", **job)
    parsed, _, _ = _validate_launch_command(launch_command_parser().parse_args(words[1:]))
    assert words[0] == "launch"
    assert parsed.use_fsdp
    assert (parsed.num_machines, parsed.machine_rank, parsed.num_processes, parsed.max_restarts) == (2, 1, 8, 3)
    environment = prepare_multi_gpu_env(parsed)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert (parsed.nproc_per_node, parsed.rdzv_backend, parsed.rdzv_endpoint) == ("4", "c10d", "node-1:29967")
    assert parsed.training_script_args == ["train", "sudoku", "--out", "runs/a b", "--resume", "auto"]
