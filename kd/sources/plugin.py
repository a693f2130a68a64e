"""A Python file of the user's that makes the data: for whatever no other source can open."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from kd.console import say
from kd.sources.checks import require_equal_classes
from kd.sources.facts import facts_of
from kd.sources.source import Source

_HINT = "It must return a kd.sources.Source, or the data sets (train, test) of items (input, label)."


def open_plugin(path: Path) -> Source:
    """What the file's function ``load()`` returns: a ``Source``, or the two data sets to train on and to test with.

    This runs the file, which may do whatever its author likes; it is told on the console. An error in it is not caught.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no ``load``, or that returns something else.
    """
    say(f"data: this runs the code in {path.resolve()}")
    make = getattr(_loaded(path), "load", None)
    if not callable(make):
        raise ValueError(f"{path} must define a function load(). Got none instead. {_HINT}")
    result = make()
    if isinstance(result, Source):
        return result
    if not (isinstance(result, tuple) and len(result) == 2 and all(hasattr(part, "__getitem__") for part in result)):
        raise ValueError(f"load() in {path} returned a {type(result).__name__}. {_HINT}")
    train, test = result
    require_equal_classes({part: _named(data) for part, data in (("train", train), ("test", test))})
    return Source(path.stem, train, None, test, _classes(train))


def _loaded(path: Path) -> ModuleType:
    """The file as a module of its own name, which worker processes get by value: they cannot import it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to load the data from. Check its path.")
    name = f"kd_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    cloudpickle.register_pickle_by_value(module)
    return module


def _named(data: Any) -> list[str] | None:
    names = getattr(data, "classes", None)
    return None if names is None else [str(name) for name in names]


def _classes(train: Any) -> tuple[str, ...]:
    """As the data set names them, in torchvision's way, or the numbers that its labels are."""
    names = _named(train)
    if names is not None:
        return tuple(names)
    return tuple(map(str, range(int(facts_of(train).labels.max()) + 1)))
