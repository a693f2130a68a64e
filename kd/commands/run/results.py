"""What a run leaves on disk besides its plots: weights with a manifest, metrics, and every single prediction."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.evaluation.metrics import confusion_matrix, count_parameters
from kd.evaluation.multiply_adds import multiply_adds
from kd.evaluation.two_models import mcnemar, proportion_interval
from kd.storage.files import sha256
from kd.storage.weights import weights_bytes
from kd.training.history import History


@dataclass(frozen=True)
class Run:
    """Everything that the files of a run are made from. The mappings' keys are the models' names.

    Attributes:
        histories: the curves of each model that was trained in this run; a teacher may come trained.
        logits: each model's answers to the test set, [N, K].
        labels: the test set's labels, [N] int64.
        test: the test set; row i of logits and labels belongs to ``test[i]``.
        config: the settings it was run with.
        toy: a stamp for every file if the run is too small to conclude anything from, else None.
        classes: their names in label order, where they have other names than their numbers.
    """

    histories: Mapping[str, History]
    logits: Mapping[str, Tensor]
    labels: Tensor
    test: Dataset[Any]
    config: Mapping[str, Any]
    toy: str | None = None
    classes: Sequence[str] = ()

    @property
    def noun(self) -> str:
        """What the items are called."""
        return "images" if is_image(self.test[0][0]) else "items"

    @property
    def plain(self) -> bool:
        """Whether the distilled student learned by plain distillation, from answers softened as they are shown."""
        return bool(self.config.get("METHOD", "kd") == "kd")

    @property
    def panels(self) -> dict[str, str]:
        """The quantities whose curves are worth drawing, and what each is."""
        return {
            "ce": "Cross-entropy with the labels, nats",
            "acc": "Accuracy, %",
            "soft": "Soft term: (1 − α) · T² · KL, nats" if self.plain else "Soft term of the method",
        }

    def named(self, label: int) -> str:
        """The class of this label as a person knows it."""
        return self.classes[label] if self.classes else str(label)

    def wrong(self, name: str) -> Tensor:
        """[N] bool: the test images that this model gets wrong."""
        return self.logits[name].argmax(dim=1) != self.labels


def is_image(example: Tensor) -> bool:
    """Whether it can be shown as a picture: [C, H, W]."""
    return example.ndim == 3


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
    manifest: dict[str, Any] = {"toy": toy, "environment": environment(), "models": {}}
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


def environment() -> dict[str, Any]:
    """Versions and machine: what else decides whether the same numbers come out again."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy", "scikit-learn")},
        "machine": platform.platform(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _summary(run: Run) -> dict[str, Any]:
    _, regular, distilled = run.logits
    return {
        "toy": run.toy,
        "config": dict(run.config),
        "environment": environment(),
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


def json_bytes(content: Any) -> bytes:
    """Indented JSON; a number that is not finite is an error, for JSON has none."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def csv_bytes(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A table with a header, from at least one row; all have the same keys."""
    remaining = iter(rows)
    first = next(remaining)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerow(first)
    writer.writerows(remaining)
    return text.getvalue().encode()
