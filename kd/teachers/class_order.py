"""Class order: teachers whose class order differs from the data's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import did_you_mean, require


def find_columns(
    label_order: Sequence[str] | None, class_names: Sequence[str] | None, *, classes: int
) -> list[int] | None:
    """Return, for each class of the data, the index of the teacher's output; None if ``label_order`` is None.

    Args:
        label_order: class names in the order of the teacher's outputs; None if it equals the order of the data.
        class_names: the same names in the order of the data, each once.
        classes: number of classes.

    Raises:
        ValueError: names are missing, repeated, or differ between the two.
    """
    if label_order is None:
        return None
    if class_names is None:
        raise ValueError("label_order requires class_names, the class names in the order of the data. Got none.")
    require(len(class_names) == classes, "class_names", len(class_names), f"one name for each of {classes} classes")
    for name, names in (("label_order (--label-order)", label_order), ("class_names (--class-names)", class_names)):
        if len(set(names)) < len(names):
            duplicate = next(label for index, label in enumerate(names) if label in names[:index])
            raise ValueError(f"{name} must name each class once. Got {duplicate!r} more than once.")
    unknown = [name for name in label_order if name not in class_names]
    missing = [name for name in class_names if name not in label_order]
    if unknown or missing:
        hint = did_you_mean(unknown[0], missing, "Use the names of the data.") if unknown else "Name every class."
        raise ValueError(
            f"label_order (--label-order) must list the {classes} class names of the data in the order of the teacher. "
            f"Unknown: {_list_names(unknown)}; missing: {_list_names(missing)}. {hint}"
        )
    return [list(label_order).index(name) for name in class_names]


def _list_names(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:3]))}{' and others' * (len(names) > 3)}" if names else "none"


class Reordered(nn.Module):
    """A model with reordered outputs: output k is ``columns[k]`` of the wrapped model."""

    def __init__(self, model: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor(columns))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits.index_select(1, self.columns)
