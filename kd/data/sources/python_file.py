"""Data from a user's Python file, for anything that no other source can open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd.data.sources.labels import number_classes
from kd.data.sources.scan import scan
from kd.data.sources.source import Source
from kd.data.sources.validation import require_equal_classes
from kd.imports import load_plugin

_HINT = "It must return a kd.data.sources.Source, or two datasets (train, test) with samples (input, label)."


def open_python_file(path: Path) -> Source:
    """Call the file's function ``load()``, which returns a ``Source``, or a training and a test dataset.

    This runs arbitrary code; a message on the console names the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file or ``load`` fails, ``load`` is missing, or it returns anything else.
    """
    load_function = load_plugin(f"{path}:load")
    if not callable(load_function):
        raise ValueError(f"load in {path} must be a function. Got a {type(load_function).__name__} instead. {_HINT}")
    try:
        result = load_function()
    except Exception as error:  # user code may raise anything
        raise ValueError(f"load() in {path} failed ({type(error).__name__}: {error}). Correct it.") from error
    if isinstance(result, Source):
        return result
    if not (
        isinstance(result, tuple) and len(result) == 2 and all(hasattr(dataset, "__getitem__") for dataset in result)
    ):
        raise ValueError(f"load() in {path} returned a {type(result).__name__}. {_HINT}")
    train, test = result
    require_equal_classes({split: _class_names(dataset) for split, dataset in (("train", train), ("test", test))})
    return Source(path.stem, train, None, test, _class_names_or_numbers(train))


def _class_names(dataset: Any) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    return None if names is None else [str(name) for name in names]


def _class_names_or_numbers(train: Any) -> tuple[str, ...]:
    """Return the dataset's attribute ``classes``, as in torchvision, or the label numbers as text."""
    names = _class_names(train)
    if names is not None:
        return tuple(names)
    return tuple(number_classes(scan(train).labels))
