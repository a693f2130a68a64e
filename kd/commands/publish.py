"""Output of the commands: write files and report sections together; format JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, KeysView, Mapping
from pathlib import Path
from typing import Any

from kd.commands.messages import say_files
from kd.commands.settings import RunSettings
from kd.report.page import Part, report_files
from kd.report.provenance import format_setting
from kd.storage.files import publish


def json_bytes(content: Any) -> bytes:
    """Return indented JSON; raise ``ValueError`` for NaN or infinity, which JSON does not support."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def csv_bytes(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as CSV with a header; needs at least one row, and the same keys in every row.

    A text that a spreadsheet would run as a formula, such as the class name "=1+1", gets a leading apostrophe.
    """
    remaining = iter(rows)
    first = next(remaining)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_defuse, first))
    writer.writerows(_list_cells(row, first.keys()) for row in itertools.chain([first], remaining))
    return text.getvalue().encode(errors="backslashreplace")  # for undecodable bytes in names of files


def _list_cells(row: Mapping[str, Any], names: KeysView[str]) -> list[Any]:
    if row.keys() != names:
        raise ValueError(f"all rows of a table must have the same columns. Got {[*row]} after {[*names]}.")
    return [_defuse(row[name]) for name in names]


# The last four are full-width forms, which spreadsheets in some languages take for the others.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def _defuse(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def plot_files(results_dir: Path, figures: Mapping[str, bytes]) -> dict[Path, bytes]:
    """Return the figures by path, ``plots/NAME.png`` in the results folder."""
    return {results_dir / "plots" / f"{name}.png": content for name, content in figures.items()}


def result_folders(out: Path) -> list[Path]:
    """Return the existing folders that any command publishes to with this OUT.

    Each command finishes interrupted writes in all of them: a journal in one may name files in the others, whose
    temporary files would otherwise be taken for leftovers.
    """
    results = [out / "results" / name for name in ("", "metrics", "predictions", "plots")]
    return [folder for folder in (out, out / "models", *results, out / ".kd" / "report") if folder.is_dir()]


def quick_run_stamp(limit: int | None) -> str | None:
    """Return the stamp on all output of a quick run; None for a full run."""
    return None if limit is None else f"LIMIT={limit}"


def publish_with_report(files: Mapping[Path, bytes], part: Part, *, results_dir: Path, state_dir: Path) -> None:
    """Write a command's files, its report sections and the report page, all or none; print their paths."""
    written = {**files, **report_files(part, results_dir=results_dir, state_dir=state_dir)}
    publish(written)
    say_files(written, but=state_dir)


# Settings that determine the models: all settings of a run, except the device and the location of the data. Settings
# of other commands, such as the margin or the number of seeds, do not change the models.
# Added are digests of the files of student, method and class weights, and a constant of the documented pipeline.
_MODEL_SETTINGS = {
    *({field.name.upper() for field in dataclasses.fields(RunSettings)} - {"DEVICE", "DATA_DIR"}),
    *("STUDENT_SHA256", "CLASS_WEIGHTS_SHA256", "METHOD_SOURCE", "BFLOAT16"),
}


def model_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings, as text, that must be equal if two results describe the same models."""
    return {name: format_setting(value) for name, value in config.items() if name in _MODEL_SETTINGS}
