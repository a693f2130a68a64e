"""torchvision's datasets by name, from local files; nothing is ever downloaded."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from kd.checks import DamagedDataError, did_you_mean
from kd.data.sources.arrays import from_arrays
from kd.data.sources.image_dataset import build_image_dataset
from kd.data.sources.image_decoding import Size, without_ghostscript
from kd.data.sources.labels import encode_labels
from kd.data.sources.source import Source
from kd.data.sources.validation import require_equal_classes

SPLITS: Mapping[str, tuple[str, ...]] = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
_GENERIC = {"DatasetFolder", "FakeData", "ImageFolder", "VisionDataset"}  # torchvision's wrappers of other data

Datasets = dict[str, Any]  # torchvision's datasets, by split


class DatasetImages(NamedTuple):
    """The images of a dataset that creates them on access."""

    names: list[str]
    dataset: Any

    def open(self, row: int) -> Image.Image:
        """Return the input of a sample; raise ``TypeError`` if it is not an image."""
        with without_ghostscript():
            image = self.dataset[row][0]
        if not isinstance(image, Image.Image):
            raise TypeError(f"not an image but a {type(image).__name__}")
        return image

    def stamps(self) -> None:
        """Return None: torchvision does not tell which files an image comes from."""


def open_torchvision(name: str, root: Path | str | None, *, size: int | Size | None = None) -> Source:
    """Open torchvision's splits of a dataset, with its class names.

    Args:
        name: name of the class in ``torchvision.datasets``.
        root: folder passed to its constructor.
        size: see ``kd.data.sources.image_dataset.build_image_dataset``; not for datasets stored as arrays.

    Raises:
        ValueError: no root, unknown dataset, a dataset that needs more arguments or whose samples are not (image,
            class), or a size for a dataset stored as arrays.
        DamagedDataError: files are missing or damaged.
    """
    dataset_class = _find_class(name)
    if root is None:
        raise ValueError(f"root (--data-dir) must be the folder of torchvision's {name}. Got None instead.")
    datasets = _open_splits(name, dataset_class, Path(root))
    classes = {split: _class_names(dataset) for split, dataset in datasets.items()}
    require_equal_classes(classes)
    labels = {split: _read_labels(dataset) for split, dataset in datasets.items()}
    if all(isinstance(getattr(dataset, "data", None), (np.ndarray, Tensor)) for dataset in datasets.values()):
        if size is not None:
            raise ValueError(
                f"size (--image-size) does not apply to torchvision's {name}, which is stored as arrays. Omit it."
            )
        return from_arrays(
            name, {split: np.asarray(dataset.data) for split, dataset in datasets.items()}, labels, classes["train"]
        )
    numbers, names = encode_labels(labels, classes["train"])
    images = {
        split: DatasetImages([f"{split} sample {row}" for row in range(len(dataset))], dataset)
        for split, dataset in datasets.items()
    }
    data = build_image_dataset(images, numbers, size=size)
    return Source(name, data["train"], data.get("val"), data.get("test"), names)


def _find_class(name: str) -> Callable[..., Any]:
    """Return a dataset class by name. Only the names in torchvision's ``__all__`` are safe to call."""
    module = importlib.import_module("torchvision.datasets")
    members = {member: getattr(module, member) for member in module.__all__ if member not in _GENERIC}
    known = [member for member, value in members.items() if inspect.isclass(value)]
    if name not in known:
        hint = did_you_mean(name, known, f"It has {', '.join(known[:3])} and others.")
        raise ValueError(f"torchvision:NAME must name one of torchvision's datasets. Got {name!r}. {hint}")
    dataset_class: Callable[..., Any] = members[name]
    return dataset_class


def _open_splits(name: str, dataset_class: Callable[..., Any], root: Path) -> Datasets:
    parameters = inspect.signature(dataset_class).parameters
    try:
        if "train" in parameters:
            return {split: dataset_class(root, train=split == "train") for split in ("train", "test")}
        if "split" not in parameters:
            return {"train": dataset_class(root)}
        datasets = {split: _open_split(dataset_class, root, names) for split, names in SPLITS.items()}
    except TypeError as error:
        raise ValueError(
            f"torchvision's {name} needs more than a folder: {error}. Open it in a .py file with a function load()."
        ) from error
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise DamagedDataError(
            f"torchvision cannot open {name} in {root}: {reason}. Nothing was downloaded. Download it once with "
            f"torchvision.datasets.{name}({str(root)!r}, …, download=True)."
        ) from error
    if datasets["train"] is None:
        raise ValueError(f"torchvision's {name} has no training split. Open it in a .py file with a function load().")
    return {split: dataset for split, dataset in datasets.items() if dataset is not None}


def _open_split(dataset_class: Callable[..., Any], root: Path, names: tuple[str, ...]) -> Any:
    """Return the first of these splits that exists, or None."""
    for name in names:
        try:
            return dataset_class(root, split=name)
        except ValueError:  # raised by torchvision for an unknown split
            continue
    return None


def _read_labels(dataset: Any) -> Any:
    """Return all labels; images are decoded only if the dataset has neither ``targets`` nor ``labels``."""
    for name in ("targets", "labels"):
        if hasattr(dataset, name):
            return np.asarray(getattr(dataset, name))
    with without_ghostscript():
        return np.asarray([dataset[row][1] for row in range(len(dataset))])


def _class_names(dataset: Any) -> list[str] | None:
    classes = getattr(dataset, "classes", None)
    are_names = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    return list(classes) if are_names and classes else None
