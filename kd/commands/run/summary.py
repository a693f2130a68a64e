"""``metrics.json``: every number of a run that its plots and its part of the report show, but for measured times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.commands.run.disagreements import Disagreements, Example
from kd.commands.run.results import Run, model_sizes
from kd.evaluation.calibration import BINS, ReliabilityCurve
from kd.evaluation.fidelity import Fidelity
from kd.storage.environment import versions


def summary(run: Run, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All of it as plain data: equal for equal runs, bit by bit.

    Args:
        entries: each model's entry in ``manifest.json``, by its name.
    """
    return {
        "toy": run.toy,
        "config": dict(run.config),
        "environment": versions(),
        "verdict": run.verdict,
        "test": {name: accuracy._asdict() for name, accuracy in run.accuracies.items()},
        "models": {name: size._asdict() for name, size in model_sizes(entries).items()},
        "control_against_distilled": _students(run),
        "temperature": run.temperature,
        "fidelity": {name: _fidelity(own) for name, own in run.fidelities.items()},
        "ece_bins": BINS,
        "calibration": {
            name: {**own._asdict(), "ece_by_chance": run.chances[name]._asdict()}
            for name, own in run.calibrations.items()
        },
        "reliability": {name: _bins(curve) for name, curve in run.reliabilities.items()},
        "confusion_changes": _confusions(run),
        "disagreements": _disagreements(run.disagreements),
        **({"classes": list(run.classes)} if run.classes else {}),
        "notes": run.notes,
        "curves": run.histories,
        "confusion_matrices": {name: matrix.tolist() for name, matrix in run.confusion_matrices.items()},
        "per_class_accuracy": {name: [own.accuracy for own in classes] for name, classes in run.per_class.items()},
    }


def _students(run: Run) -> dict[str, Any]:
    return {**run.students.test._asdict(), **{k: v for k, v in run.students._asdict().items() if k != "test"}}


def _fidelity(found: Fidelity) -> dict[str, Any]:
    parts = {"overall": found.overall, "teacher_right": found.teacher_right, "teacher_wrong": found.teacher_wrong}
    return {name: match and match._asdict() for name, match in parts.items()}


def _bins(curve: ReliabilityCurve) -> list[dict[str, Any]]:
    """With the range of confidence of each; None for what an empty one has not."""
    count = len(curve.bins)
    return [
        {
            "confidence_from": number / count,
            "confidence_to": (number + 1) / count,
            **own._asdict(),
            "accuracy_low_95": interval and interval[0],
            "accuracy_high_95": interval and interval[1],
        }
        for number, (own, interval) in enumerate(zip(curve.bins, curve.intervals, strict=True))
    ]


def _confusions(run: Run) -> dict[str, Any]:
    return {
        "fewer": run.fewer_confusions,
        "more": run.more_confusions,
        "pairs_of_classes": len(run.confusions),
        "pairs": [{**own._asdict(), "difference": own.difference} for own in run.confusions],
    }


def _disagreements(found: Disagreements) -> dict[str, Any]:
    return {
        "items": found.items,
        "kinds": found.kinds,
        "examples_shown": len(found.examples),
        "examples": [_example(example) for example in found.examples],
    }


def _example(example: Example) -> dict[str, Any]:
    likeliest = {
        model: [{"class": label, "probability": value} for label, value in own]
        for model, own in example.likeliest.items()
    }
    return example._asdict() | {"likeliest": likeliest}
