"""``dipod two-token``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dipod import two_token
from dipod.errors import require
from dipod.report.two_token import write_figure

NAME = "two-token"
HELP = "the paper's exactly solvable experiment (section 4.1): gap and gradient angle of every method"
DESCRIPTION = """Run the two-token experiment of the paper (section 4.1, appendix D) with exact expectations: the policy
gradient; FPO and SPG, bare, with DiPOD (Algorithm 2) and interleaved with self-distillation (Algorithm 1).

  dipod two-token --out two-token

Writes two_token.json and two_token.png. To try an estimator of your own, see `help(dipod.two_token)`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("--out", type=Path, default=Path("two-token"), metavar="DIR", help="default: two-token")
    parser.add_argument(
        "--steps", type=int, default=two_token.STEPS, metavar="N", help="updates (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the last values as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Run every method and write what came out."""
    require(arguments.steps >= 1, "--steps", arguments.steps, "give at least 1 update")
    histories = two_token.experiment(arguments.steps)
    path = two_token.write(histories, arguments.out)
    figure = write_figure(histories, arguments.out)
    if arguments.json:
        last = {
            name: {"expected_return": h.expected_return[-1], "gap": h.gap[-1], "cosine": h.cosine[-1]}
            for name, h in histories.items()
        }
        print(json.dumps({"file": str(path), "figure": str(figure), "methods": last}))
        return
    print(f"{'method':<16}{'return':>10}{'gap, nats':>12}{'largest gap':>14}{'cosine':>9}{'lowest':>9}")
    for name, h in histories.items():
        numbers = f"{h.expected_return[-1]:>10.5f}{abs(h.gap[-1]):>12.2e}{max(h.gap):>14.2e}"
        print(f"{name:<16}{numbers}{h.cosine[-1]:>9.4f}{min(h.cosine):>9.4f}")
    print(f"written: {path}, {figure}")
