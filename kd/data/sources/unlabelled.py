"""Unlabelled inputs, converted like the labelled training data; inputs that a labelled split contains are removed."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd.console import say
from kd.data.datasets import ArrayDataset, Split, unwrap_subsets
from kd.data.sources.arrays import to_inputs
from kd.data.sources.image_cache import find_data_folder, survey_once
from kd.data.sources.image_dataset import decode_all
from kd.data.sources.image_decoding import ImageFormat, ImagePaths, Size, choose_format
from kd.data.sources.image_folder import list_images, require_inside, warn_left_out
from kd.data.sources.scan import ScannedItems, scan
from kd.data.sources.table_encoding import EncodedTable
from kd.data.sources.validation import require_finite
from kd.storage.tables import read_npz
from kd.types import UNLABELLED


def open_unlabelled(
    where: str | Path,
    *,
    train: Dataset[Any],
    val: Dataset[Any] | None = None,
    test: Dataset[Any] | None = None,
    size: int | Size | None = None,
    workers: int | None = None,
) -> Dataset[Any]:
    """Open unlabelled inputs with the shape, type and normalisation of the labelled ones; samples are (input, −1).

    Inputs that are also in train, val or test (compared by a hash of the stored input) are removed. Duplicates of val
    or test cause a warning, because a student must not be evaluated on its training data.

    Args:
        where: a folder of image files, searched recursively; or an ``.npz`` file with an array ``x`` [N, ...]. Labels
            are not read.
        train, val, test: the labelled splits, as returned by ``split_source``; train determines shape, type, mean and
            std.
        size: of images, as passed to ``open_source``; without it, images must have the size of the labelled ones.
        workers: processes that decode images, as passed to ``open_source``.

    Raises:
        ValueError: unsupported kind, no inputs, inputs of a different shape or type, NaN or infinity, or all inputs are
            duplicates of labelled ones.
        DamagedDataError: an unreadable file, or a link that points outside the folder.
    """
    if isinstance(unwrap_subsets(train)[0], EncodedTable):
        raise ValueError("unlabelled data (--unlabelled) cannot be combined with a .csv or .tsv table. Omit them.")
    splits = {"train": train, "val": val, "test": test}
    labelled = {name: scan(dataset) for name, dataset in splits.items() if dataset is not None}
    reference, path = labelled["train"], Path(where)
    if path.suffix == ".npz":
        unlabelled = _open_npz(path)
    elif str(where) and path.is_dir():
        unlabelled = _open_folder(path, reference, (size, size) if isinstance(size, int) else size, workers)
    else:
        raise ValueError(
            f"cannot open unlabelled data (--unlabelled) from {str(where)!r}. Allowed: a folder of image files, or an "
            ".npz file with an array x."
        )
    scanned = scan(unlabelled)
    _require_same_kind(scanned, reference, path)
    require_finite(scanned.non_finite, "the unlabelled data")
    rows = _find_new_rows(scanned, labelled, path)
    base, _ = unwrap_subsets(train)
    if isinstance(base, ArrayDataset) and base.mean is not None and base.std is not None:
        unlabelled = unlabelled.normalised(base.mean, base.std)
    return unlabelled if len(rows) == len(scanned.labels) else Split(unlabelled, rows)


def _open_npz(path: Path) -> ArrayDataset:
    hint = "Write it with numpy.savez(file, x=…)."
    arrays = read_npz(path, hint)
    if "x" not in arrays:
        raise ValueError(f"{path} must hold an array x of inputs. Got {', '.join(arrays) or 'none'} instead. {hint}")
    inputs = to_inputs("the unlabelled data", arrays["x"])
    if not len(inputs):
        raise ValueError(f"x in {path} must not be empty. Got {list(inputs.shape)} instead.")
    return ArrayDataset(inputs, _missing_labels(len(inputs)))


def _open_folder(folder: Path, reference: ScannedItems, size: Size | None, workers: int | None) -> ArrayDataset:
    if reference.dtype != torch.uint8 or len(reference.shape) != 3 or reference.shape[0] not in {1, 3}:
        raise ValueError(
            "unlabelled image files need labelled images with 1 or 3 channels. The labelled inputs are "
            f"{list(reference.shape)} of {reference.dtype}. Store the unlabelled inputs as an .npz file with an array "
            "x of the same shape and type."
        )
    left_out = Counter[str]()
    paths = list_images(folder, left_out)
    warn_left_out(folder, left_out)
    if not paths:
        raise ValueError(f"{folder} must contain image files, directly or in subfolders. Got none. Check the path.")
    require_inside(folder, paths)
    mode = "L" if reference.shape[0] == 1 else "RGB"
    splits, target = {"unlabelled": ImagePaths(paths)}, ImageFormat(mode, reference.shape[1:])
    data_folder = find_data_folder(splits)
    source = choose_format(survey_once(splits, data_folder, workers=workers), size)
    if source.size != target.size:
        height, width = target.size
        raise ValueError(
            f"unlabelled images must have the size of the labelled ones, {height} × {width} pixels (height × width). "
            f"Got {source.size[0]} × {source.size[1]} instead. Scale and crop them with size (--image-size)."
        )
    if source.mode != target.mode:
        kind = {"L": "gray", "RGB": "coloured"}
        warnings.warn(
            f"unlabelled images are {kind[source.mode]} and are converted to {kind[target.mode]} like the labelled "
            "ones.",
            stacklevel=3,
        )
    labels = {"unlabelled": _missing_labels(len(paths))}
    return decode_all(splits, labels, target, data_folder, workers=workers)["unlabelled"]


def _missing_labels(samples: int) -> Tensor:
    return torch.full((samples,), UNLABELLED)


def _require_same_kind(scanned: ScannedItems, reference: ScannedItems, path: Path) -> None:
    if (scanned.shape, scanned.dtype) != (reference.shape, reference.dtype):
        raise ValueError(
            "unlabelled inputs must have the same shape and type as the labelled inputs, "
            f"{list(reference.shape)} of {reference.dtype}. Got {list(scanned.shape)} of {scanned.dtype} in "
            f"{path} instead. Convert them in the same way."
        )


def _find_new_rows(scanned: ScannedItems, labelled: Mapping[str, ScannedItems], path: Path) -> list[int]:
    """Return the rows that no labelled split contains; report the number of duplicates per split."""
    samples, known = len(scanned.digests), set[bytes]()
    for name, split in labelled.items():
        digests = set(split.digests)
        shared = sum(digest in digests for digest in scanned.digests)
        known |= digests
        if shared and name == "train":
            say(f"unlabelled data: {shared:,} of {samples:,} samples are also in the labelled training data, removed")
        elif shared:
            warnings.warn(
                f"{shared:,} of {samples:,} unlabelled samples are also in {name} and were removed: a student must not "
                "be evaluated on its training data.",
                stacklevel=3,
            )
    new_rows = [row for row, digest in enumerate(scanned.digests) if digest not in known]
    if not new_rows:
        raise ValueError(
            f"{path} must contain inputs that are not in the labelled data. Got none among {samples:,}. "
            "Use different data."
        )
    return new_rows
