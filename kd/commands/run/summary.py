"""``metrics.json``: every number in a run's plots and report, except measured times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.commands.run.disagreements import Disagreements, Example
from kd.commands.run.results import Run, model_sizes
from kd.commands.run.verdict import write_verdict
from kd.evaluation.calibration import BINS, ReliabilityCurve
from kd.evaluation.fidelity import Fidelity
from kd.storage.environment import versions

LISTED_CLASSES = 200  # with more, all pairs of classes would fill gigabytes of memory and disk


def summarise_run(run: Run, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of ``metrics.json``; equal runs give identical bytes.

    Args:
        entries: entry of each model in ``manifest.json``, by model name.
    """
    return {
        "toy": run.toy,
        "config": dict(run.config),
        "environment": versions(),
        "verdict": write_verdict(run),
        "test": {name: accuracy._asdict() for name, accuracy in run.accuracies.items()},
        "models": {name: size._asdict() for name, size in model_sizes(entries).items()},
        "control_against_distilled": _summarise_students(run),
        "temperature": run.temperature,
        "fidelity": {name: _summarise_fidelity(fidelity) for name, fidelity in run.fidelities.items()},
        "ece_bins": BINS,
        "calibration": {
            name: {**calibration._asdict(), "ece_by_chance": run.chances[name]._asdict()}
            for name, calibration in run.calibrations.items()
        },
        "reliability": {name: _list_bins(curve) for name, curve in run.reliabilities.items()},
        "confusion_changes": _summarise_confusions(run),
        "disagreements": _summarise_disagreements(run.disagreements),
        **({"classes": list(run.classes)} if run.classes else {}),
        "notes": run.notes,
        "curves": run.histories,
        **({"confusion_matrices": _list_matrices(run)} if lists_all_pairs(run) else {}),
        "majority": run.majority._asdict(),
        "class_scores": {
            name: {"balanced_accuracy": scores.balanced_accuracy, "macro_f1": scores.macro_f1}
            for name, scores in run.class_scores.items()
        },
        "per_class_accuracy": {
            name: [row.recall for row in scores.recalls] for name, scores in run.class_scores.items()
        },
    }


def lists_all_pairs(run: Run) -> bool:
    """Return whether files list the counts of all pairs of classes, also of those that do not occur."""
    return len(run.confusion_change) <= LISTED_CLASSES


def _list_matrices(run: Run) -> dict[str, Any]:
    return {name: matrix.tolist() for name, matrix in run.confusion_matrices.items()}


def _summarise_students(run: Run) -> dict[str, Any]:
    return {**run.students.test._asdict(), **{k: v for k, v in run.students._asdict().items() if k != "test"}}


def _summarise_fidelity(fidelity: Fidelity) -> dict[str, Any]:
    matches = {
        "overall": fidelity.overall,
        "teacher_right": fidelity.teacher_right,
        "teacher_wrong": fidelity.teacher_wrong,
    }
    return {name: match and match._asdict() for name, match in matches.items()}


def _list_bins(curve: ReliabilityCurve) -> list[dict[str, Any]]:
    """Return each bin with its range of confidence; the accuracy and confidence of an empty bin are None."""
    count = len(curve.bins)
    return [
        {
            "confidence_from": number / count,
            "confidence_to": (number + 1) / count,
            **values._asdict(),
            "accuracy_low_95": interval and interval[0],
            "accuracy_high_95": interval and interval[1],
        }
        for number, (values, interval) in enumerate(zip(curve.bins, curve.intervals, strict=True))
    ]


def _summarise_confusions(run: Run) -> dict[str, Any]:
    return {
        "fewer": run.fewer_confusions,
        "more": run.more_confusions,
        "pairs_of_classes": len(run.confusions),
        "pairs": [{**confusion._asdict(), "difference": confusion.difference} for confusion in run.confusions],
    }


def _summarise_disagreements(disagreements: Disagreements) -> dict[str, Any]:
    return {
        "items": disagreements.items,
        "kinds": disagreements.kinds,
        "examples_shown": len(disagreements.examples),
        "examples": [_summarise_example(example) for example in disagreements.examples],
    }


def _summarise_example(example: Example) -> dict[str, Any]:
    likeliest = {
        model: [{"class": label, "probability": value} for label, value in classes]
        for model, classes in example.likeliest.items()
    }
    return example._asdict() | {"likeliest": likeliest}
