"""Which figure goes into which file."""

from collections.abc import Mapping
from pathlib import Path

import config
from kd import figures
from kd.results import Run


def teacher_plot(history: Mapping[str, list[float]]) -> dict[Path, bytes]:
    """``teacher_training.png``: loss and accuracy of the teacher over the epochs."""
    return figures.plot_files(config.RESULTS_DIR, figures.teacher_figure({"teacher": history}, toy_stamp()))


def all_plots(run: Run) -> dict[Path, bytes]:
    """Every documented plot, and the confusion matrices, as file contents."""
    return figures.plot_files(config.RESULTS_DIR, figures.run_figures(run, config.TEMPERATURE))


def toy_stamp() -> str | None:
    """What is stamped on everything that a run at toy size writes."""
    return figures.toy_stamp(config.LIMIT)
