"""Image folders with one folder per class: ``train/cat/1.png``, or ``cat/1.png`` for an unsplit dataset."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kd.checks import DamagedDataError
from kd.console import printable_name
from kd.data.sources.image_dataset import build_image_dataset
from kd.data.sources.image_decoding import ImagePaths, Size
from kd.data.sources.source import Source

# torchvision's, and more names of the same formats. Others are not read, with a warning.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff", ".webp"),
    *(".gif", ".avif"),
)
# Folders of archives, network storage and operating systems. They hold thumbnails and copies of the very images.
FOREIGN = {
    *("__macosx", "@eadir", "@__thumb", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found", "network trash folder"),
    *("temporary items", "thevolumesettingsfolder", "@sharebin", "@transcode", "@synoresource", "@sharesnap"),
    *("_gsdata_", "_vti_cnf", "found.000", "recycled", "__pycache__", "cvs", "appledouble", "stversions"),
}
# Further ones, by pattern: of disk stations, and of thumbnails. "thumb" may be a class of fingers.
_ADDED = re.compile(r"[@#].*|_+thumbs?|_*thumbnails?|thumbs", re.IGNORECASE)
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
SPLITS = ("train", "val", "test")
# Names of splits, not of classes: an error if there is no folder train.
MISNAMED = {"training", "val", "valid", "validation", "dev", "test", "testing"}
_TRAIN = {"train", "training", "trainset", "train_set", "training_set", "trainval"}
_SPLIT_NAMES = MISNAMED | _TRAIN
_MAX_SHOWN = 3
_MAX_KINDS = 12


def open_image_folder(
    folder: Path, *, size: int | Size | None = None, classes: list[str] | None = None, workers: int | None = None
) -> Source:
    """Open a folder of images; the folders of the training split, in alphabetical order, are the classes.

    Names that begin with a dot, other files that are not read, and folders that other programs add (``FOREIGN`` and
    similar names) are ignored; a warning counts those that may be the user's. The folders of splits and classes may be
    symbolic links, and so may files, as long as every file lies inside ``folder``.

    Args:
        folder: the root folder.
        size, workers: see ``kd.data.sources.image_dataset.build_image_dataset``.
        classes: the class folders in a different order; must name each exactly once. Folders named here are read even
            if other programs use such names.

    Raises:
        ValueError: no classes, a split with classes that train lacks, or images of several sizes without ``size``.
        DamagedDataError: links that point outside the folder, or unreadable images.
    """
    split_folders = _find_splits(folder)
    names = _find_classes(split_folders["train"], classes)
    left_out = Counter[str]()
    for path in {folder, *split_folders.values()}:
        left_out.update(_list_ignored_folders(path, names))
        left_out.update(_list_stray_images(path))
    files: dict[str, list[Path]] = {}
    labels: dict[str, Tensor] = {}
    for split, split_folder in split_folders.items():
        _require_known_classes(split, split_folder, names)
        by_class = [list_images(split_folder / name, left_out) for name in names]
        files[split] = [path for paths in by_class for path in paths]
        labels[split] = torch.tensor(
            [number for number, paths in enumerate(by_class) for _ in paths], dtype=torch.int64
        )
    warn_left_out(folder, left_out)
    require_inside(folder, [path for paths in files.values() for path in paths])
    collections = {split: ImagePaths(paths) for split, paths in files.items()}
    data = build_image_dataset(collections, labels, size=size, workers=workers)
    ids = {split: [path.relative_to(folder).as_posix() for path in paths] for split, paths in files.items()}
    return Source(folder.name, data["train"], data.get("val"), data.get("test"), tuple(names), ids)


def _find_splits(folder: Path) -> dict[str, Path]:
    subfolders = _list_folders(folder)
    if "train" not in subfolders:
        if misnamed := sorted(MISNAMED.intersection(map(str.lower, subfolders))):
            raise ValueError(
                f"{folder} must have a folder named 'train' if it has splits. Got {misnamed} instead. "
                "Rename the folders."
            )
        _check_nesting(folder, subfolders)
        return {"train": folder}
    ignored = sorted(set(subfolders) - set(SPLITS))
    if ignored:
        is_split = any(name.lower() in MISNAMED for name in ignored)
        advice = " Rename a folder to val or test to use it as a split." if is_split else ""
        warnings.warn(f"{folder}: ignoring folders other than train, val and test: {ignored}.{advice}", stacklevel=4)
    return {split: folder / split for split in SPLITS if split in subfolders}


def _check_nesting(folder: Path, classes: Sequence[str]) -> None:
    """Raise for a folder around the classes or a training split by another name; warn about splits inside classes."""
    inner = {name: set(_list_folders(folder / name)) for name in classes}
    if len(classes) == 1 and (found := sorted(inner[classes[0]])):
        shown = ", ".join(map(repr, found[:_MAX_SHOWN])) + ", …" * (len(found) > _MAX_SHOWN)
        raise ValueError(
            f"{folder} must have one folder of images per class. Got only {classes[0]!r}, which holds the folders "
            f"{shown}. If these are the classes or splits, pass {folder / classes[0]}."
        )
    others = {name: set().union(*(inner[other] for other in classes if other != name)) for name in classes}
    if train := next((name for name in classes if name.lower() in _TRAIN and inner[name] & others[name]), None):
        raise ValueError(
            f"{folder} must have a folder named 'train' if it has splits. Got {train!r} with the folders "
            f"{sorted(inner[train])[:10]}. Rename it."
        )
    if splits := sorted(f"{name}/{part}" for name in classes for part in inner[name] if part.lower() in _SPLIT_NAMES):
        shown = ", ".join(map(printable_name, splits[:_MAX_SHOWN])) + ", …" * (len(splits) > _MAX_SHOWN)
        warnings.warn(
            f"{folder}: the folders {shown} are not read as splits: all images of a class are put together. For "
            "splits, the layout is train/CLASS/FILE and test/CLASS/FILE.",
            stacklevel=5,
        )


def _find_classes(train: Path, classes: list[str] | None) -> list[str]:
    names = _list_folders(train, classes or ())
    if not names:
        raise ValueError(
            f"{train} must have one folder of images per class. Got none. The layout is train/CLASS/FILE, with "
            "optional val/ and test/ next to train/, or CLASS/FILE."
        )
    for name in names:
        if printable_name(name) != name:  # also undecodable bytes, which Python represents by lone surrogates
            raise ValueError(
                f"the name of a class must be readable text. Got the folder {name!r} in {train}, perhaps from a system "
                "with another character set. Rename it."
            )
    if classes is not None and sorted(classes) != names:
        raise ValueError(
            f"classes (--class-names) must be the folders of {train} in some order: {names}. Got {classes} instead."
        )
    return classes or names


def _list_folders(folder: Path, classes: Sequence[str] = ()) -> list[str]:
    """Return the sorted names of the folders that are read. If all names match ``_ADDED``, they are the user's own."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    names = [name for name in names if name in classes or name.lower() not in FOREIGN]
    return [name for name in names if name in classes or not _ADDED.fullmatch(name)] or names


