"""Pretrained weights of a model: from a file, with a new head if the file's is for other classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from kd.storage.checkpoints import FoundWeights
from kd.storage.weights import add_file_to_errors, read_weights, require_fitting

# A file may exceed the size of the model by this many megabytes, so that a head of 1000 classes is recognised as one of
# other classes, and not as an oversized file.
SPARE = 64


class Pretrained(NamedTuple):
    """A file whose weights a model has.

    Attributes:
        sha256: of the file.
        stripped: what was removed from the file's content or converted, in words.
        file_classes: number of classes of the file's head.
        replaced: names of the head's tensors that kept the model's own initial values; empty if the head fits.
    """

    sha256: str
    stripped: list[str]
    file_classes: int
    replaced: list[str]


def load_pretrained(model: nn.Module, path: Path | str, *, classes: int, entry: str = "") -> Pretrained:
    """Load the weights in a file into the model, in place, except a head for another number of classes.

    All checks are done before any weight is changed.

    Args:
        path, entry: see ``kd.storage.weights.load_weights``.
        classes: number of classes of the model.

    Raises:
        OSError, ValueError, MissingExtraError: see ``kd.storage.weights.load_weights``.
    """
    with add_file_to_errors(model, path):
        found = read_pretrained(path, model, entry=entry)
    return use_weights(model, found, path, classes=classes)


def read_pretrained(path: Path | str, model: nn.Module, *, entry: str = "") -> FoundWeights:
    """Read the weights in a file, for models like this one with any number of classes; see ``load_pretrained``."""
    return read_weights(path, model.state_dict(), entry=entry, spare=SPARE)


def use_weights(model: nn.Module, found: FoundWeights, path: Path | str, *, classes: int) -> Pretrained:
    """Copy weights into the model, except a head for another number of classes; see ``load_pretrained``.

    Args:
        found: result of ``read_pretrained``; not modified.
        path: the file, for errors.
    """
    expected = model.state_dict()
    with add_file_to_errors(model, path):
        head = find_other_head(found.state, expected, classes)
        embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
        if head is None or any(name.rpartition(".")[0] in embeddings for name in head.names):
            head = OtherHead(classes, [])
        state = {**found.state, **{name: expected[name] for name in head.names}}
        require_fitting(state, expected)
    model.load_state_dict(state)
    return Pretrained(found.sha256, found.stripped, head.classes, head.names)


class OtherHead(NamedTuple):
    """The tensors of a file that belong to a head for another number of classes."""

    classes: int
    names: list[str]


def find_other_head(state: object, expected: Mapping[str, Tensor], classes: int) -> OtherHead | None:
    """Return the tensors whose shape differs from the expected one, if it does in the number of classes alone.

    Args:
        state: weights whose names are the expected ones.
        expected: a model's ``state_dict()``.
        classes: number of classes of the model.
    """
    if not isinstance(state, dict) or set(state) != set(expected):
        return None
    pairs = {name: (state[name], tensor) for name, tensor in expected.items() if isinstance(state[name], Tensor)}
    shapes = {name: (tuple(saved.shape), tuple(target.shape)) for name, (saved, target) in pairs.items()}
    names = [name for name, (saved, target) in shapes.items() if saved != target]
    outputs = {shapes[name][0][:1] for name in names}
    if len(outputs) != 1 or () in outputs:
        return None
    ((found,),) = outputs
    is_head = all(shapes[name][1] == (classes, *shapes[name][0][1:]) for name in names)
    return OtherHead(found, names) if is_head else None
