"""A Python file of the user's that makes the data: for whatever no other source can open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd.data.sources.scan import scan
from kd.data.sources.source import Source
from kd.data.sources.validation import require_equal_classes
from kd.imports import load_plugin

_HINT = "It must return a kd.data.sources.Source, or the data sets (train, test) of items (input, label)."


def open_plugin(path: Path) -> Source:
    """What the file's function ``load()`` returns: a ``Source``, or the two data sets to train on and to test with.

    This runs the file, which may do whatever its author likes; it is told on the console.

    Raises:
        OSError: the file cannot be read.
        ValueError: its code or ``load`` fails, there is no ``load``, or that returns something else.
    """
    make = load_plugin(f"{path}:load")
    if not callable(make):
        raise ValueError(f"load in {path} must be a function. Got a {type(make).__name__} instead. {_HINT}")
    try:
        result = make()
    except Exception as error:  # anyone's code
        raise ValueError(f"load() in {path} failed ({type(error).__name__}: {error}). Correct it.") from error
    if isinstance(result, Source):
        return result
    if not (isinstance(result, tuple) and len(result) == 2 and all(hasattr(part, "__getitem__") for part in result)):
        raise ValueError(f"load() in {path} returned a {type(result).__name__}. {_HINT}")
    train, test = result
    require_equal_classes({part: _named(data) for part, data in (("train", train), ("test", test))})
    return Source(path.stem, train, None, test, _classes(train))


def _named(data: Any) -> list[str] | None:
    names = getattr(data, "classes", None)
    return None if names is None else [str(name) for name in names]


def _classes(train: Any) -> tuple[str, ...]:
    """As the data set names them, in torchvision's way, or the numbers that its labels are."""
    names = _named(train)
    if names is not None:
        return tuple(names)
    return tuple(map(str, range(int(scan(train).labels.max()) + 1)))
