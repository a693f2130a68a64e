"""``kd cache``: the logits that a run has kept, listed, or held against the teacher once more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from torch.utils.data import Dataset

from kd.commands.data import Data, load_data
from kd.commands.models import saved_teacher
from kd.commands.run.settings import CacheSettings
from kd.commands.settings import RunSettings
from kd.commands.settings_file import saved_settings
from kd.console import print_table, say
from kd.devices import device_named
from kd.models.inference import Predictions
from kd.storage.fingerprint import describe, digest
from kd.storage.run_folder import open_run
from kd.storage.snapshots import Snapshots
from kd.teachers.cache import verify_logits
from kd.teachers.label_agreement import measure_agreement


class Kept(NamedTuple):
    """Logits of one part of the data, as a run has kept them, and what they were collected from."""

    name: str
    predictions: Predictions
    teacher: Mapping[str, Any]
    dataset: Mapping[str, Any]
    file: Path


def run(settings: CacheSettings) -> None:
    """Print what is kept; with ``verify`` also ask the teacher.

    Raises:
        ValueError: kept logits are damaged, or are not this teacher's; or none are.
        OSError: no such run, or one that is in progress.
    """
    saved = saved_settings(settings.out)
    with open_run(saved.state_dir, made=()):  # a run in progress writes where this looks
        found = sorted(kept(saved.state_dir), key=lambda each: each.name)
        if not found:
            raise ValueError(f"no logits are kept in {saved.state_dir}. kd run and kd distill collect them.")
        _print(found)
        if settings.action == "verify":
            _verify(saved, found, rows=settings.rows)


def kept(state_dir: Path) -> Iterator[Kept]:
    """All finished caches of logits in a run's state folder.

    Raises:
        ValueError: one is damaged.
    """
    for note in (state_dir / "steps").glob("logits-*/description.json"):
        try:
            description = json.loads(note.read_text(encoding="utf-8"))
            inputs = description["inputs"]
            teacher, dataset = inputs["teacher"], inputs["dataset"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{note} is damaged: {error}. Delete its folder to collect these logits anew.") from error
        snapshots = Snapshots(note.parent, key=digest(description))
        if snapshots.done and snapshots.state is not None:
            file = max(note.parent.glob("*.pt"))
            predictions = Predictions(**snapshots.state)
            yield Kept(note.parent.name.removeprefix("logits-"), predictions, teacher, dataset, file)


def _print(found: list[Kept]) -> None:
    rows = {}
    for each in found:
        has_labels = bool((each.predictions.labels >= 0).any())
        right = f"{measure_agreement(each.predictions).accuracy:.2%}" if has_labels else "no labels"
        written = datetime.fromtimestamp(each.file.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        shape, size = each.predictions.logits.shape, each.file.stat().st_size
        rows[each.name] = (f"{shape[0]:,}", str(shape[1]), f"{size / 1e6:,.2f}", right, _short(each.teacher), written)
    print_table("Teacher logits", ("part", "rows", "classes", "MB", "right", "teacher", "written"), rows)


def _verify(saved: RunSettings, found: list[Kept], *, rows: int) -> None:
    data = load_data(saved)
    teacher = saved_teacher(saved, data).to(device_named(saved.device))
    asked = 0
    for each, dataset in _belonging(found, teacher, data):
        verify_logits(teacher, dataset, each.predictions, sample=rows)
        asked += 1
        checked = min(rows, len(each.predictions.labels))
        say(f"{each.name}: {checked:,} of {len(each.predictions.labels):,} rows are what the saved teacher answers")
    if not asked:
        raise ValueError(
            f"none of the kept logits are those of {saved.models_dir / 'teacher_model.pth'} on the data in "
            f"{saved.file}. kd distill collects them."
        )


def _belonging(found: list[Kept], teacher: nn.Module, data: Data) -> Iterator[tuple[Kept, Dataset[Any]]]:
    """Those that were collected from this teacher and these data, with the dataset; what the others are is said."""
    weights = describe(teacher)["weights"]
    parts = {part: (dataset, describe(dataset)) for part, dataset in _parts(data).items()}
    for each in found:
        dataset, described = parts.get(each.name.partition("-")[0], (None, None))
        if each.teacher["weights"] == weights and dataset is not None and described == each.dataset:
            yield each, dataset
        else:
            say(f"{each.name}: not checked; it is of another teacher or other data than the run's")


def _parts(data: Data) -> dict[str, Dataset[Any]]:
    return {"training": data.train_loader.dataset, "validation": data.val_set}


def _short(teacher: Mapping[str, Any]) -> str:
    return str(teacher.get("weights", ""))[:12]
