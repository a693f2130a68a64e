"""Files of a run except plots: weights with a manifest, metrics, and all predictions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.arms import ARMS
from kd.commands.program import typed_command
from kd.commands.publish import csv_bytes, json_bytes, publish_with_report
from kd.commands.run.report import run_part
from kd.commands.run.results import Run, Timings
from kd.commands.run.summary import lists_all_pairs, summarise_run
from kd.data.sources.table_encoding import encoding_of
from kd.deploy.description import describe_architecture, describe_task
from kd.deploy.manifest import FORMAT
from kd.deploy.manifest import NAME as MANIFEST
from kd.evaluation.latency import Latency, measure_latency
from kd.evaluation.metrics import count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds
from kd.evaluation.unlike import collect_moments, measure_unlike
from kd.models.inference import device_of
from kd.storage.environment import environment, versions
from kd.storage.files import sha256
from kd.storage.run_folder import explain_saved_state, run_step
from kd.storage.weights import weights_bytes


def weight_files(
    folder: Path,
    models: Mapping[str, nn.Module],
    run: Run,
    *,
    architectures: Mapping[str, str] = MappingProxyType({}),
) -> dict[Path, bytes]:
    """Return ``NAME.pth`` of each model, and ``manifest.json`` (``kd.deploy.manifest``) with its test metrics.

    Args:
        models: models by file name, in the order of the run's models.
        architectures: see ``untested_weight_files``.
    """
    names = dict(zip(models, run.logits, strict=True))
    tests = {file: run.accuracies[name]._asdict() for file, name in names.items()}
    classes = [run.class_name(label) for label in range(len(next(iter(run.logits.values()))[0]))]
    return untested_weight_files(
        folder,
        models,
        run.test,
        classes=classes,
        toy=run.toy,
        architectures=architectures,
        tests=tests,
        unlike=_measure_unlike(run, names),
    )


def _measure_unlike(run: Run, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the limits for inputs unlike the training data, by file name, of the models that ran on the validation
    split: a teacher that sees the images at a size of its own has none.
    """
    if run.validation is None:
        return {}
    logits, moments = run.validation.logits, (run.validation.moments, collect_moments(run.test))
    known = {file: name for file, name in names.items() if name in logits}
    return {file: measure_unlike(logits[n], run.logits[n], *moments)._asdict() for file, n in known.items()}


def untested_weight_files(
    folder: Path,
    models: Mapping[str, nn.Module],
    dataset: Dataset[Any],
    *,
    classes: Sequence[str],
    toy: str | None,
    architectures: Mapping[str, str] = MappingProxyType({}),
    tests: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    unlike: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[Path, bytes]:
    """Return the files of ``weight_files`` without a ``Run``, for models that need not be evaluated.

    Args:
        models: models by file name.
        dataset: a split of the run, which shows shape and normalisation of the inputs.
        classes: class names in label order.
        toy: stamp of a quick run, see ``Run``.
        architectures: specification of each model by file name; built-in networks need none.
        tests: metrics on the test set, by file name; empty before evaluation.
        unlike: limits for inputs unlike the training data (``kd.evaluation.unlike``), by file name.
    """
    files: dict[Path, bytes] = {}
    example: Tensor = dataset[0][0][None]
    manifest: dict[str, Any] = {"format": FORMAT, "toy": toy, "environment": versions()}
    manifest |= {**describe_task(dataset, classes), "models": {}}
    if (encoding := encoding_of(dataset)) is not None:
        manifest["table"] = encoding.to_json()
    for file_name, model in models.items():
        content = weights_bytes(model)
        files[folder / f"{file_name}.pth"] = content
        manifest["models"][f"{file_name}.pth"] = {
            "class": type(model).__name__,
            "architecture": describe_architecture(model) or architectures.get(file_name),
            "sha256": sha256(content),
            "bytes": len(content),
            "parameters": count_parameters(model),
            "multiply_adds": count_multiply_adds(model, example),
            "shapes": {key: list(tensor.shape) for key, tensor in model.state_dict().items()},
            **({"test": tests[file_name]} if file_name in tests else {}),
            **({"unlike": unlike[file_name]} if file_name in unlike else {}),
        }
    files[folder / MANIFEST] = json_bytes(manifest)
    return files


def result_files(
    folder: Path, run: Run, entries: Mapping[str, Mapping[str, Any]], timings: Timings
) -> dict[Path, bytes]:
    """Return ``metrics/`` (all numbers as JSON, tables as CSV) and ``predictions/`` (all models, all test images).

    Args:
        entries: entry of each model in ``manifest.json``, by model name.
    """
    stamp = {"run": run.toy or "full"}
    metrics = folder / "metrics"
    tests = ({**stamp, "model": name, **accuracy._asdict()} for name, accuracy in run.accuracies.items())
    return {
        metrics / "metrics.json": json_bytes(summarise_run(run, entries)),
        metrics / "timings.json": json_bytes(_summarise_timings(run, timings)),
        metrics / "test_metrics.csv": csv_bytes(tests),
        metrics / "curves.csv": csv_bytes({**stamp, **row} for row in _list_curves(run)),
        metrics / "per_class_accuracy.csv": csv_bytes({**stamp, **row} for row in _list_class_accuracies(run)),
        metrics / "confusion_matrices.csv": csv_bytes({**stamp, **row} for row in _list_confusions(run)),
        folder / "predictions" / "test_predictions.csv": csv_bytes({**stamp, **row} for row in _list_predictions(run)),
    }


def _summarise_timings(run: Run, timings: Timings) -> dict[str, Any]:
    """Return the measured times, kept out of ``metrics.json`` because they differ between two equal runs."""
    return {
        "toy": run.toy,
        "training_seconds": dict(timings.training_seconds),
        "latency_seconds": {name: latency._asdict() for name, latency in timings.latencies.items()},
        "processor": timings.processor,
    }


def _list_curves(run: Run) -> list[dict[str, Any]]:
    quantities = list(dict.fromkeys(q for history in run.histories.values() for q in history))
    return [
        {"model": name, "epoch": epoch + 1, **{q: history[q][epoch] if q in history else "" for q in quantities}}
        for name, history in run.histories.items()
        for epoch in range(len(history["train_loss"]))
    ]


def _list_class_accuracies(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "model": name,
            "class": label,
            **_class_name_column(run, "class_name", label),
            "images": row.images,
            "correct": row.correct,
            "accuracy": row.recall,
            "accuracy_low_95": row.low_95,
            "accuracy_high_95": row.high_95,
        }
        for name, scores in run.class_scores.items()
        for label, row in enumerate(scores.recalls)
    ]


