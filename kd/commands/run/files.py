"""What a run leaves on disk besides its plots: weights with a manifest, metrics, and every single prediction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from kd.commands.program import typed
from kd.commands.publish import csv_bytes, json_bytes, publish_with_report
from kd.commands.run.report import run_part
from kd.commands.run.results import Run
from kd.evaluation.latency import latency
from kd.evaluation.metrics import confusion_matrix, count_parameters
from kd.evaluation.multiply_adds import multiply_adds
from kd.evaluation.two_models import mcnemar, proportion_interval
from kd.storage.environment import versions
from kd.storage.files import sha256
from kd.storage.weights import weights_bytes


def weight_files(folder: Path, models: Mapping[str, nn.Module], run: Run) -> dict[Path, bytes]:
    """``NAME.pth`` for each model, and ``manifest.json`` with digest, size, shapes and test metrics of each.

    Args:
        models: by file name, in the order of the run's models.
    """
    tests = {file: _test_metrics(run, name) for file, name in zip(models, run.logits, strict=True)}
    return untested_weight_files(folder, models, run.test[0][0][None], toy=run.toy, tests=tests)


def untested_weight_files(
    folder: Path,
    models: Mapping[str, nn.Module],
    example: Tensor,
    *,
    toy: str | None,
    tests: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[Path, bytes]:
    """As ``weight_files``, where no test item was asked.

    Args:
        models: by file name.
        example: [1, …], a batch of one.
        toy: as ``Run`` has it.
        tests: metrics on the test set, by file name, where there are any.
    """
    files: dict[Path, bytes] = {}
    manifest: dict[str, Any] = {"toy": toy, "environment": versions(), "models": {}}
    for file_name, model in models.items():
        content = weights_bytes(model)
        files[folder / f"{file_name}.pth"] = content
        manifest["models"][f"{file_name}.pth"] = {
            "class": type(model).__name__,
            "sha256": sha256(content),
            "bytes": len(content),
            "parameters": count_parameters(model),
            "multiply_adds": multiply_adds(model, example),
            "shapes": {key: list(tensor.shape) for key, tensor in model.state_dict().items()},
            **({"test": tests[file_name]} if file_name in tests else {}),
        }
    files[folder / "manifest.json"] = json_bytes(manifest)
    return files


def result_files(folder: Path, run: Run) -> dict[Path, bytes]:
    """``metrics/`` (all as JSON, and tables as CSV) and ``predictions/`` (every test image, every model)."""
    stamp = {"run": run.toy or "full"}
    metrics = folder / "metrics"
    return {
        metrics / "metrics.json": json_bytes(_summary(run)),
        metrics / "timings.json": json_bytes(_timings(run)),
        metrics / "test_metrics.csv": csv_bytes({**stamp, "model": n, **_test_metrics(run, n)} for n in run.logits),
        metrics / "curves.csv": csv_bytes({**stamp, **row} for row in _curves(run)),
        metrics / "per_class_accuracy.csv": csv_bytes({**stamp, **row} for row in _per_class(run)),
        metrics / "confusion_matrices.csv": csv_bytes({**stamp, **row} for row in _confusions(run)),
        folder / "predictions" / "test_predictions.csv": csv_bytes({**stamp, **row} for row in _predictions(run)),
    }


def _summary(run: Run) -> dict[str, Any]:
    _, regular, distilled = run.logits
    return {
        "toy": run.toy,
        "config": dict(run.config),
        "environment": versions(),
        "test": {name: _test_metrics(run, name) for name in run.logits},
        "regular_against_distilled": mcnemar(run.wrong(regular), run.wrong(distilled))._asdict(),
        **({"classes": list(run.classes)} if run.classes else {}),
        "notes": sorted({note for history in run.histories.values() for note in history.notes}),
        "curves": run.histories,
        "confusion_matrices": {name: confusion_matrix(run.logits[name], run.labels).tolist() for name in run.logits},
        "per_class_accuracy": {
            name: [row["accuracy"] for row in _per_class(run) if row["model"] == name] for name in run.logits
        },
    }


def _timings(run: Run) -> dict[str, Any]:
    """In a file of its own: the one thing that is different each time the same run is done."""
    return {
        "toy": run.toy,
        "training_seconds": {name: round(history.seconds, 3) for name, history in run.histories.items()},
    }


def _test_metrics(run: Run, name: str) -> dict[str, Any]:
    images, errors = len(run.labels), int(run.wrong(name).sum())
    low, high = proportion_interval(images - errors, images)
    return {
        "accuracy": 1 - errors / images,
        "accuracy_low_95": low,
        "accuracy_high_95": high,
        "errors": errors,
        "images": images,
    }


def _curves(run: Run) -> list[dict[str, Any]]:
    quantities = list(dict.fromkeys(q for history in run.histories.values() for q in history))
    return [
        {"model": name, "epoch": epoch + 1, **{q: history[q][epoch] if q in history else "" for q in quantities}}
        for name, history in run.histories.items()
        for epoch in range(len(history["train_loss"]))
    ]


def _per_class(run: Run) -> list[dict[str, Any]]:
    rows = []
    for name, logits in run.logits.items():
        for label, counts in enumerate(confusion_matrix(logits, run.labels)):
            images, correct = int(counts.sum()), int(counts[label])
            share = correct / images if images else None
            counted = {"images": images, "correct": correct, "accuracy": share}
            rows.append({"model": name, "class": label, **_name(run, "class_name", label), **counted})
    return rows


def _confusions(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "model": name,
            "true": true,
            **_name(run, "true_name", true),
            "predicted": predicted,
            **_name(run, "predicted_name", predicted),
            "count": int(count),
        }
        for name, logits in run.logits.items()
        for true, row in enumerate(confusion_matrix(logits, run.labels))
        for predicted, count in enumerate(row)
    ]


def _predictions(run: Run) -> Iterable[dict[str, Any]]:
    columns: dict[str, Sequence[Any]] = {"index": range(len(run.labels)), "label": run.labels.tolist()}
    if run.classes:
        columns["label_name"] = [run.named(label) for label in columns["label"]]
    for name, logits in run.logits.items():
        prediction = logits.argmax(dim=1)  # as errors are counted: two logits may be one probability
        confidence = logits.softmax(dim=1).max(dim=1).values
        columns[f"{name}_prediction"] = prediction.tolist()
        if run.classes:
            columns[f"{name}_prediction_name"] = [run.named(label) for label in prediction.tolist()]
        columns[f"{name}_confidence"] = [f"{c:.6f}" for c in confidence.tolist()]
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _name(run: Run, column: str, label: int) -> dict[str, str]:
    """A column with the class's name, where it has one."""
    return {column: run.named(label)} if run.classes else {}


