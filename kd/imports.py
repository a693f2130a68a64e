"""Imports at run time: optional libraries (extras), and classes and functions from user files (plugins)."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kd.checks import did_you_mean, similar_paths
from kd.console import say


def is_plugin(spec: str) -> bool:
    """Return whether the text refers to a Python file: ``file.py`` or ``file.py:Name``."""
    return spec.endswith(".py") or spec.rpartition(":")[0].endswith(".py")


def load_plugin(spec: str) -> Any:
    """Return the object ``Name`` from ``file.py:Name``. Runs the file's code and prints a line about it.

    Modules that the file imports must be installed or on ``PYTHONPATH``; the file's folder is not searched. Its classes
    and functions can be sent to other processes (``kd.training.pool``).

    Raises:
        ValueError: the name is missing, the file's code fails, or the file does not define the name.
        OSError: the file cannot be read.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name:
        raise ValueError(
            f"{spec!r} must be FILE.py:NAME, a Python file and a name defined in it, such as net.py:Student."
        )
    path = Path(file)
    if not path.is_file():
        hint = similar_paths(path) or "Check its path."
        raise FileNotFoundError(f"there is no file {path} to load {name!r} from. {hint}")
    say(f"{path}: running its code for {name}")
    module = run_file(path)
    if name not in vars(module):
        public = [key for key in vars(module) if not key.startswith("_")]
        hint = did_you_mean(name, public, f"Define it, or name one of its objects: {', '.join(public) or 'none'}.")
        raise ValueError(f"{path} defines no {name!r}. {hint}")
    return getattr(module, name)


class _Loader(importlib.machinery.SourceFileLoader):
    """Source loader without bytecode cache: writes no ``__pycache__`` and never runs stale code after an edit."""

    def path_stats(self, path: str) -> Any:
        raise OSError(f"{path} is always compiled from source")


def run_file(path: Path) -> ModuleType:
    """Run a Python file and return it as a module. Objects that it defines can be sent to other processes.

    Raises:
        ValueError: the file's code fails.
    """
    import cloudpickle

    # The prefix keeps a user's random.py from replacing the standard module in sys.modules.
    name = f"kd_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # needed while the code runs: dataclasses look up their module there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code can raise anything
        del sys.modules[name]
        raise ValueError(f"{path} failed while its code ran ({type(error).__name__}: {error}). Correct it.") from error
    cloudpickle.register_pickle_by_value(module)  # other processes cannot import it by its name
    return module


class MissingExtraError(ImportError):
    """An optional library is not installed. The message contains the command that installs it."""


def import_extra(module: str, *, library: str, name: str, needed_for: str) -> Any:
    """Import and return a module of an optional library.

    Args:
        module: dotted name of the module.
        library: name of the library in the error.
        name: extra that installs the library.
        needed_for: feature that needs the library, in the error.

    Raises:
        MissingExtraError: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{needed_for} needs {library}, which is not installed: pip install 'paired-distillation[{name}]'."
        ) from error
