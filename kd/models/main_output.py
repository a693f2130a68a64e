"""The logits among several outputs of a model: auxiliary heads, features, dictionaries, ``ModelOutput``.

One rule: the output named ``logits``; else the only tensor [B, K] of floating-point numbers, or the only one with as
many columns as the data has classes. Anything else is ambiguous and an error.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from kd.console import say


class OutputError(ValueError):
    """The logits cannot be told among the outputs of a model."""


class NamedOutput(NamedTuple):
    """An output with its name: a key, the name of a field, or a position from 0."""

    name: str
    value: Tensor


def take_logits(output: object, classes: int | None = None) -> Tensor:
    """Return the logits among the outputs of a model; a tensor is returned as it is.

    Args:
        output: tensor, dictionary, tuple, named tuple, or an object with an attribute ``logits``.
        classes: number of classes, which decides between several tensors [B, K]; None if unknown.

    Raises:
        OutputError: none of the outputs can be the logits, or several can.
    """
    return output if isinstance(output, Tensor) else find_logits(output, classes).value


def find_logits(output: object, classes: int | None = None) -> NamedOutput:
    """Return the logits among several outputs, with their name; see ``take_logits``."""
    named = _name_outputs(output)
    if "logits" in named:
        return NamedOutput("logits", named["logits"])
    tables = {name: value for name, value in named.items() if value.ndim == 2 and value.is_floating_point()}
    fitting = {name: value for name, value in tables.items() if value.shape[1] == classes}
    candidates = fitting or tables
    if len(candidates) == 1:
        return NamedOutput(*next(iter(candidates.items())))
    problem = "several of these could be" if candidates else "none of these can be"
    got = describe_outputs(named) if named else f"a {type(output).__name__}"
    raise OutputError(
        f"the model must return logits [B, K], or outputs of which one is named 'logits'. Got {got}: {problem} the "
        "logits. Return the logits alone, or as {'logits': …}"
    )


def _name_outputs(output: object) -> dict[str, Tensor]:
    if isinstance(output, Mapping):
        items: Mapping[str, object] = {str(name): value for name, value in output.items()}
    elif isinstance(output, tuple) and hasattr(output, "_asdict"):
        items = output._asdict()
    elif isinstance(output, (tuple, list)):
        items = {str(position): value for position, value in enumerate(output)}
    else:
        items = {"logits": getattr(output, "logits", None)}
    return {name: value for name, value in items.items() if isinstance(value, Tensor)}


def describe_outputs(named: Mapping[str, Tensor]) -> str:
    """Return names and shapes as text: ``logits [2, 10], features [2, 64]``."""
    return ", ".join(f"{name} {list(value.shape)}" for name, value in named.items())


class MainOutput:
    """A forward hook that replaces several outputs of a model by the logits; see ``take_logits``."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, model: nn.Module, inputs: Sequence[object], output: object) -> Tensor | None:
        if isinstance(output, Tensor):
            return None  # unchanged
        logits = find_logits(output, self.classes)
        if multiprocessing.parent_process() is None:
            others = sorted(_name_outputs(output).keys() - {logits.name})
            rest = f"; {', '.join(map(repr, others))} not used" if others else ""
            _say_once(f"{type(model).__name__}: output {logits.name!r} is taken as its logits{rest}")
        return logits.value


def return_logits(model: nn.Module, *, classes: int) -> nn.Module:
    """Let a model with several outputs return its logits alone, also inside methods; return the same model.

    Names of weights and modules do not change. Print a line when there are several outputs for the first time.

    Args:
        classes: number of classes.
    """
    model.register_forward_hook(MainOutput(classes))
    return model


@functools.cache
def _say_once(text: str) -> None:
    say(text)
