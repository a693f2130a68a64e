"""``kd cache``: list a run's cached teacher logits, or compare them with the saved teacher."""

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
from kd.commands.teacher_inputs import data_for_teacher
from kd.console import print_table, say
from kd.devices import device_named
from kd.models.inference import Predictions
from kd.storage.fingerprint import describe, digest
from kd.storage.run_folder import STEPS, explain_saved_state, open_run
from kd.storage.snapshots import Snapshots
from kd.teachers.cache import verify_logits
from kd.teachers.label_agreement import measure_agreement


class CachedLogits(NamedTuple):
    """Cached logits of one split, with the descriptions of the teacher and dataset they were collected from."""

    name: str
    predictions: Predictions
    teacher: Mapping[str, Any]
    dataset: Mapping[str, Any]
    file: Path


def run(settings: CacheSettings) -> None:
    """List the cached logits; with ``verify`` also compare them with the teacher's current logits.

    Raises:
        ValueError: cached logits are missing, damaged or of another teacher.
        OSError: the run does not exist or is in progress.
    """
    saved = saved_settings(settings.out, trust=settings.trust)
    with open_run(saved.state_dir, made=(), program="cache"):  # takes the lock: a run in progress writes to this folder
        caches = sorted(read_caches(saved.state_dir), key=lambda cache: cache.name)
        if not caches:
            raise ValueError(f"no cached logits in {saved.state_dir}. kd run and kd distill collect them.")
        _print_caches(caches)
        if settings.action == "verify":
            _verify_caches(saved, caches, rows=settings.rows)


def read_caches(state_dir: Path) -> Iterator[CachedLogits]:
    """Read all finished caches of logits in a run's state folder.

    Raises:
        ValueError: a cache is damaged.
    """
    for file in (state_dir / STEPS).glob("logits-*/description.json"):
        try:
            description = json.loads(file.read_text(encoding="utf-8"))
            inputs = description["inputs"]
            teacher, dataset = inputs["teacher"], inputs["dataset"]
            _ = teacher["weights"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged: {error}. Delete its folder to collect these logits again.") from error
        snapshots = Snapshots(file.parent, key=digest(description))
        if snapshots.done and snapshots.state is not None:
            newest = max(file.parent.glob("*.pt"))
            with explain_saved_state(file.parent.name):
                predictions = Predictions.from_state(snapshots.state)
            yield CachedLogits(file.parent.name.removeprefix("logits-"), predictions, teacher, dataset, newest)


def _print_caches(caches: list[CachedLogits]) -> None:
    rows = {}
    for cache in caches:
        has_labels = bool((cache.predictions.labels >= 0).any())
        accuracy = f"{measure_agreement(cache.predictions).accuracy:.2%}" if has_labels else "no labels"
        written = datetime.fromtimestamp(cache.file.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        shape, size = cache.predictions.logits.shape, cache.file.stat().st_size
        teacher = _short_hash(cache.teacher)
        rows[cache.name] = (f"{shape[0]:,}", str(shape[1]), f"{size / 1e6:,.2f}", accuracy, teacher, written)
    print_table("Teacher logits", ("split", "rows", "classes", "MB", "accuracy", "teacher", "written"), rows)


def _verify_caches(saved: RunSettings, caches: list[CachedLogits], *, rows: int) -> None:
    weights = saved.models_dir / "teacher_model.pth"
    if not weights.exists():
        raise FileNotFoundError(
            f"{weights} does not exist: the run was interrupted before it saved its models. Repeat its command to "
            "finish it, then verify the logits."
        )
    data = load_data(saved)
    teacher = saved_teacher(saved, data).to(device_named(saved.device))
    verified = 0
    for cache, dataset in _match_caches(caches, teacher, data_for_teacher(saved, data, teacher)):
        verify_logits(teacher, dataset, cache.predictions, sample=rows)
        verified += 1
        checked = min(rows, len(cache.predictions.labels))
        say(f"{cache.name}: {checked:,} of {len(cache.predictions.labels):,} rows match the saved teacher")
    if not verified:
        raise ValueError(
            f"no cached logits match {saved.models_dir / 'teacher_model.pth'} and the data in {saved.file}. "
            "kd distill collects them."
        )


def _match_caches(
    caches: list[CachedLogits], teacher: nn.Module, data: Data
) -> Iterator[tuple[CachedLogits, Dataset[Any]]]:
    """Yield the caches collected from this teacher and data, with their datasets; print the names of all others."""
    weights = describe(teacher)["weights"]
    splits = {split: (dataset, describe(dataset)) for split, dataset in _cached_splits(data).items()}
    for cache in caches:
        dataset, description = splits.get(cache.name.partition("-")[0], (None, None))
        if cache.teacher["weights"] == weights and dataset is not None and description == cache.dataset:
            yield cache, dataset
        else:
            say(f"{cache.name}: not checked: collected from a different teacher or dataset")


def _cached_splits(data: Data) -> dict[str, Dataset[Any]]:
    return {"training": data.train_loader.dataset, "validation": data.val_set}


def _short_hash(teacher: Mapping[str, Any]) -> str:
    return str(teacher.get("weights", ""))[:12]
