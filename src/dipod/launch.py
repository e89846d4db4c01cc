"""What ``torchrun``, ``accelerate launch`` or a script tells a process of itself and the others: in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dipod.errors import require

START, WAIT = "DIPOD_START_MINUTES", "DIPOD_WAIT_MINUTES"
DEFAULT_MINUTES = {START: 10.0, WAIT: 30.0}
NAMED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
HELP = "see docs/distributed.md"

if "RANK" in os.environ:  # torch reads it when it is loaded; its warnings of lost connections are pages long
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def minutes(name: str) -> float:
    """A time limit from the environment, in minutes.

    Args:
        name: `START`, until all processes have met, or `WAIT`, until all have come to one exchange.

    Raises:
        UserError: not a positive number.
    """
    given = os.environ.get(name, "")
    try:
        found = float(given) if given else DEFAULT_MINUTES[name]
    except ValueError:
        found = 0.0
    require(0 < found < float("inf"), name, given, "give a positive number of minutes")
    return found


@dataclass(frozen=True)
class Launch:
    """Who this process is, of several that were started together.

    Attributes:
        rank: from 0.
        size: how many there are.
        address: the host where they meet.
        port: the port there.
        hosted: the launcher keeps the store; else rank 0 does.
    """

    rank: int
    size: int
    address: str
    port: int
    hosted: bool = False

    @classmethod
    def found(cls) -> Launch | None:
        """What the environment says; None for a process of its own.

        Raises:
            UserError: it says a part only, or what cannot be.
        """
        given = {name: os.environ.get(name, "") for name in NAMED}
        if not given["RANK"] and not given["WORLD_SIZE"]:
            for name in MPI_SIZES:
                alone = os.environ.get(name, "1") == "1"
                require(alone, name, os.environ.get(name), f"RANK and WORLD_SIZE are not set; {HELP}")
            return None
        missing = [name for name, value in given.items() if not value]
        known = ", ".join(f"{name}={value}" for name, value in given.items() if value)
        require(not missing, missing[0] if missing else "", None, f"{known} is set without it; start with torchrun")
        for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
            require(given[name].isdigit(), name, given[name], "give a whole number")
        rank, size, port = int(given["RANK"]), int(given["WORLD_SIZE"]), int(given["MASTER_PORT"])
        require(rank < size, "RANK", rank, f"give one from 0 to WORLD_SIZE - 1 ({size - 1})")
        require(port < 2**16, "MASTER_PORT", port, "give a port below 65536")
        return cls(rank, size, given["MASTER_ADDR"], port, os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")

    @property
    def place(self) -> str:
        """Where they meet."""
        return f"{self.address}:{self.port}"


def separate_tasks() -> int:
    """How many processes ``srun`` started of which none knows of the others; 0 where that is not so."""
    if os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0") != "0":
        return 0
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return int(tasks) if tasks.isdigit() and int(tasks) > 1 else 0


def said_count() -> str:
    """How many processes run together, to be put behind the name of a run; nothing where no launcher was used."""
    launch = Launch.found()
    count = launch.size if launch is not None else 1
    launched = launch is not None or any(name.startswith("ACCELERATE_") for name in os.environ)
    return f", {count} process{'es' if count > 1 else ''}" if launched else ""
