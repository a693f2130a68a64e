"""Inputs without labels, made like the labelled training data; what is in a labelled part already is left out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd.console import say
from kd.data.datasets import ArrayDataset, Split, unwrapped
from kd.data.sources.arrays import to_inputs
from kd.data.sources.image_dataset import ImageFiles, decode_all
from kd.data.sources.image_decoding import ImageFormat, ImagePaths, Size, find_common_format
from kd.data.sources.image_folder import images_below, require_inside
from kd.data.sources.normalisation import Normalisable
from kd.data.sources.scan import ScannedItems, scan
from kd.data.sources.validation import require_finite
from kd.storage.tables import arrays_in
from kd.types import UNLABELLED


def open_unlabelled(
    where: str | Path,
    *,
    train: Dataset[Any],
    val: Dataset[Any] | None = None,
    test: Dataset[Any] | None = None,
    size: int | Size | None = None,
) -> Dataset[Any]:
    """Inputs in the shape and type of the labelled ones, normalised as they are; items are (input, −1).

    An input that is also in train, val or test, by its content as it is stored, is left out. From val and test that is
    warned of: a student must not be judged by what it has learned from.

    Args:
        where: a folder of image files, at any depth and under any names; or an ``.npz`` file with an array ``x``
            [N, ...]. Labels are not needed and not read.
        train, val, test: the labelled data, as ``split_source`` returns them; train gives shape, type, mean and std.
        size: of images, as ``open_source`` was given it; without it, all must have that of the labelled ones.

    Raises:
        ValueError: neither kind, nothing in it, inputs of another shape or type, NaN or infinity, or nothing but what
            the labelled data have.
        DamagedDataError: a file that cannot be read, or a link that leads out of the folder.
    """
    parts = {"train": train, "val": val, "test": test}
    labelled = {name: scan(part) for name, part in parts.items() if part is not None}
    like, path = labelled["train"], Path(where)
    found: ArrayDataset | ImageFiles
    if path.suffix == ".npz":
        found = _from_npz(path)
    elif str(where) and path.is_dir():
        found = _from_folder(path, like, (size, size) if isinstance(size, int) else size)
    else:
        raise ValueError(
            f"no unlabelled data can be opened from {str(where)!r}. Name a folder of image files, or an .npz file with "
            "an array x."
        )
    facts = scan(found)
    _require_like(facts, like, path)
    require_finite(facts.broken, "the unlabelled data")
    kept = _new(facts, labelled, path)
    base, _ = unwrapped(train)
    if isinstance(base, Normalisable) and base.mean is not None and base.std is not None:
        found = found.normalised(base.mean, base.std)
    return found if len(kept) == len(facts.labels) else Split(found, kept)


def _from_npz(path: Path) -> ArrayDataset:
    hint = "Write it with numpy.savez(file, x=…)."
    arrays = arrays_in(path, hint)
    if "x" not in arrays:
        raise ValueError(f"{path} must hold an array x of inputs. Got {', '.join(arrays) or 'none'} instead. {hint}")
    inputs = to_inputs("the unlabelled data", arrays["x"])
    if not len(inputs):
        raise ValueError(f"x in {path} must have items. Got {list(inputs.shape)} instead.")
    return ArrayDataset(inputs, _no_labels(len(inputs)))


def _from_folder(folder: Path, like: ScannedItems, size: Size | None) -> ArrayDataset | ImageFiles:
    if like.dtype != torch.uint8 or len(like.shape) != 3 or like.shape[0] not in {1, 3}:
        raise ValueError(
            f"image files can only stand beside images of 1 or 3 channels. The labelled inputs are {list(like.shape)} "
            f"of {like.dtype}. Give the unlabelled ones as an .npz file with an array x of that kind."
        )
    paths = images_below(folder)
    if not paths:
        raise ValueError(f"{folder} must have image files in it, or in folders below. Got none. Is it the right one?")
    require_inside(folder, paths)
    parts, form = {"unlabelled": ImagePaths(paths)}, ImageFormat("L" if like.shape[0] == 1 else "RGB", like.shape[1:])
    own = find_common_format(parts, size)
    if own.size != form.size:
        height, width = form.size
        raise ValueError(
            f"unlabelled images must have the labelled ones' size, {height} × {width} pixels (height × width). Got "
            f"{own.size[0]} × {own.size[1]} instead. Give that size: they are scaled and cropped to it."
        )
    if own.mode != form.mode:
        kind = {"L": "gray", "RGB": "coloured"}
        warnings.warn(
            f"unlabelled images are {kind[own.mode]}: they become {kind[form.mode]}, as the labelled ones are.",
            stacklevel=3,
        )
    return decode_all(parts, {"unlabelled": _no_labels(len(paths))}, form)["unlabelled"]


def _no_labels(items: int) -> Tensor:
    return torch.full((items,), UNLABELLED)


def _require_like(facts: ScannedItems, like: ScannedItems, path: Path) -> None:
    if (facts.shape, facts.dtype) != (like.shape, like.dtype):
        raise ValueError(
            f"unlabelled inputs must be like the labelled ones, {list(like.shape)} of {like.dtype} each. Got "
            f"{list(facts.shape)} of {facts.dtype} in {path} instead. Convert them as the labelled data were."
        )


def _new(facts: ScannedItems, labelled: Mapping[str, ScannedItems], path: Path) -> list[int]:
    """The rows that no labelled part has; how many each of them has is told."""
    items, known = len(facts.digests), set[bytes]()
    for name, part in labelled.items():
        own = set(part.digests)
        shared = sum(digest in own for digest in facts.digests)
        known |= own
        if shared and name == "train":
            say(f"{shared:,} of {items:,} unlabelled items are also in the labelled training data and are left out")
        elif shared:
            warnings.warn(
                f"{shared:,} of {items:,} unlabelled items are also in {name} and are left out: the student would be "
                "judged by what it has learned from.",
                stacklevel=3,
            )
    kept = [row for row, digest in enumerate(facts.digests) if digest not in known]
    if not kept:
        raise ValueError(
            f"{path} must have inputs that the labelled data have not. Got none among {items:,}. Name other data."
        )
    return kept