def _list_confusions(run: Run) -> Iterable[dict[str, Any]]:
    """Yield the counts of all pairs of classes; with many classes, of those that occur."""
    for name, matrix in run.confusion_matrices.items():
        pairs = torch.ones_like(matrix) if lists_all_pairs(run) else matrix
        for true, predicted in pairs.nonzero().tolist():
            yield {
                "model": name,
                "true": true,
                **_class_name_column(run, "true_name", true),
                "predicted": predicted,
                **_class_name_column(run, "predicted_name", predicted),
                "count": int(matrix[true, predicted]),
            }


def _list_predictions(run: Run) -> Iterable[dict[str, Any]]:
    columns: dict[str, Sequence[Any]] = {"index": range(len(run.labels))}
    if run.ids:
        columns["id"] = run.ids
    columns["label"] = run.labels.tolist()
    if run.classes:
        columns["label_name"] = [run.class_name(label) for label in columns["label"]]
    for name, predicted in run.predictions.items():
        confidence = run.logits[name].softmax(dim=1).max(dim=1).values
        columns[f"{name}_prediction"] = predicted.tolist()
        if run.classes:
            columns[f"{name}_prediction_name"] = [run.class_name(label) for label in predicted.tolist()]
        columns[f"{name}_confidence"] = [f"{c:.6f}" for c in confidence.tolist()]
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _class_name_column(run: Run, column: str, label: int) -> dict[str, str]:
    """Return a column with the name of the class; no column if the classes are only numbered."""
    return {column: run.class_name(label)} if run.classes else {}


def folders(models_dir: Path, results_dir: Path) -> list[Path]:
    """Return the folders that a run writes to."""
    return [models_dir, *(results_dir / name for name in ("metrics", "predictions", "plots"))]


def save(
    run: Run,
    models: Mapping[str, nn.Module],
    further: Mapping[Path, bytes],
    *,
    models_dir: Path,
    results_dir: Path,
    state_dir: Path,
    architectures: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write weights, metrics, predictions, plots and report, all or none; print their paths.

    Args:
        models: models by name.
        further: more files to write, such as plots.
        state_dir: folder that holds the report sections of all commands.
        architectures: see ``untested_weight_files``.
    """
    by_file = {ARMS[name].file: models[name] for name in run.logits}
    weights = weight_files(models_dir, by_file, run, architectures=architectures)
    manifest = json.loads(weights[models_dir / MANIFEST])["models"]
    entries = {name: manifest[f"{ARMS[name].file}.pth"] for name in run.logits}
    timings = measure_timings(run, models)
    part = run_part(run, weights=manifest, entries=entries, timings=timings, command=typed_command())
    files = weights | result_files(results_dir, run, entries, timings) | dict(further)
    publish_with_report(files, part, results_dir=results_dir, state_dir=state_dir)


def measure_timings(run: Run, models: Mapping[str, nn.Module]) -> Timings:
    """Measure the latency of each model on one input, as a step; training times come from the histories."""
    example = run.test[0][0][None]
    timed = {name: models[name] for name in run.logits}
    devices = sorted({str(device_of(model)) for model in timed.values()})
    inputs = {"models": timed, "example": example, "devices": devices, "measure": measure_latency}

    def produce(_: object) -> dict[str, Any]:
        return {name: measure_latency(model, example)._asdict() for name, model in timed.items()}

    result = run_step("latency", inputs, produce)
    with explain_saved_state("latency"):
        latencies = {name: Latency(**result[name]) for name in timed}
        for latency in latencies.values():
            if not 0 < latency.median <= latency.p90 < math.inf:
                raise ValueError(f"a latency must be a finite number of seconds. Got {latency.median}")
    seconds = {name: round(history.seconds, 3) for name, history in run.histories.items()}
    return Timings(seconds, latencies, environment()["processor"])
