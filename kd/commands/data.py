"""The data of a run: opened by its name, split, checked, and a loader for each part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd.commands.settings import RunSettings
from kd.data.loaders import make_loader
from kd.data.sources import open_source, open_unlabelled, split_source
from kd.data.sources.partition import Splits
from kd.data.sources.scan import scan
from kd.data.sources.source import Source
from kd.data.views import one_view_each


class Task(NamedTuple):
    """What a model is made for: the shape of one input without the batch, and the classes' names in label order."""

    input_shape: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def noun(self) -> str:
        """What the items are called."""
        return "images" if len(self.input_shape) == 3 else "items"

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the classes, or none where they are their numbers."""
        return () if self.classes == tuple(map(str, range(len(self.classes)))) else self.classes


class Data(NamedTuple):
    """The three parts of the data, and a loader for each; only the training loader shuffles, and may show views.

    Attributes:
        source: all of the data as they come.
        chosen: the split, as ``kd.data.sources.split_source`` takes it again.
        rows: of each part's items among all items of the data as they come: those of its training part, then those of
            any validation and test part. By ``train``, ``val`` and ``test``.
        unlabelled: items (input, −1), where the settings name some.
    """

    name: str
    task: Task
    train_set: Dataset[Any]
    val_set: Dataset[Any]
    test_set: Dataset[Any]
    train_loader: DataLoader[Any]
    val_loader: DataLoader[Any]
    test_loader: DataLoader[Any]
    source: Source
    chosen: bytes
    rows: Mapping[str, Sequence[int]]
    unlabelled: Dataset[Any] | None

    @property
    def sizes(self) -> dict[str, int]:
        """Items by part."""
        parts = {"training": self.train_set, "validation": self.val_set, "test": self.test_set}
        return {name: len(part) for name, part in parts.items()}  # type: ignore[arg-type]  # has no __len__

    @property
    def distill_size(self) -> int:
        """Items of an epoch of the distilled student: those to train with, and any unlabelled ones."""
        further = 0 if self.unlabelled is None else len(self.unlabelled)  # type: ignore[arg-type]  # as above
        return self.sizes["training"] + further

    @property
    def views(self) -> int:
        """Views of each training item that the training loader chooses from; an epoch shows one."""
        return len(self.train_loader.dataset) // self.sizes["training"]  # type: ignore[arg-type]  # as above

    def all_labels(self) -> Tensor:
        """[R] int64, of all items as they come. Reads them once more."""
        return torch.cat([scan(part).labels for part in self.source.parts.values()])


def load_data(settings: RunSettings, *, test_seed: int | None = None) -> Data:
    """The data set that the settings name; the parts it came without are taken from its training data.

    Args:
        test_seed: as ``kd.data.sources.split_source`` has it.

    Raises:
        ValueError: no such data set, or one that nothing can be learned from (``kd.data.sources.validation``).
        OSError: it is not there or damaged.
    """
    source = open_source(
        settings.data,
        root=settings.data_dir,
        size=settings.image_size,
        columns=settings.columns,
        classes=settings.class_names or None,
        download=settings.download,
    )
    parts = split_source(
        source,
        held_back=settings.test_size,
        test_share=settings.test_share,
        seed=settings.random_state,
        test_seed=test_seed,
        limit=settings.limit,
    )
    more = None
    if settings.unlabelled is not None:
        labelled = {"train": parts.train, "val": parts.val, "test": parts.test}
        more = open_unlabelled(settings.unlabelled, **labelled, size=settings.image_size)
    example, _ = parts.train[0]
    name = "MNIST" if settings.data == "mnist" else source.name
    return Data(
        name,
        Task(tuple(example.shape), parts.classes),
        parts.train,
        parts.val,
        parts.test,
        _training_loader(settings, parts.train, tuple(example.shape)),
        make_loader(parts.val, batch_size=settings.batch_size),
        make_loader(parts.test, batch_size=settings.batch_size),
        source,
        parts.chosen,
        _rows(source, parts),
        more,
    )


def _training_loader(settings: RunSettings, train: Dataset[Any], shape: tuple[int, ...]) -> DataLoader[Any]:
    if not settings.augment:
        return make_loader(train, batch_size=settings.batch_size, shuffle=True)
    from kd.data.augmentation import EVERY, AugmentedImages, augmentation  # with torchvision, which takes a second

    transform = augmentation(settings.augment, shape)
    views = AugmentedImages(train, transform, views=settings.views or EVERY, seed=settings.seed)
    return one_view_each(views, views.views, batch_size=settings.batch_size)


def _rows(source: Source, parts: Splits) -> dict[str, Sequence[int]]:
    found: dict[str, Sequence[int]] = dict(json.loads(parts.chosen)["rows"])  # of its training part, which is first
    start = 0
    for name, dataset in source.parts.items():
        items = len(dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
        if name != "train":
            found[name] = range(start, start + items)
        start += items
    return found
