"""The launch files: accelerate reads them as they are meant, and `dipod recipes --launch` says where they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

from dipod.cli import main
from dipod.cli.recipes import LAUNCH, launch_file
from dipod.errors import UserError

KINDS = {"ddp": DistributedType.MULTI_GPU, "fsdp": DistributedType.FSDP, "zero2": DistributedType.DEEPSPEED}


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
    assert {path.stem for path in LAUNCH.glob("*")} == set(KINDS)
    for name in KINDS:
        assert main(["recipes", "--launch", name]) == 0
        assert Path(capsys.readouterr().out.strip()).read_text().startswith("# One node")
    assert main(["recipes", "--launch", "ddp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["launch"] == str(launch_file("ddp"))
    with pytest.raises(UserError, match="launch = 'slurm': choose one of ddp, fsdp, zero2"):
        launch_file("slurm")
