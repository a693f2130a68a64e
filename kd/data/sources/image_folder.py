"""Image folders with one folder per class: ``train/cat/1.png``, or ``cat/1.png`` for an unsplit dataset."""

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

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # same as torchvision's
SPLITS = ("train", "val", "test")
# Names of splits, not of classes: an error if there is no folder train.
MISNAMED = {"training", "val", "valid", "validation", "dev", "test", "testing"}
_MAX_SHOWN = 3


def open_image_folder(
    folder: Path, *, size: int | Size | None = None, classes: list[str] | None = None, workers: int | None = None
) -> Source:
    """Open a folder of images; the folders of the training split, in alphabetical order, are the classes.

    Names that begin with a dot are ignored. The folders of splits and classes may be symbolic links, and so may files,
    as long as every file lies inside ``folder``.

    Args:
        folder: the root folder.
        size, workers: see ``kd.data.sources.image_dataset.build_image_dataset``.
        classes: the class folders in a different order; must name each exactly once.

    Raises:
        ValueError: no classes, a split with classes that train lacks, or images of several sizes without ``size``.
        DamagedDataError: links that point outside the folder, or unreadable images.
    """
    split_folders = _find_splits(folder)
    names = _find_classes(split_folders["train"], classes)
    files: dict[str, list[Path]] = {}
    labels: dict[str, Tensor] = {}
    for split, split_folder in split_folders.items():
        _require_known_classes(split, split_folder, names)
        images = [(path, number) for number, name in enumerate(names) for path in list_images(split_folder / name)]
        files[split] = [path for path, _ in images]
        labels[split] = torch.tensor([number for _, number in images], dtype=torch.int64)
    require_inside(folder, [path for paths in files.values() for path in paths])
    collections = {split: ImagePaths(paths) for split, paths in files.items()}
    data = build_image_dataset(collections, labels, size=size, workers=workers)
    return Source(folder.name, data["train"], data.get("val"), data.get("test"), tuple(names))


def _find_splits(folder: Path) -> dict[str, Path]:
    subfolders = _list_folders(folder)
    if "train" not in subfolders:
        if misnamed := sorted(MISNAMED.intersection(map(str.lower, subfolders))):
            raise ValueError(
                f"{folder} must have a folder named 'train' if it has splits. Got {misnamed} instead. "
                "Rename the folders."
            )
        return {"train": folder}
    ignored = sorted(set(subfolders) - set(SPLITS))
    if ignored:
        warnings.warn(f"{folder}: ignoring folders other than train, val and test: {ignored}.", stacklevel=4)
    return {split: folder / split for split in SPLITS if split in subfolders}


def _find_classes(train: Path, classes: list[str] | None) -> list[str]:
    names = _list_folders(train)
    if not names:
        raise ValueError(
            f"{train} must have one folder of images per class. Got none. The layout is train/CLASS/FILE, with "
            "optional val/ and test/ next to train/, or CLASS/FILE."
        )
    if classes is not None and sorted(classes) != names:
        raise ValueError(
            f"classes (--class-names) must be the folders of {train} in some order: {names}. Got {classes} instead."
        )
    return classes or names


def _list_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _require_known_classes(split: str, folder: Path, classes: list[str]) -> None:
    unknown = sorted(set(_list_folders(folder)) - set(classes))
    if unknown:
        raise ValueError(
            f"{split} must have only the classes of train, {classes[:10]}. Got {unknown[:10]} instead. Add training "
            "images of these classes, or remove them."
        )


def list_images(root: Path) -> list[Path]:
    """Return all image files below a folder, sorted; names that begin with a dot are ignored.

    Raises:
        DamagedDataError: a symbolic link to a folder, which may be circular.
    """
    images = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name[0] != "."]
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        if links:
            raise DamagedDataError(
                f"{Path(folder, links[0])} is a symbolic link to a folder. Replace the link with a copy of the folder."
            )
        images += [Path(folder, name) for name in names if name.lower().endswith(EXTENSIONS) and name[0] != "."]
    return sorted(images)


def require_inside(folder: Path, paths: list[Path]) -> None:
    """Raise ``DamagedDataError`` if a file is a symbolic link to a target outside the folder."""
    root = folder.resolve()
    outside = [path for path in paths if not Path(os.path.realpath(path)).is_relative_to(root)]
    if outside:
        shown = ", ".join(map(str, outside[:_MAX_SHOWN]))
        raise DamagedDataError(
            f"{len(outside):,} files are symbolic links that point outside {folder}: {shown}. Replace them with "
            "copies, or open the folder that contains all files."
        )
