"""What is imported by name at run time: optional libraries, and classes and functions from a user's own file."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from kd.checks import did_you_mean
from kd.console import say


def is_plugin(spec: str) -> bool:
    """Whether the text names something in a Python file: ``file.py`` or ``file.py:Name``."""
    return spec.endswith(".py") or spec.rpartition(":")[0].endswith(".py")


def load_plugin(spec: str) -> Any:
    """What is called ``Name`` in the file of ``file.py:Name``. Loading it runs the file's code, which is said.

    The file stands alone: what it imports must be installed or on ``PYTHONPATH``. Its classes and functions can be sent
    to other processes (``kd.training.pool``).

    Raises:
        ValueError: no name is given, the file's code fails, or there is no such name in it.
        OSError: the file cannot be read.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name:
        raise ValueError(
            f"{spec!r} must be FILE.py:NAME, a Python file and what to take from it, as in net.py:Student."
        )
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}, from which {name!r} was to be taken. Give its path.")
    say(f"{path}: running its code for {name}")
    module = run_file(path)
    if name not in vars(module):
        public = [known for known in vars(module) if not known.startswith("_")]
        meant = did_you_mean(name, public, f"Define it there; found: {', '.join(public) or 'nothing'}.")
        raise ValueError(f"{path} defines no {name!r}. {meant}")
    return getattr(module, name)


class _Loader(importlib.machinery.SourceFileLoader):
    """Leaves no ``__pycache__`` beside a user's file, and never takes code from one that an edit has made old."""

    def path_stats(self, path: str) -> Any:
        raise OSError(f"{path} is compiled anew each time")


def run_file(path: Path) -> ModuleType:
    """A Python file as a module, its code run anew; what it defines can be sent to other processes.

    Raises:
        ValueError: its code fails.
    """
    # A name that no installed module has: a file called random.py is not to become everyone's random.
    name = f"kd_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, among others, look their module up while they are made
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anyone's code
        del sys.modules[name]
        raise ValueError(f"{path} failed while its code ran ({type(error).__name__}: {error}). Correct it.") from error
    cloudpickle.register_pickle_by_value(module)  # no other process can import it by that name
    return module


class MissingExtraError(ImportError):
    """A library of an extra is not installed; the message says how to install it."""


def import_extra(module: str, *, library: str, name: str, needed_for: str) -> Any:
    """The module of an optional library.

    Args:
        library: its name, for a person.
        name: of the extra that brings it.
        needed_for: what cannot be done without it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{needed_for} needs {library}, which is not installed: pip install 'paired-distillation[{name}]'."
        ) from error
