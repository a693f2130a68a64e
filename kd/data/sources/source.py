"""``Source``: the common form of all opened datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset


class Source(NamedTuple):
    """An opened dataset: its original splits and its class names.

    Samples are (input, label), with integer labels from 0. ``kd.data.sources.split_source`` creates the splits that are
    None, and normalises raw inputs.

    Attributes:
        classes: class names in label order.
        ids: a name for each sample by split, such as its file's path within the dataset; None if samples have no names.
    """

    name: str
    train: Dataset[Any]
    val: Dataset[Any] | None
    test: Dataset[Any] | None
    classes: tuple[str, ...]
    ids: Mapping[str, Sequence[str]] | None = None

    @property
    def parts(self) -> dict[str, Dataset[Any]]:
        """The existing splits by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: dataset for name, dataset in splits.items() if dataset is not None}

    @property
    def all_ids(self) -> list[str] | None:
        """The names of all samples of the training, validation and test split, in this order."""
        return None if self.ids is None else [name for part in self.parts for name in self.ids[part]]
