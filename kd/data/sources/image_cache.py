"""Decode images once, in several processes; every later epoch and run maps the decoded images into memory.

    CACHE/images/<digest of the files' stamps>/survey.json
    CACHE/images/<digest of the files' stamps>/RGB-64x64/{pixels,digests,sums}.npy, complete.json

CACHE is the environment variable ``KD_CACHE_DIR``, or the user's cache folder. It may be deleted when nothing runs. The
one pass over the images also collects what checks, normalisation and the keys of a run's steps need
(``kd.data.sources.image_arrays``). If it is interrupted, it resumes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import PIL
import torch
from torch.utils.data import DataLoader, Dataset

from kd.checks import require
from kd.console import progress, say
from kd.data.sources.image_arrays import find_missing, is_complete, make_arrays, open_arrays, record_complete
from kd.data.sources.image_decoding import (
    ImageCollection,
    ImageFormat,
    Survey,
    add_surveys,
    collect_errors,
    decode_image,
    require_readable,
    survey_images,
)
from kd.devices import usable_cores
from kd.storage.files import publish, require_writable
from kd.storage.fingerprint import digest
from kd.storage.stopping import stop_if_requested
from kd.storage.user_folders import cache_folder

VERSION = 2  # of the decoder: a change of decoded pixels needs another number
FEW = 512  # fewer images are decoded in this process: starting others takes as long
_TASK = 64  # images per task of a worker process
_FEW_TASKS = 8  # fewer headers, in tasks of ``FEW``, are read in this process


def find_data_folder(splits: Mapping[str, ImageCollection]) -> Path | None:
    """Return the folder of these images in the cache; None if it is unknown whether they have changed."""
    stamps = {split: images.stamps() for split, images in splits.items()}
    if any(stamp is None for stamp in stamps.values()):
        return None
    return cache_folder() / "images" / digest([VERSION, PIL.__version__, stamps])[:32]


def survey_once(splits: Mapping[str, ImageCollection], folder: Path | None, *, workers: int | None = None) -> Survey:
    """Return the survey of the images' headers, saved in ``folder`` by an earlier run or now.

    Args:
        workers: see ``decode_once``; without a folder, this process reads all headers.

    Raises:
        DamagedDataError: images whose headers cannot be read, or with more than 8 bits per channel.
    """
    if folder is None:
        return _survey(splits, 0)
    record = folder / "survey.json"
    try:
        saved = json.loads(record.read_bytes())
        sizes = [(int(height), int(width), int(count)) for height, width, count in saved["sizes"]]
        return Survey(sizes, *(int(saved[name]) for name in ("gray", "transparent", "several")))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):  # none yet, or damaged
        survey = _survey(splits, _count_workers(workers))
    _require_cache(folder)
    publish({record: json.dumps(survey._asdict()).encode()})
    return survey


def _survey(splits: Mapping[str, ImageCollection], workers: int) -> Survey:
    surveys = []
    for images in splits.values():
        tasks = _divide(range(len(images.names)), size=FEW)
        reasons: dict[int, str] = {}
        for survey, errors in _run_tasks(_Surveyor(images), tasks, workers if len(tasks) > _FEW_TASKS else 0):
            surveys.append(survey)
            reasons |= errors
            stop_if_requested()
        require_readable(images.names, reasons)
    return add_surveys(surveys)


def decode_once(
    splits: Mapping[str, ImageCollection], folder: Path, form: ImageFormat, *, workers: int | None = None
) -> Path:
    """Decode all images into ``folder``, unless this is done; return the folder of their arrays, splits in order.

    Args:
        folder: returned by ``find_data_folder``.
        workers: processes that decode; 0 decodes in this process, None uses one per core. The arrays are the same.

    Raises:
        DamagedDataError: images that cannot be decoded; the message names the first few.
        OSError: the cache is not writable, its disk is full, or a worker process died.
    """
    height, width = form.size
    arrays = folder / f"{form.mode}-{height}x{width}"
    if is_complete(arrays):
        return arrays
    _require_cache(folder)
    partial = arrays.with_name(f"{arrays.name}.part")
    with _lock(arrays.with_name(f"{arrays.name}.lock")):
        if is_complete(arrays):  # another process decoded them meanwhile
            return arrays
        if arrays.exists():
            say(f"images: {arrays} is damaged, decoding again")
            shutil.rmtree(arrays)
        try:
            _decode_missing(partial, list(splits.values()), form, workers)
        except ValueError:  # unreadable images: when they are replaced, their folder gets another name
            shutil.rmtree(partial, ignore_errors=True)
            raise
        record_complete(partial)
        partial.rename(arrays)
    return arrays


def remove_images(images: Path) -> list[Path]:
    """Delete the decoded images of all data. Returns the folders that are kept because images are being decoded there.

    Args:
        images: the folder of decoded images in a cache.

    Raises:
        OSError: a file cannot be deleted.
    """
    kept = []
    for folder in sorted(images.iterdir()) if images.is_dir() else []:
        try:
            with ExitStack() as held:
                for lock in folder.glob("*.lock"):
                    held.enter_context(filelock.FileLock(lock, blocking=False))
        except filelock.Timeout:
            kept.append(folder)
        else:
            shutil.rmtree(folder)
    return kept


def _require_cache(folder: Path) -> None:
    try:
        require_writable(folder)
    except OSError as error:
        advice = "Set KD_CACHE_DIR to a folder for decoded images."
        raise OSError(error.errno, f"{error.strerror or error} {advice}") from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock inside the block, so that no two processes decode the same images; wait until it is free."""
    lock, waiting = filelock.FileLock(path), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except filelock.Timeout:
            stop_if_requested()
            if not waiting:
                say("images: waiting for another process that decodes the same images")
            waiting = True
    try:
        yield
    finally:
        lock.release()


