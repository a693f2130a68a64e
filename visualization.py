"""Plots of the pipeline as file contents."""

from collections.abc import Mapping
from pathlib import Path

import config
from kd.arms import TEACHER
from kd.commands import publish
from kd.commands.run import plots
from kd.commands.run.results import Run


def teacher_plot(history: Mapping[str, list[float]]) -> dict[Path, bytes]:
    """Return ``teacher_training.png``: loss and accuracy of the teacher over the epochs."""
    return publish.plot_files(config.RESULTS_DIR, plots.teacher_figure({TEACHER: history}, quick_run_stamp()))


def all_plots(run: Run) -> dict[Path, bytes]:
    """Return all documented plots and the confusion matrices, as file contents by path."""
    return publish.plot_files(config.RESULTS_DIR, plots.run_figures(run))


def quick_run_stamp() -> str | None:
    """Return the stamp on all outputs of a quick run (``LIMIT``), or None for a full run."""
    return publish.quick_run_stamp(config.LIMIT)
