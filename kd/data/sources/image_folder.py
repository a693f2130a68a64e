"""A folder of image files, in a folder for each class: ``train/cat/1.png``, or ``cat/1.png`` where nothing is split."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from kd.checks import DamagedDataError
from kd.data.sources.image_dataset import build_image_dataset
from kd.data.sources.image_decoding import ImagePaths, Size
from kd.data.sources.source import Source

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision has them
PARTS = ("train", "val", "test")
MISNAMED = {"training", "val", "valid", "validation", "dev", "test", "testing"}  # no classes, where train is missing
_SHOWN = 3


def open_folder(folder: Path, *, size: int | Size | None = None, classes: list[str] | None = None) -> Source:
    """Classes are the folders of the training part, in alphabetical order; names beginning with a dot do not count.

    A folder may be a link, and so may a file, to something inside of ``folder``.

    Args:
        size: as ``kd.data.sources.image_dataset.build_image_dataset`` has it.
        classes: the names of the folders in another order; the training part has these and no others.

    Raises:
        ValueError: no classes, other classes in another part, images of several sizes and no ``size``.
        DamagedDataError: links that lead out of the folder; images that cannot be read.
    """
    parts = _parts(folder)
    names = _classes(parts["train"], classes)
    files: dict[str, list[Path]] = {}
    labels: dict[str, Tensor] = {}
    for part, place in parts.items():
        _require_no_other_classes(part, place, names)
        found = [(path, number) for number, name in enumerate(names) for path in images_below(place / name)]
        files[part] = [path for path, _ in found]
        labels[part] = torch.tensor([number for _, number in found], dtype=torch.int64)
    require_inside(folder, [path for some in files.values() for path in some])
    data = build_image_dataset({part: ImagePaths(some) for part, some in files.items()}, labels, size=size)
    return Source(folder.name, data["train"], data.get("val"), data.get("test"), tuple(names))


def _parts(folder: Path) -> dict[str, Path]:
    present = _folders(folder)
    if "train" not in present:
        if parts := sorted(MISNAMED.intersection(map(str.lower, present))):
            raise ValueError(f"{folder} must have a folder train where it has parts. Got {parts} instead. Rename them.")
        return {"train": folder}
    ignored = sorted(set(present) - set(PARTS))
    if ignored:
        warnings.warn(f"{folder} has folders beside train, val and test that are not used: {ignored}.", stacklevel=4)
    return {part: folder / part for part in PARTS if part in present}


def _classes(train: Path, classes: list[str] | None) -> list[str]:
    found = _folders(train)
    if not found:
        raise ValueError(
            f"{train} must have a folder of images for each class. Got none instead. The layout is train/CLASS/FILE, "
            "with val/ and test/ beside train/ where there are such parts, or CLASS/FILE."
        )
    if classes is not None and sorted(classes) != found:
        raise ValueError(f"classes must be the folders of {train} in some order: {found}. Got {classes} instead.")
    return classes or found


def _folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _require_no_other_classes(part: str, place: Path, classes: list[str]) -> None:
    other = sorted(set(_folders(place)) - set(classes))
    if other:
        raise ValueError(
            f"{part} must have no other classes than train, {classes[:10]}. Got {other[:10]} instead. Add training "
            "images of them, or remove them."
        )


def images_below(place: Path) -> list[Path]:
    """All image files below, by their names, in one order on every system; names beginning with a dot do not count.

    Raises:
        DamagedDataError: a link to a folder, which may lead in a circle.
    """
    found = []
    for folder, subfolders, names in os.walk(place):
        subfolders[:] = [name for name in subfolders if name[0] != "."]
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        if links:
            raise DamagedDataError(f"{Path(folder, links[0])} is a link to a folder. Copy that folder to its place.")
        found += [Path(folder, name) for name in names if name.lower().endswith(EXTENSIONS) and name[0] != "."]
    return sorted(found)


def require_inside(folder: Path, paths: list[Path]) -> None:
    """Raise ``DamagedDataError`` for files that are links to something outside of the folder."""
    root = folder.resolve()
    outside = [path for path in paths if not Path(os.path.realpath(path)).is_relative_to(root)]
    if outside:
        shown = ", ".join(map(str, outside[:_SHOWN]))
        raise DamagedDataError(
            f"{len(outside):,} files are links that lead out of {folder}: {shown}. Copy the files to their places, or "
            "name the folder that holds them all."
        )
