"""Class order: teachers whose class order differs from the data's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import did_you_mean, require
from kd.console import say


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


def match_names(name: str, own: Sequence[str], class_names: Sequence[str]) -> list[int] | None:
    """Return, for each class of the data, the index of the output that the teacher itself calls so.

    Case, spaces, hyphens and underscores do not count. Prints a line if the order differs.

    Args:
        name: of the teacher, for messages.
        own: names of the teacher's outputs, in their order; ``LABEL_0``, … are no names.
        class_names: as many names of the data's classes, in label order; numbers are no names.

    Returns:
        The indices; None if the order is the same, or if one of both has no names.

    Raises:
        ValueError: the names differ.
    """
    ours, theirs = ([_simplify(text) for text in texts] for texts in (class_names, own))
    if ours == theirs:
        return None
    if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
        say(f"{name}: its outputs are reordered by name, from {_list_names(own)} to {_list_names(class_names)}")
        return [theirs.index(text) for text in ours]
    if all(map(_is_number, ours)) or all(map(_is_number, theirs)):
        say(f"{name}: output i is taken for class i, as only one of teacher and data names the classes")
        return None
    missing = [text for text in class_names if _simplify(text) not in theirs]
    raise ValueError(
        f"{name} has other classes than the data: {_list_names(own)}; {_list_names(missing)} of the data are missing. "
        "Map its classes to the data's with --label-map FILE.csv."
    )


def _simplify(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _is_number(simplified: str) -> bool:
    return simplified.removeprefix("label ").isdecimal()


ONE_OUTPUT = (
    "One output for two classes is a score or a probability of the second one, as before or after a sigmoid. Give two: "
    "[0, z] for a score z, [1 - p, p] for a probability p"
)
FIT_HEAD = "or fit a new head on the training images with --teacher-head fit"


def require_same_classes(name: str, outputs: int, classes: int, *, otherwise: str = FIT_HEAD) -> None:
    """Check that a teacher that cannot be rebuilt for other classes has one output for each class of the data.

    Args:
        otherwise: remedy in words for classes of another kind.

    Raises:
        ValueError: the numbers differ.
    """
    if outputs == 1:
        remedy = ONE_OUTPUT if classes == 2 else f"Give one for each class, {otherwise}"
        raise ValueError(f"{name} has 1 output, the data has {classes:,} classes. {remedy}.")
    if outputs != classes:
        raise ValueError(
            f"{name} has {outputs:,} classes, the data has {classes:,}. Map its classes to the data's with "
            f"--label-map FILE.csv, {otherwise}."
        )


def _list_names(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:3]))}{' and others' * (len(names) > 3)}" if names else "none"


class Reordered(nn.Module):
    """A model with reordered outputs: output k is ``columns[k]`` of the wrapped model."""

    wraps = "model"  # see kd.models.features.find_network

    def __init__(self, model: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor(columns))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits.index_select(1, self.columns)
