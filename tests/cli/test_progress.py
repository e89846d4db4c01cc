"""What a run leaves behind on the terminal."""

from __future__ import annotations

import io

from rich.console import Console

from dipod.cli.progress import Display


def test_evaluations_and_the_first_of_several_warnings_leave_a_line() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)) as display:
        display.trained({"step": 0, "gap": 0.1, "gap_kind": "bracket", "solved_sampled": 0.25}, 9)
        display.trained({"step": 1, "monitor_gap": 2.0, "warning": "it has grown"}, 9)
        display.trained({"step": 2, "monitor_gap": 3.0, "warning": "it has grown more"}, 9)
        display.trained({"step": 3, "monitor_gap": 0.1}, 9)
        display.trained({"step": 4, "monitor_gap": 2.0, "warning": "once more"}, 9)
    lines = [line.strip() for line in out.getvalue().splitlines() if line.startswith("step")]
    assert lines == [
        "step     0  solved 25.0%  gap 0.100 nats  (bracket)",
        "step     1  drift: it has grown",
        "step     4  drift: once more",
    ]
