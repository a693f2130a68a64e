"""The data of a run: open a dataset by name, check and split it, and make a loader for each split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd.checks import naming_flag, require
from kd.commands.class_weights import class_weights
from kd.commands.settings import RunSettings
from kd.console import printable_name
from kd.data.loaders import BatchTransform, make_loader
from kd.data.sources import open_source, open_unlabelled, split_source
from kd.data.sources.partition import Splits
from kd.data.sources.source import Source
from kd.data.sources.table_encoding import Encoding, encoding_of
from kd.data.views import one_view_each
from kd.devices import usable_cores
from kd.evaluation.quantities import Quantity, choose_quantity


@dataclasses.dataclass(frozen=True)
class Task:
    """The task of a model.

    Attributes:
        input_shape: shape of one input without the batch dimension.
        classes: class names in label order.
        example: an input of the training data, on which models are tried; None tries them on random numbers.
    """

    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    example: Tensor | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def noun(self) -> str:
        """Word for the samples in printed text."""
        return "images" if len(self.input_shape) == 3 else "items"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names; empty if the classes are only numbered."""
        return () if self.classes == tuple(map(str, range(len(self.classes)))) else self.classes


class Data(NamedTuple):
    """The training, validation and test split, with a loader for each.

    Only the training loader shuffles; with ``augment`` it yields augmented views, with ``mixup`` or ``cutmix`` mixed
    batches.

    Attributes:
        source: the dataset before it is split here.
        chosen: the split as JSON, which ``kd.data.sources.split_source`` accepts as ``chosen``.
        all_labels: labels of all samples of the source, [R] int64.
        rows: indices of the samples of ``train``, ``val`` and ``test`` in the source. Indices count through the
            training, validation and test split of the source, in this order.
        unlabelled: samples (input, −1); None without ``--unlabelled``.
        class_weights: [K], of the label term; None weights all classes equally.
        mix: mixes the batches of the training loader; None without ``--mixup`` and ``--cutmix``.
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
    all_labels: Tensor
    rows: Mapping[str, Sequence[int]]
    unlabelled: Dataset[Any] | None
    class_weights: Tensor | None = None
    mix: BatchTransform | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Samples per split."""
        splits = {"training": self.train_set, "validation": self.val_set, "test": self.test_set}
        return {name: len(split) for name, split in splits.items()}  # type: ignore[arg-type]  # has no __len__

    def deciding_quantity(self, decide: str = "auto") -> Quantity:
        """Return the quantity that decides a verdict on the test split, see ``choose_quantity``."""
        labels = self.all_labels[torch.as_tensor(self.rows["test"])]
        return choose_quantity(decide, labels, self.task.classes)

    @property
    def encoding(self) -> Encoding | None:
        """How rows of a ``.csv`` table become inputs; None for other data."""
        return encoding_of(self.train_set)

    @property
    def distill_size(self) -> int:
        """Samples per epoch of the distilled student: training samples plus any unlabelled samples."""
        unlabelled = 0 if self.unlabelled is None else len(self.unlabelled)  # type: ignore[arg-type]  # as above
        return self.sizes["training"] + unlabelled

    @property
    def test_ids(self) -> list[str]:
        """The name of each test sample, such as its file, with control characters as escapes; empty without names."""
        names = self.source.all_ids
        return [] if names is None else [printable_name(names[row]) for row in self.rows["test"]]

    @property
    def views(self) -> int:
        """Number of augmented views of each training sample; the training loader draws one per epoch."""
        return len(self.train_loader.dataset) // self.sizes["training"]  # type: ignore[arg-type]  # as above


def open_at_size(settings: RunSettings, size: int | tuple[int, int] | None) -> Source:
    """Open the dataset of the settings, with image files of this size.

    Raises:
        ValueError, OSError, MissingExtraError: see ``kd.data.sources.open_source``.
    """
    return open_source(
        settings.data,
        root=settings.data_dir,
        size=size,
        columns=settings.columns,
        target=settings.target,
        classes=settings.class_names or None,
        download=settings.download,
        workers=settings.workers,
    )


