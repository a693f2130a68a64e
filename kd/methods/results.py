"""Checks of what an objective returns: the model's output and the loss terms by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

RESERVED = frozenset({"loss", "skipped"})  # curves besides terms and metrics; "loss" is the sum of the terms


def check_result(result: Any, *, name: str, metrics: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output and the terms of an objective's result.

    Args:
        name: of the objective, for errors.
        metrics: names of the metrics that are measured beside the terms.

    Raises:
        ValueError: the result is not (output, terms), a term is not a real number in a tensor, or two curves of the
            history would have one name, so that one of them would be lost.
    """
    output, terms = result if isinstance(result, (tuple, list)) and len(result) == 2 else (None, None)
    if not isinstance(output, Tensor) or not isinstance(terms, dict) or not terms:
        raise ValueError(
            f"{name} must return (output, terms): the model's logits and a dictionary of loss terms by name. "
            f"Got {describe(result)} instead."
        )
    for term, value in terms.items():
        if not is_real_scalar(value):
            raise ValueError(
                f"the term {term!r} of {name} must be a real tensor without dimensions, such as a mean over the "
                f"batch. Got {describe(value)} instead."
            )
        is_total = term == "loss" and len(terms) == 1
        if (term in RESERVED and not is_total) or term in metrics:
            raise ValueError(f"the term {term!r} of {name} has the name of another curve of the history. Rename it.")
    return output, terms


def is_real_scalar(value: object) -> bool:
    """Return whether a value is a real number in a tensor without dimensions."""
    return isinstance(value, Tensor) and not value.ndim and not value.is_complex()


def describe(value: object) -> str:
    """Return a value's type, and the shape of a tensor, for errors."""
    if isinstance(value, Tensor):
        return f"a {'complex ' * value.is_complex()}tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"
