"""Printed results of ``kd run``: accuracies, predictions per class, and a verdict."""

from __future__ import annotations

import torch

from kd.commands.run.results import Run
from kd.commands.run.verdict import list_remarks, write_verdict
from kd.console import print_table, say


def print_evaluation(run: Run, *, limit: int | None) -> None:
    """Print accuracies, predictions per class and a verdict on the two students.

    Args:
        limit: number of training images of a quick run, else None.
    """
    toy = f", QUICK RUN on {limit:,} training {run.noun}" if limit is not None else ""
    rows = {
        name: (
            f"{accuracy.accuracy:.2%}",
            f"{run.class_scores[name].balanced_accuracy:.2%}",
            f"{run.class_scores[name].macro_f1:.2%}",
            f"{accuracy.errors:,}",
        )
        for name, accuracy in run.accuracies.items()
    }
    rows[f"always {run.class_name(run.majority.label)}"] = (
        f"{run.majority.share:.2%}",
        "",
        "",
        f"{run.majority.errors:,}",
    )
    title = f"Test set of {len(run.labels):,} {run.noun}{toy}"
    print_table(title, ("model", "accuracy", "balanced accuracy", "macro-F1", "errors"), rows)
    _print_distribution(run)
    for remark in list_remarks(run):
        say(remark)
    say(write_verdict(run))


def _print_distribution(run: Run) -> None:
    true = next(iter(run.confusion_matrices.values())).sum(dim=1)
    predicted = {name: matrix.sum(dim=0) for name, matrix in run.confusion_matrices.items()}
    counts = torch.stack([true, *predicted.values()], dim=1).tolist()
    rows = {run.class_name(label): [f"{count:,}" for count in row] for label, row in enumerate(counts)}
    print_table("Predictions per class", ("class", "true", *predicted), rows)
