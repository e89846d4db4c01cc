"""Kill `dipod train` and `dipod compare` at random moments, start them again, compare bits with undisturbed runs.

    python benchmarks/kills.py                    (50 kills of each; --what train, --what compare for one of them)

Started again with another --seed, results are added to the file.

Every other kill is SIGKILL, the others SIGHUP. Killed compare is started again at once, or after its cells are gone,
by turns. At the end checkpoints, completions and metrics (without times) must be those of the undisturbed runs, no
process may be left, and no half-written file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import RESULTS, provenance

from dipod import runs
from dipod.checkpoints import latest_checkpoint
from dipod.files import make_folder, write_json

SETTINGS = {
    "threads": 1,
    "model.width": 16,
    "model.layers": 2,
    "model.heads": 2,
    "pretrain.steps": 120,
    "pretrain.batch": 16,
    "pretrain.save_every": 10,
    "trainer.steps": 120,
    "trainer.prompts": 4,
    "trainer.group_size": 4,
    "trainer.evaluate_every": 40,
    "trainer.evaluate_problems": 8,
    "trainer.gap_problems": 4,
    "trainer.cosine_rollouts": 4,
    "trainer.save_every": 5,
    "monitor.every": 0,
    "task.blanks": "4-5",
}
TIMES = ("seconds", "monitor_share")
SIGNALS = (signal.SIGKILL, signal.SIGHUP)
ALGORITHMS, SEEDS = ("fpo", "spg+dipod"), (0, 1)


def settings(steps: int) -> list[str]:
    """As flags."""
    chosen = {**SETTINGS, "trainer.steps": steps, "pretrain.steps": steps}
    return [part for name, value in chosen.items() for part in (f"--{name}", str(value))]


def train(folder: Path, steps: int) -> list[str]:
    """The command that begins or goes on with a run."""
    how = ["--resume", str(folder)] if (folder / runs.CONFIG).exists() else ["sudoku", "--out", str(folder)]
    return ["train", *how, *([] if "--resume" in how else settings(steps))]


def compare(folder: Path, steps: int) -> list[str]:
    """The command that begins or goes on with a comparison."""
    what = ["--algorithms", ",".join(ALGORITHMS), "--seeds", ",".join(map(str, SEEDS)), "--jobs", "2"]
    return ["compare", "sudoku", *what, "--out", str(folder), *settings(steps)]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process of the command line, its words added to a file."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "dipod", *arguments], stdout=file, stderr=file, start_new_session=True
        )


def alive(folder: Path) -> list[int]:
    """Processes whose command line names a folder; the dead have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            named = str(folder).encode() in path.read_bytes()
        except OSError:
            continue
        if named and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def bits(folder: Path) -> dict[str, Any]:
    """What a finished run came to."""
    last = latest_checkpoint(folder / runs.CHECKPOINTS)
    files = {} if last is None else {path.name: path.read_bytes() for path in sorted(last.iterdir())}
    rows = [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in runs.read_metrics(folder)]
    return {"files": files, "metrics": rows, "completions": (folder / runs.COMPLETIONS).read_bytes()}


def disturbed(command: Any, out: Path, kills: int, steps: int, longest: float, draw: random.Random) -> dict[str, Any]:
    """Kill and restart until so many kills were made, in as many folders as it takes; each is brought to its end.

    Args:
        command: `train` or `compare`.
        out: where the folders are made.
        kills: how many.
        steps: of pre-training, and updates.
        longest: seconds that a process has at most before it is killed.
        draw: of the moments.
    """
    folders = [out / "0"]
    log, made = out / "log.txt", Counter[str]()
    statuses: Counter[int] = Counter()
    gone: list[float] = []
    while sum(made.values()) < kills:
        process = start(command(folders[-1], steps), log)
        number = SIGNALS[sum(made.values()) % 2]
        try:
            statuses[process.wait(draw.uniform(0, longest))] += 1
            folders.append(out / str(len(folders)))  # it came to its end first
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        made[number.name] += 1
        statuses[process.wait()] += 1
        if number == signal.SIGKILL and made[number.name] % 2:
            begun = time.monotonic()
            while alive(folders[-1]):
                time.sleep(0.005)
            gone.append(time.monotonic() - begun)
    statuses[subprocess.run([sys.executable, "-m", "dipod", *command(folders[-1], steps)], check=False).returncode] += 1
    return {
        "kills": dict(made),
        "folders": len(folders),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "seconds_until_all_were_gone": {"max": max(gone), "kills": len(gone)} if gone else {},
        "left_alive": len([pid for folder in folders for pid in alive(folder)]),
        "half_written": len([path for folder in folders for path in folder.rglob(".*") if path.name != ".lock"]),
    }


def measure(what: str, out: Path, kills: int, steps: int, longest: float, seed: int) -> dict[str, Any]:
    """The undisturbed runs, the disturbed ones, and in how many runs any bit differs."""
    command = {"train": train, "compare": compare}[what]
    make_folder(out / what)
    reference = out / what / "undisturbed"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dipod", *command(reference, steps)], check=True)
    found = disturbed(command, out / what, kills, steps, longest, random.Random(seed))
    cells = [path.parent.relative_to(reference) for path in sorted(reference.rglob(runs.CONFIG))]
    pairs = [(reference / cell, out / what / str(i) / cell) for i in range(found["folders"]) for cell in cells]
    differ = [str(b) for a, b in pairs if bits(a) != bits(b)]
    return {
        **found,
        "runs_compared": len(pairs),
        "runs_that_differ": len(differ),
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=("train", "compare"), default=["train", "compare"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=120, help="of pre-training, and updates")
    parser.add_argument("--longest", type=float, default=10.0, help="seconds before a kill at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "kills-cpu.json")
    arguments = parser.parse_args()
    rows: dict[str, Any] = json.loads(arguments.out.read_text())["results"] if arguments.out.exists() else {}
    for what in arguments.what:
        with TemporaryDirectory() as folder:
            settings = arguments.kills, arguments.steps, arguments.longest, arguments.seed
            found = measure(what, Path(folder), *settings)
        rows[f"{what}, seed {arguments.seed}"] = {"steps": arguments.steps, "longest": arguments.longest, **found}
        print(json.dumps(found, indent=2))
        result = {**provenance("kills.py", "cpu"), "settings": SETTINGS, "results": rows}
        write_json(make_folder(arguments.out.parent) / arguments.out.name, result)


if __name__ == "__main__":
    main()
