"""The ``kd judge`` command: read predictions, judge them, write the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd.commands.differences import print_differences
from kd.commands.differences_report import show_differences
from kd.commands.judge.settings import JudgeSettings
from kd.commands.judgement_json import describe_judgement
from kd.commands.publish import json_bytes, publish_with_report, result_folders
from kd.commands.slices_report import show_slices
from kd.console import say
from kd.evaluation.comparison_slices import describe_slices
from kd.evaluation.judging import Judged, Kind, judge
from kd.report.page import TONE_OF, Part, Section
from kd.storage.environment import versions
from kd.storage.files import require_writable
from kd.storage.npy import Array, CheckShape
from kd.storage.places import use_folders
from kd.storage.tables import read_table

NUMBERS = "Classes are numbers from 0, and the rows of all files are in the same order: leave out names and ids"


def run(settings: JudgeSettings) -> None:
    """Read the predictions, print the verdict and write the report.

    Raises:
        ValueError: a file is damaged or does not fit the others.
        OSError: a file cannot be read, or the folder is not writable or in use.
    """
    settings.check()
    results = settings.out / "results"
    require_writable(results / "metrics")
    labels = _read_classes(settings.labels)
    arms = [
        [_read_predictions(path, settings.kind, len(labels)) for path in files]
        for files in (settings.control, settings.distilled, settings.smoothed)
    ]
    judged = judge(
        arms[0],
        arms[1],
        labels,
        smoothed=arms[2],
        kind=settings.kind,
        decide=settings.decide,
        margin=settings.margin,
        class_names=settings.class_names,
    )
    quantity, margin = judged.comparison.quantity, judged.comparison.unit_margin
    say(f"decided by: {quantity.name}; equivalence margin: {quantity.describe_bound(margin)}")
    print_differences(judged.verdicts)
    for line in (*describe_slices(judged.slices, withheld=judged.verdicts.is_withheld), judged.sentence):
        say(line)
    content = {
        "settings": {name: _to_plain(value) for name, value in dataclasses.asdict(settings).items()},
        "environment": versions(),
        "decides": judged.comparison.quantity.key,
        "sentence": judged.sentence,
        **describe_judgement(judged.judgement, judged.comparison.pairs(0)),
    }
    with use_folders([results, *result_folders(settings.out)]):
        publish_with_report(
            {results / "metrics" / "judgement.json": json_bytes(content)},
            _make_part(judged),
            results_dir=results,
            state_dir=settings.out / ".kd",
        )


def _make_part(judged: Judged) -> Part:
    sections = (
        Section("comparison", "Paired differences", show_differences(judged.verdicts)),
        Section("slices", "Where it helps", show_slices(judged.slices, withheld=judged.verdicts.is_withheld)),
    )
    return Part("judge", judged.sentence, None, sections, TONE_OF[judged.verdict])


def _read_predictions(path: Path, kind: Kind, rows: int) -> Tensor:
    if kind == "classes":
        return _read_classes(path)
    table = _read(path, kind, lambda shape: _require_shape(shape, rows))
    return torch.from_numpy(table.astype(np.float64))


def _read_classes(path: Path) -> Tensor:
    values = _read(path, "classes", _require_column).reshape(-1)
    if not (values == np.rint(values)).all():
        raise ValueError(f"{path} must hold whole numbers, one class for each item.")
    return torch.from_numpy(values.astype(np.int64))


def _read(path: Path, name: str, check_shape: CheckShape) -> Array:
    try:
        return read_table(path, name=name, id_column=None, check_shape=check_shape, advice=NUMBERS).values
    except ValueError as error:
        raise ValueError(f"cannot use {path}: {str(error).removesuffix('.')}.") from error
    except OSError as error:
        raise type(error)(f"cannot read {path}: {error.strerror or error}.") from error


def _require_shape(shape: Sequence[int], rows: int) -> None:
    if len(shape) != 2 or shape[0] != rows:
        raise ValueError(f"it must have a row for each of {rows:,} labels. Got shape {list(shape)}")


def _require_column(shape: Sequence[int]) -> None:
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise ValueError(f"it must have a single column. Got shape {list(shape)}. {NUMBERS}")


def _to_plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_to_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
