"""Predictions as CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kd.commands.publish import csv_bytes, json_bytes
from kd.console import printable_name
from kd.deploy.predict import Answer
from kd.deploy.stored_model import StoredModel
from kd.storage.environment import versions


def csv_of_answers(answers: Sequence[Answer], classes: Sequence[str], *, top: int) -> bytes:
    """Return a row for each input in their order; the columns do not depend on the inputs.

    Columns: input; number, class and probability of the most probable class; class and probability of each further
    one; score; unlike (0, 1 or empty if not known); error (empty if there is a prediction).
    """
    return csv_bytes(_row(answer, classes, min(top, len(classes))) for answer in answers)


def _row(answer: Answer, classes: Sequence[str], top: int) -> dict[str, Any]:
    row: dict[str, Any] = {"input": printable_name(answer.name), "label": answer.labels[0] if answer.labels else ""}
    for rank in range(top):
        is_there = rank < len(answer.labels)
        suffix = f"_{rank + 1}" if rank else ""
        row[f"class{suffix}"] = printable_name(classes[answer.labels[rank]]) if is_there else ""
        row[f"probability{suffix}"] = f"{answer.probabilities[rank]:.6f}" if is_there else ""
    score = "" if answer.score is None else f"{answer.score:.6g}"
    unlike = "" if answer.unlike is None else int(answer.unlike)
    return {**row, "score": score, "unlike": unlike, "error": printable_name(answer.reason)}


def json_of_answers(answers: Sequence[Answer], stored: StoredModel) -> bytes:
    """Return the model, the threshold for inputs unlike the training data, and the predictions in the inputs' order."""
    manifest, entry = stored
    model = {"file": str(stored.path), "sha256": entry.sha256, "architecture": entry.architecture, "toy": manifest.toy}
    return json_bytes(
        {
            "model": {**model, "test": dict(entry.test)},
            "unlike": None if entry.unlike is None else entry.unlike._asdict(),
            "environment": versions(),
            "predictions": [_describe(answer, manifest.classes) for answer in answers],
        }
    )


def _describe(answer: Answer, classes: Sequence[str]) -> dict[str, Any]:
    ranked = zip(answer.labels, answer.probabilities, strict=True)
    top = [{"label": label, "class": classes[label], "probability": value} for label, value in ranked]
    described = {"input": printable_name(answer.name), "classes": top, "score": answer.score, "unlike": answer.unlike}
    return described | ({"error": printable_name(answer.reason)} if answer.reason else {})