def load_data(settings: RunSettings, *, test_seed: int | None = None) -> Data:
    """Open and split the dataset of the settings; missing splits are taken from its training data.

    Args:
        test_seed: see ``kd.data.sources.split_source``.

    Raises:
        ValueError: unknown or unusable dataset (``kd.data.sources.validation``).
        OSError: the dataset is missing or damaged.
    """
    with naming_flag(f"--data {settings.data}"):
        source = open_at_size(settings, settings.image_size)
        splits = split_source(
            source,
            held_back=settings.test_size,
            test_share=settings.test_share,
            seed=settings.random_state,
            test_seed=test_seed,
            limit=settings.limit,
        )
    example, _ = splits.train[0]
    mix, rows = _make_mixing(settings, example, len(splits.classes)), _index_splits(source, splits)
    name = "MNIST" if settings.data == "mnist" else source.name
    return Data(
        name,
        Task(tuple(example.shape), splits.classes, example),
        splits.train,
        splits.val,
        splits.test,
        make_training_loader(settings, splits.train, mix),
        make_loader(splits.val, batch_size=settings.batch_size),
        make_loader(splits.test, batch_size=settings.batch_size),
        source,
        splits.chosen,
        splits.all_labels,
        rows,
        None if settings.unlabelled is None else _open_unlabelled(settings, settings.unlabelled, splits),
        class_weights(settings.class_weights, splits.all_labels[torch.as_tensor(rows["train"])], splits.classes),
        mix,
    )


def _open_unlabelled(settings: RunSettings, where: Path, splits: Splits) -> Dataset[Any]:
    size, workers = settings.image_size, settings.workers
    with naming_flag(f"--unlabelled {where}"):
        return open_unlabelled(where, train=splits.train, val=splits.val, test=splits.test, size=size, workers=workers)


def _count_workers(settings: RunSettings) -> int:
    """Return the number of processes that augment images; by default half of the cores, so that training has cores."""
    return usable_cores() // 2 if settings.workers is None else settings.workers


def _make_mixing(settings: RunSettings, example: Tensor, classes: int) -> BatchTransform | None:
    """Return the mixing of training batches, after checking that it suits the inputs."""
    if not settings.mixing_flags:
        return None
    from kd.data.mixing import Mixing  # imports torchvision, which takes a second

    shape, allowed = list(example.shape), "used with images or tables of numbers"
    tokens = not example.is_floating_point()
    require(not tokens, settings.mixing_flags, f"inputs of {example.dtype}", allowed, "tokens cannot be mixed")
    fits = settings.cutmix is None or example.ndim == 3
    require(fits, "--cutmix", f"inputs of shape {shape}", "used with images [C, H, W]", "--mixup takes any shape")
    return Mixing(classes, mixup=settings.mixup, cutmix=settings.cutmix)


def make_training_loader(settings: RunSettings, train: Dataset[Any], mix: BatchTransform | None) -> DataLoader[Any]:
    """Return the shuffling loader of the training split, which also augments it if the settings say so.

    Args:
        mix: mixes each batch (``kd.data.mixing``).
    """
    if not settings.augment:
        return make_loader(train, batch_size=settings.batch_size, shuffle=True, mix=mix)
    from kd.data.augmentation import EVERY, AugmentedImages, augmentation  # imports torchvision, which takes a second

    with naming_flag(f"--augment {' '.join(settings.augment)}"):
        transform = augmentation(settings.augment, tuple(train[0][0].shape))
        views = AugmentedImages(train, transform, views=settings.views or EVERY, seed=settings.seed)
    workers = _count_workers(settings)
    return one_view_each(views, views.views, batch_size=settings.batch_size, workers=workers, mix=mix)


def _index_splits(source: Source, splits: Splits) -> dict[str, Sequence[int]]:
    # Indices into the training split of the source, which comes first: no offset is needed.
    rows: dict[str, Sequence[int]] = dict(json.loads(splits.chosen)["rows"])
    start = 0
    for name, dataset in source.parts.items():
        size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
        if name != "train":
            rows[name] = range(start, start + size)
        start += size
    return rows
