"""Runs on two nodes whose processes are killed, against undisturbed ones, bit for bit.

    python benchmarks/distributed.py
    python benchmarks/distributed.py --cases zero2 --python /path/to/an/environment/with/deepspeed/bin/python

Two torchrun agents with one process each meet over the loopback interface, as they would from two nodes, and exchange
over gloo. In each case processes are killed with -9, after a step's metrics and in the middle of a checkpoint; torchrun
starts all again, and `--resume auto` goes on. Then the same run is made without any killing, on the same two processes.
"launch" starts the examples of `dipod recipes --launch` themselves: torchrun.sh, and slurm.sh under stand-ins for
``srun`` and ``scontrol`` that set Slurm's variables. Nothing here was run by Slurm, on two machines, or on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, provenance
from safetensors.torch import load_file

from dipod import runs
from dipod.files import make_folder, write_json, write_text

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "src" / "dipod" / "recipes" / "launch"
KILLED = [[1, 3, "metrics"], [0, 4, "checkpoint"], [0, 5, "metrics"]]
"""Rank, step, and what has been written by then; within torchrun's three restarts."""
COMMON: dict[str, object] = {"threads": 1, "trainer.steps": 6, "trainer.save_every": 2, "monitor.every": 0}
MASKED: dict[str, object] = {
    "trainer.prompts": 4,
    "trainer.group_size": 2,
    "trainer.evaluate_problems": 4,
    "trainer.cosine_rollouts": 0,
}
SUDOKU = {**MASKED, "pretrain.steps": 20, "pretrain.batch": 16, "model.width": 16, "model.heads": 2}
TEXT = {
    **MASKED,
    "task.name": "countdown",
    "task.train_source": "generate",
    "task.completion_length": 8,
    "task.max_prompt": 600,
    "sampler.steps": 4,
    "sampler.block_length": 8,
    "model.dtype": "float32",
    "model.lora_rank": 2,
}
TRACK: dict[str, object] = {
    "device": "cpu",
    "trainer.environments": 8,
    "trainer.horizon": 8,
    "trainer.evaluate_episodes": 4,
    "trainer.warmup_steps": 2,
}
CASES: dict[str, tuple[str, dict[str, object], str | None]] = {
    "masked": ("sudoku", SUDOKU, None),
    "control": ("track", TRACK, None),
    "fsdp": ("llada", TEXT, "fsdp"),
    "zero2": ("llada", TEXT, "zero2"),
}
"""Recipe, settings, and how the processes share the model out."""
SRUN = """#!/usr/bin/env bash
# A stand-in for srun: one task a node, all of them on this machine.
while [[ "$1" == --* ]]; do shift; done
trap 'kill $(jobs -p) 2>/dev/null' TERM
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
  SLURM_NODEID=$node SLURM_PROCID=$node SLURM_LOCALID=0 SLURM_STEP_NUM_TASKS=$SLURM_JOB_NUM_NODES "$@" &
done
status=0
for job in $(jobs -p); do wait "$job" || status=1; done
exit $status
"""
SCONTROL = "#!/usr/bin/env bash\necho 127.0.0.1; echo 127.0.0.1\n"


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment(python: Path, **more: str) -> dict[str, str]:
    """One thread a process, no GPU, and the programs that stand beside ``python`` first."""
    path = f"{python.parent}:{os.environ['PATH']}"
    given = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PATH": path, "DS_ACCELERATOR": "cpu"}
    return {**os.environ, **given, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **more}


def wait_for(started: list[subprocess.Popen[str]], seconds: float) -> str:
    """What programs say until all have ended well."""
    try:
        said = [program.communicate(timeout=seconds)[0] for program in started]
    finally:
        for program in started:
            program.kill()
    failed = [text for program, text in zip(started, said, strict=True) if program.returncode]
    if failed:
        raise SystemExit("\n".join(failed))
    return "\n".join(said)


def begin(command: list[str], given: dict[str, str]) -> subprocess.Popen[str]:
    """Start a program whose words are kept."""
    return subprocess.Popen(
        command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )


