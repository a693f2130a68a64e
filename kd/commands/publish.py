"""What every command leaves: its files, written together with its part of the report; bytes of JSON, CSV and plots."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kd.commands.messages import say_files
from kd.commands.settings import RunSettings
from kd.report.page import Part, report_files
from kd.report.provenance import shown
from kd.storage.files import publish


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


def plot_files(results_dir: Path, figures: Mapping[str, bytes]) -> dict[Path, bytes]:
    """Each figure as ``plots/NAME.png`` in the folder of the results."""
    return {results_dir / "plots" / f"{name}.png": content for name, content in figures.items()}


def toy_stamp(limit: int | None) -> str | None:
    """What is stamped on everything that a run at toy size writes; None for a full run."""
    return None if limit is None else f"LIMIT={limit}"


def publish_with_report(files: Mapping[Path, bytes], part: Part, *, results_dir: Path, state_dir: Path) -> None:
    """Write a command's files, its part of the report and the page: all of them, or none. Print where they are."""
    written = {**files, **report_files(part, results_dir=results_dir, state_dir=state_dir)}
    publish(written)
    say_files(written, but=state_dir)


# What decides the models: all settings of a run, but for where the data lie and where it was computed. Numbers of
# seeds and margins are each command's own.
_TELLING = {field.name.upper() for field in dataclasses.fields(RunSettings)} - {"DEVICE", "DATA_DIR"}


def telling(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings that must be equal for two results to speak of the same models, as text."""
    return {name: shown(value) for name, value in config.items() if name in _TELLING}
