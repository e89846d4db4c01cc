"""Where motions can be had: LAFAN1, retargeted to the G1. Nothing is fetched here, and none is part of this package."""

from __future__ import annotations

from dipod.errors import require

LICENCE = "CC BY-NC-ND 4.0: not for commercial use, and not to be passed on changed, which an npz is"
URL = "https://huggingface.co/datasets/lvhaidong/LAFAN1_Retargeting_Dataset"
MOTIONS = (
    "walk1_subject1",
    "run1_subject2",
    "dance1_subject1",
    "dance1_subject2",
    "fight1_subject2",
    "jumps1_subject1",
    "fallAndGetUp1_subject1",
)
"""The motions of the paper's figures and of its released notes."""


def command(name: str) -> str:
    """The shell command that downloads one motion.

    Raises:
        UserError: it is not one of those that are known to be there.
    """
    require(name in MOTIONS, "motion", name, f"choose one of {', '.join(MOTIONS)}, or look through {URL}")
    return f"curl -fLO {URL}/resolve/main/g1/{name}.csv"


def everything() -> str:
    """The shell command that downloads the whole data set."""
    return f"git clone {URL}"
