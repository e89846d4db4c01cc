"""Plots and the self-contained HTML page of one or several runs."""

from dipod.report.data import Run, read_runs, sentence
from dipod.report.page import write_live, write_report

__all__ = ["Run", "read_runs", "sentence", "write_live", "write_report"]
