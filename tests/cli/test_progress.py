"""What a run leaves behind on the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dipod.cli.progress import Display
from dipod.loop import Metrics


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


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_line_shows_bar_count_and_time_left_on_any_terminal(width: int) -> None:
    out = io.StringIO()
    display = Display(Console(file=out, width=width, force_terminal=True, color_system=None))
    metrics: Metrics = {"reward": 0.123, "solved_sampled": 0.5, "solved_greedy": 0.75, "gap": 12.345, "cosine": 0.987}
    display.trained({"step": 400, **metrics}, 750)
    line = Console(file=io.StringIO(), width=width, record=True)
    line.print(display.progress.get_renderable())
    shown = line.export_text().splitlines()
    assert len(shown) == 1
    assert "━" in shown[0]
    assert "400/750" in shown[0]
    assert "-:--:--" in shown[0]
    assert "left" in shown[0]
    assert "reward" in shown[0] or width < 80