FILE_NAMES = {"teacher": "teacher_model", "regular": "student_regular", "distilled": "student_distilled"}


def folders(models_dir: Path, results_dir: Path) -> list[Path]:
    """Those of a run's files."""
    return [models_dir, *(results_dir / part for part in ("metrics", "predictions", "plots"))]


def save(
    run: Run,
    models: Mapping[str, nn.Module],
    further: Mapping[Path, bytes],
    *,
    models_dir: Path,
    results_dir: Path,
    state_dir: Path,
    temperature: float,
) -> None:
    """Write weights, metrics, predictions, plots and report: all of them, or on an error none. Print where they are.

    Args:
        models: by the names of the run.
        further: plots and whatever else is to be written with them.
        state_dir: where the run's part of the report is kept, and other commands have put theirs.
        temperature: that of the distillation.
    """
    named = {FILE_NAMES[name]: models[name] for name in run.logits}
    weights = weight_files(models_dir, named, run)
    entries = json.loads(weights[models_dir / "manifest.json"])["models"]
    latencies = {name: latency(models[name], run.test[0][0][None]) for name in run.logits}
    part = run_part(run, weights=entries, latencies=latencies, temperature=temperature, command=typed())
    files = weights | result_files(results_dir, run) | dict(further)
    publish_with_report(files, part, results_dir=results_dir, state_dir=state_dir)
