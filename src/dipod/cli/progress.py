"""Live progress of a run on the terminal: a bar, and a line for each evaluation."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from dipod.loop import Metrics


class Display:
    """Shows step, reward, solved, gap and the time left; a listener for `dipod.runs.train`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("left"),
            TextColumn(
                "{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=console,
            transient=True,
            expand=True,
        )
        self.bars: dict[str, TaskID] = {}
        self.latest: Metrics = {}
        self.warned = False

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def pretrained(self, step: int, steps: int, elbo: float) -> None:
        """A step of pre-training is done."""
        self._advance("base model", step, steps, f"ELBO {elbo:6.2f}")

    def trained(self, metrics: Metrics, steps: int) -> None:
        """A step of training is done; evaluations also leave a line behind, and so does a first warning of drift."""
        self.latest |= metrics
        self._advance("training", int(metrics["step"]), steps, facts(self.latest))
        if "gap" in metrics:
            line = f"step {metrics['step']:>5}  {facts(self.latest, evaluation=True)}"
            self.console.print(line, highlight=False, soft_wrap=True)

        if "idle_warning" in metrics:
            line = f"step {metrics['step']:>5}  rewards: {metrics['idle_warning']}"
            self.console.print(line, highlight=False, soft_wrap=True, style="yellow")
        if "monitor_gap" in metrics:
            if "warning" in metrics and not self.warned:
                line = f"step {metrics['step']:>5}  drift: {metrics['warning']}"
                self.console.print(line, highlight=False, soft_wrap=True, style="yellow")
            self.warned = "warning" in metrics

    def _advance(self, name: str, step: int, steps: int, text: str) -> None:
        if name not in self.bars:
            self.bars = {name: self.progress.add_task(name, total=steps, facts="")}
        self.progress.update(self.bars[name], completed=step, facts=text)


def facts(metrics: Metrics, evaluation: bool = False) -> str:
    """Metrics in a few words; those not measured are left out."""
    formats = {
        "reward": "reward {:.3f}",
        "episode_length": "length {:.0f}",
        "reward_greedy": "zero-noise {:.3f}",
        "success": "success {:.1%}",
        "success_greedy": "zero-noise success {:.1%}",
        "solved_sampled": "solved {:.1%}",
        "solved_greedy": "greedy {:.1%}",
        "gap": "gap {:.3f} nats",
        "cosine": "cosine {:.3f}",
    }
    if "solved_greedy" in metrics:
        del formats["reward_greedy"]
    words = [text.format(metrics[key]) for key, text in formats.items() if key in metrics]
    if evaluation and metrics.get("gap_kind") not in (None, "exact"):
        words.append(f"({str(metrics['gap_kind']).replace('_', ' ')})")
    return "  ".join(words)