def _decode_missing(
    folder: Path, collections: Sequence[ImageCollection], form: ImageFormat, workers: int | None
) -> None:
    """Decode into the arrays of a folder the images that they do not hold yet."""
    workers = _count_workers(workers)
    names = [name for images in collections for name in images.names]
    make_arrays(folder, len(names), form.shape)
    missing = find_missing(folder)
    done = len(names) - len(missing)
    if len(missing) < FEW:
        workers = 0
    else:
        resumed = f"; {done:,} are decoded already" if done else ""
        size = len(names) * math.prod(form.shape) / 1e6
        say(f"images: decoding {len(names):,} once, {size:,.0f} MB in {folder.parent}{resumed}")
    tasks = _divide(missing, size=_TASK)
    reasons: dict[int, str] = {}
    with progress("images", steps=len(names), done=done) as advance:
        for task, errors in zip(tasks, _run_tasks(_Decoder(folder, collections, form), tasks, workers), strict=True):
            reasons |= errors
            advance(len(task))
            stop_if_requested()
    require_readable(names, reasons)


def _count_workers(workers: int | None) -> int:
    workers = usable_cores() if workers is None else workers
    require(workers >= 0, "workers (--workers)", workers, "an integer of at least 0")
    return workers


def _divide(rows: Sequence[int], *, size: int) -> list[Sequence[int]]:
    """Divide rows into tasks of a size; the last may be smaller."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _run_tasks(dataset: Dataset[Any], tasks: list[Sequence[int]], workers: int) -> Iterator[Any]:
    """Yield the dataset's item of each task, a list of rows, in order; worker processes make them."""
    loader = DataLoader(
        dataset,
        batch_size=None,  # each task is one item
        sampler=tasks,
        num_workers=workers,
        collate_fn=_return_unchanged,
        generator=torch.Generator(),  # without one, torch draws from the caller's global generator
    )
    try:
        yield from loader
    except RuntimeError as error:  # torch's error for a dead worker process
        stop_if_requested()  # a stop signal to all processes of the program ends the workers too
        reason = str(error).splitlines()[0]
        raise OSError(f"a process that reads images died ({reason}). Run again to resume.") from error


def _return_unchanged(item: Any) -> Any:
    return item


class _Surveyor(Dataset[tuple[Survey, dict[int, str]]]):
    """Reads headers. An item is a list of rows; its value, their survey and the errors by row."""

    def __init__(self, images: ImageCollection) -> None:
        self.images = images

    def __getitem__(self, rows: Any) -> tuple[Survey, dict[int, str]]:
        return survey_images(self.images, rows)


class _Decoder(Dataset[dict[int, str]]):
    """Decodes images into the arrays of a folder. An item is a list of rows; its value, the errors by row."""

    def __init__(self, folder: Path, collections: Sequence[ImageCollection], form: ImageFormat) -> None:
        self.folder, self.collections, self.form = folder, collections, form
        self.starts = np.cumsum([0, *(len(images.names) for images in collections)])

    def __getitem__(self, rows: Any) -> dict[int, str]:
        arrays = open_arrays(self.folder, writable=True)
        reasons: dict[int, str] = {}
        with collect_errors(reasons) as catch:
            for row in rows:
                number = int(np.searchsorted(self.starts, row, side="right")) - 1
                images, index = self.collections[number], row - int(self.starts[number])
                with catch(row), images.open(index) as image:
                    arrays.write(row, decode_image(image, self.form))
        return reasons
