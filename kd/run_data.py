"""The data of a run: opened by its name, split, checked, and a loader for each part."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from kd.data import make_loader
from kd.run_settings import RunSettings
from kd.sources import open_source, split_source


class Task(NamedTuple):
    """What a model is made for: the shape of one input without the batch, and the classes' names in label order."""

    input_shape: tuple[int, ...]
    classes: tuple[str, ...]


class Data(NamedTuple):
    """The three parts of the data, and a loader for each; only the training loader shuffles."""

    name: str
    task: Task
    train_set: Dataset[Any]
    val_set: Dataset[Any]
    test_set: Dataset[Any]
    train_loader: DataLoader[Any]
    val_loader: DataLoader[Any]
    test_loader: DataLoader[Any]

    @property
    def sizes(self) -> dict[str, int]:
        """Items by part."""
        parts = {"training": self.train_set, "validation": self.val_set, "test": self.test_set}
        return {name: len(part) for name, part in parts.items()}  # type: ignore[arg-type]  # has no __len__


def load_data(settings: RunSettings) -> Data:
    """The data set that the settings name; the parts it came without are taken from its training data.

    Raises:
        ValueError: no such data set, or one that nothing can be learned from (``kd.sources.checks``).
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
        limit=settings.limit,
    )
    example, _ = parts.train[0]
    name = "MNIST" if settings.data == "mnist" else source.name
    return Data(
        name,
        Task(tuple(example.shape), parts.classes),
        parts.train,
        parts.val,
        parts.test,
        make_loader(parts.train, batch_size=settings.batch_size, shuffle=True),
        make_loader(parts.val, batch_size=settings.batch_size),
        make_loader(parts.test, batch_size=settings.batch_size),
    )
