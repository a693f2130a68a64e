"""torchvision's data sets by name, as they lie on this disk; nothing is ever downloaded."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from kd.checks import DamagedDataError
from kd.data.sources.arrays import from_arrays
from kd.data.sources.image_dataset import build_image_dataset
from kd.data.sources.image_decoding import Size
from kd.data.sources.labels import encode_labels
from kd.data.sources.source import Source
from kd.data.sources.validation import require_equal_classes

SPLITS: Mapping[str, tuple[str, ...]] = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
_GENERAL = {"DatasetFolder", "FakeData", "ImageFolder", "VisionDataset"}  # torchvision's own ways to other data

Found = dict[str, Any]  # torchvision's data set, by part


class Items(NamedTuple):
    """The images of a data set that makes them when it is asked."""

    names: list[str]
    dataset: Any

    def open(self, row: int) -> Image.Image:
        """Whatever the data set has as its input."""
        image = self.dataset[row][0]
        if not isinstance(image, Image.Image):
            raise TypeError(f"it is no image but a {type(image).__name__}")
        return image


def open_torchvision(name: str, root: Path | str | None, *, size: int | Size | None = None) -> Source:
    """The parts that torchvision has of this data set, with its class names.

    Args:
        name: of the class in ``torchvision.datasets``.
        root: the folder that its constructor takes.
        size: as ``kd.data.sources.image_dataset.build_image_dataset`` has it; not for those that are arrays already.

    Raises:
        ValueError: no root, no such data set, one that needs more than a name or whose items are no images with
            classes, or a size for one of arrays.
        DamagedDataError: its files are not there, or not those that torchvision knows.
    """
    if root is None:
        raise ValueError(f"root must be the folder in which torchvision's {name} lies. Got None instead.")
    found = _found(name, _class(name), Path(root))
    classes = {part: _classes(dataset) for part, dataset in found.items()}
    require_equal_classes(classes)
    labels = {part: _labels(dataset) for part, dataset in found.items()}
    if all(isinstance(getattr(dataset, "data", None), (np.ndarray, Tensor)) for dataset in found.values()):
        if size is not None:
            raise ValueError(f"torchvision's {name} consists of arrays, which keep their size. Leave size away.")
        return from_arrays(
            name, {part: np.asarray(dataset.data) for part, dataset in found.items()}, labels, classes["train"]
        )
    numbers, names = encode_labels(labels, classes["train"])
    items = {part: Items([f"{part} item {row}" for row in range(len(some))], some) for part, some in found.items()}
    data = build_image_dataset(items, numbers, size=size)
    return Source(name, data["train"], data.get("val"), data.get("test"), names)


def _class(name: str) -> Callable[..., Any]:
    """Only those that torchvision counts among its data sets: not everything in the module can be opened safely."""
    module = importlib.import_module("torchvision.datasets")
    things = {other: getattr(module, other) for other in module.__all__ if other not in _GENERAL}
    known = [other for other, thing in things.items() if inspect.isclass(thing)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"torchvision: must be followed by the name of one of its data sets. Got {name!r}.{hint}")
    found: Callable[..., Any] = things[name]
    return found


def _found(name: str, make: Callable[..., Any], root: Path) -> Found:
    parameters = inspect.signature(make).parameters
    try:
        if "train" in parameters:
            return {part: make(root, train=part == "train") for part in ("train", "test")}
        if "split" not in parameters:
            return {"train": make(root)}
        parts = {part: _split(make, root, names) for part, names in SPLITS.items()}
    except TypeError as error:
        raise ValueError(
            f"torchvision's {name} needs more than a folder: {error}. Open it in a .py file with a function load()."
        ) from error
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise DamagedDataError(
            f"torchvision cannot open {name} in {root}: {reason}. Nothing is downloaded here. Fetch it once with "
            f"torchvision.datasets.{name}({str(root)!r}, …, download=True)."
        ) from error
    if parts["train"] is None:
        raise ValueError(f"torchvision's {name} has no part to train on. Open it in a .py file with a function load().")
    return {part: dataset for part, dataset in parts.items() if dataset is not None}


def _split(make: Callable[..., Any], root: Path, names: tuple[str, ...]) -> Any:
    """The first of these splits that the data set knows; None where it knows none."""
    for name in names:
        try:
            return make(root, split=name)
        except ValueError:  # how torchvision says that there is no such split
            continue
    return None


def _labels(dataset: Any) -> Any:
    """Without decoding the images, where the data set shows its labels."""
    for name in ("targets", "labels"):
        if hasattr(dataset, name):
            return np.asarray(getattr(dataset, name))
    return np.asarray([dataset[row][1] for row in range(len(dataset))])


def _classes(dataset: Any) -> list[str] | None:
    classes = getattr(dataset, "classes", None)
    plain = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    return list(classes) if plain and classes else None
