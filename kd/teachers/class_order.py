"""The order of classes: which of a teacher's outputs stands for which class of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import did_you_mean, require


def find_columns(
    label_order: Sequence[str] | None, class_names: Sequence[str] | None, *, classes: int
) -> list[int] | None:
    """For each class of the data, in its order, the teacher's output that stands for it; None if that is the same.

    Args:
        label_order: the names of the classes in the order of the teacher's outputs; None for the data's order.
        class_names: those of the data; the same names, each once.
        classes: how many the data has.

    Raises:
        ValueError: names are missing, occur twice, or are not the same.
    """
    if label_order is None:
        return None
    if class_names is None:
        raise ValueError("label_order needs class_names, the names of the data's classes in its own order. Got none.")
    require(len(class_names) == classes, "class_names", len(class_names), f"one name for each of {classes} classes")
    for name, names in (("label_order", label_order), ("class_names", class_names)):
        if len(set(names)) < len(names):
            twice = next(one for number, one in enumerate(names) if one in names[:number])
            raise ValueError(f"{name} must name each class once. Got {twice!r} more than once.")
    unknown = [name for name in label_order if name not in class_names]
    missing = [name for name in class_names if name not in label_order]
    if unknown or missing:
        hint = did_you_mean(unknown[0], missing, "Use the data's names.") if unknown else "Name every class."
        raise ValueError(
            f"label_order must hold the data's {classes} class names in the teacher's order. Not the data's: "
            f"{_some(unknown)}; missing: {_some(missing)}. {hint}"
        )
    return [list(label_order).index(name) for name in class_names]


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:3]))}{' and others' * (len(names) > 3)}" if names else "none"


class Reordered(nn.Module):
    """A model whose outputs are put in another order: output k is the model's output ``columns[k]``."""

    def __init__(self, model: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor(columns))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits.index_select(1, self.columns)
