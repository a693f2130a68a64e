"""What every kind of data set is opened as."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils.data import Dataset


class Source(NamedTuple):
    """A data set as it was found: its parts, and what its labels stand for.

    Items are (input, label) with a whole number from 0 as the label. ``kd.data.sources.split_source`` makes the parts
    that are None, and normalises what is still raw.
    """

    name: str
    train: Dataset[Any]
    val: Dataset[Any] | None
    test: Dataset[Any] | None
    classes: tuple[str, ...]  # in label order

    @property
    def parts(self) -> dict[str, Dataset[Any]]:
        """The parts that are there, by name."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}