def _list_ignored_folders(folder: Path, classes: Sequence[str]) -> list[str]:
    """Return for each folder that is not read and may hold images of the user how a warning names it."""
    ignored = {path.name for path in folder.iterdir() if path.is_dir()} - set(_list_folders(folder, classes))
    return [f"folder {name}" for name in ignored if _is_foreign(name) or _hides_images(folder / name)]


def _is_foreign(name: str) -> bool:
    return name.lower() in FOREIGN or bool(_ADDED.fullmatch(name))


def _hides_images(folder: Path) -> bool:
    """Return whether a folder is hidden, holds images and has no name that other programs use."""
    return (
        folder.name[0] == "."
        and not _is_foreign(folder.name[1:])
        and any(_is_image(name) for _, _, names in os.walk(folder) for name in names)
    )


def _list_stray_images(folder: Path) -> list[str]:
    """Return for each image file in this folder, next to the folders that are read, how a warning names it."""
    names = [path.name.lower() for path in folder.iterdir() if path.is_file()]
    return [f"{Path(name).suffix} outside the class folders" for name in names if _is_image(name)]


def _is_image(name: str) -> bool:
    """Return whether a file's name is one of an image; macOS stores attributes of a.png as ._a.png."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith("._")


def _require_known_classes(split: str, folder: Path, classes: list[str]) -> None:
    unknown = sorted(set(_list_folders(folder, classes)) - set(classes))
    if unknown:
        raise ValueError(
            f"{split} must have only the classes of train, {classes[:10]}. Got {unknown[:10]} instead. Add training "
            "images of these classes, or remove them."
        )


def list_images(root: Path, left_out: Counter[str]) -> list[Path]:
    """Return all image files below a folder, sorted; hidden files and folders of other programs are ignored.

    Args:
        left_out: to which the files and folders that are not read are added, for ``warn_left_out``.

    Raises:
        DamagedDataError: a symbolic link to a folder, which may be circular.
    """
    images = []
    for folder, subfolders, names in os.walk(root):
        left_out.update(
            f"folder {name}" for name in subfolders if _is_foreign(name) or _hides_images(Path(folder, name))
        )
        subfolders[:] = [name for name in subfolders if name[0] != "." and not _is_foreign(name)]
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        if links:
            raise DamagedDataError(
                f"{Path(folder, links[0])} is a symbolic link to a folder. Replace the link with a copy of the folder."
            )
        for name in names:
            if _is_image(name) and name[0] == ".":
                left_out[f"hidden {Path(name).suffix.lower()}"] += 1
            elif _is_image(name):
                images.append(Path(folder, name))
            elif name[0] != "." and name.lower() not in _SYSTEM_FILES:
                left_out[f"{Path(name).suffix.lower() or 'no ending'}"] += 1
    return sorted(images)


def warn_left_out(folder: Path, left_out: Counter[str]) -> None:
    """Warn about files and folders that are not read, if there are any: their number by ending or name."""
    if left_out:
        counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
        listing = ", ".join(f"{count:,} × {printable_name(name)}" for name, count in counts[:_MAX_KINDS])
        listing += f" and {len(counts) - _MAX_KINDS:,} other kinds" if len(counts) > _MAX_KINDS else ""
        is_folder = any(name.startswith("folder ") for name in left_out)
        advice = " Rename a folder if its images are yours." if is_folder else ""
        warnings.warn(f"{folder}: not read: {listing}. Images end in {' '.join(EXTENSIONS)}.{advice}", stacklevel=4)


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
