"""``Source``: the common form of all opened datasets."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils.data import Dataset


class Source(NamedTuple):
    """An opened dataset: its original splits and its class names.

    Samples are (input, label), with integer labels from 0. ``kd.data.sources.split_source`` creates the splits that are
    None, and normalises raw inputs.
    """

    name: str
    train: Dataset[Any]
    val: Dataset[Any] | None
    test: Dataset[Any] | None
    classes: tuple[str, ...]  # in label order

    @property
    def parts(self) -> dict[str, Dataset[Any]]:
        """The existing splits by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: dataset for name, dataset in splits.items() if dataset is not None}