def two_agents(python: Path, plan: Path, sharded: str | None) -> str:
    """Two torchrun agents, each with a process that follows a plan (`tests/distributed_worker.py`)."""
    given = environment(python, ACCELERATE_USE_DEEPSPEED=str(sharded == "zero2").lower())
    command = [str(python), "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command += ["--local-addr", "127.0.0.1", "--rdzv-conf"]
    worker = ["-m", "tests.distributed_worker", str(plan)]
    return wait_for([begin([*command, f"is_host={int(node == 0)}", *worker], given) for node in range(2)], 900)


def arguments(recipe: str, settings: dict[str, object], out: Path) -> list[str]:
    """Of ``dipod train``, without --resume."""
    return [recipe, *(word for key, value in settings.items() for word in (f"--{key}", str(value))), "--out", str(out)]


def compared(killed: Path, whole: Path) -> dict[str, Any]:
    """Whether two run folders end alike."""
    sides = [runs.last_checkpoint(folder) for folder in (killed, whole)]
    tensors = [
        {f"{file.name} {name}": t for file in sorted(side.glob("*.safetensors")) for name, t in load_file(file).items()}
        for side in sides
    ]
    same = tensors[0].keys() == tensors[1].keys()
    rows = [[{k: v for k, v in row.items() if not timing(k)} for row in runs.read_metrics(f)] for f in (killed, whole)]
    return {
        "tensors": len(tensors[1]),
        "bit_equal": same and all(torch.equal(tensors[0][name], t) for name, t in tensors[1].items()),
        "metrics_equal": rows[0] == rows[1],
        "steps": [row["step"] for row in rows[0]],
    }


def timing(name: str) -> bool:
    """Whether a metric is of time, or depends on it."""
    return "seconds" in name or name.startswith("monitor") or name == "warning"


def case(name: str, python: Path, folder: Path) -> dict[str, Any]:
    """One kind of run, killed and whole."""
    recipe, settings, sharded = CASES[name]
    settings = {**COMMON, **settings}
    if sharded:
        from tests.checkpoints import write_tiny_llada

        write_tiny_llada(folder / "model")
        settings |= {"model.path": str(folder / "model")}
    found: dict[str, Any] = {"killed": KILLED}
    for suffix, kill in (("killed", KILLED), ("whole", [])):
        words = ["train", *arguments(recipe, settings, folder / suffix), "--resume", "auto"]
        plan = folder / f"plan-{suffix}.json"
        write_json(plan, [{"arguments": words, "kill": kill, "sharded": sharded}])
        started = time.perf_counter()
        two_agents(python, plan, sharded)
        found[f"seconds_{suffix}"] = round(time.perf_counter() - started, 1)
    found["died"] = len(list(folder.glob("killed-0-*")))
    return found | compared(folder / "killed", folder / "whole")


def launched(python: Path, folder: Path) -> dict[str, Any]:
    """The example scripts as a user starts them; under slurm.sh one process is killed."""
    settings = {**COMMON, **SUDOKU}
    given = environment(python, HEAD="127.0.0.1", PORT=str(free_port()), GPUS="1")
    line = ["bash", str(LAUNCH / "torchrun.sh"), *arguments("sudoku", settings, folder / "torchrun")]
    wait_for([begin(line, given) for _ in range(2)], 600)
    stands = make_folder(folder / "bin")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        write_text(stands / name, text)
        (stands / name).chmod(0o755)
    more = {"SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": str(free_port())}
    given = environment(python, SLURM_GPUS_ON_NODE="1", **more)
    given["PATH"] = f"{stands}:{given['PATH']}"
    job = begin(["bash", str(LAUNCH / "slurm.sh"), *arguments("sudoku", settings, folder / "slurm")], given)
    killed = kill_one(folder / "slurm", 3, job)
    wait_for([job], 600)
    return {"killed": [killed], "died": 1, **compared(folder / "slurm", folder / "torchrun")}


def kill_one(folder: Path, step: int, job: subprocess.Popen[str]) -> list[Any]:
    """Kill the process that holds a run's lock, as soon as the step's metrics are there."""
    deadline = time.monotonic() + 300
    while len(runs.read_metrics(folder)) <= step:
        if time.monotonic() > deadline or job.poll() is not None:
            job.kill()
            raise SystemExit(f"{folder} did not come to step {step}: {job.communicate()[0]}")
        time.sleep(0.01)
    holder = json.loads((folder / ".lock").read_text())["pid"]
    os.kill(holder, 9)
    return [0, f"{step} or after", "at any moment"]


def main() -> None:
    """Run the cases and add them to the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", nargs="+", choices=[*CASES, "launch"], default=["masked", "control", "fsdp", "launch"]
    )
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="runs the processes")
    parser.add_argument("--out", type=Path, default=RESULTS / "distributed-cpu.json")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    found = json.loads(given.out.read_text())["cases"] if given.out.exists() else {}
    for name in given.cases:
        folder = Path(tempfile.mkdtemp(prefix=f"dipod-{name}-"))
        try:
            found[name] = launched(given.python, folder) if name == "launch" else case(name, given.python, folder)
        finally:
            shutil.rmtree(folder)
        print(name, json.dumps(found[name]), flush=True)
        make_folder(given.out.parent)
        write_json(given.out, {**provenance("distributed.py", "cpu"), "cases": found})


if __name__ == "__main__":
    main()
