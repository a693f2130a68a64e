"""Classes and functions from a user's own file, named as ``file.py:Name``. Loading one runs the file's code."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
from torch import nn

from kd.checks import did_you_mean
from kd.console import say


def is_plugin(spec: str) -> bool:
    """Whether the text names something in a Python file: ``file.py`` or ``file.py:Name``."""
    return spec.endswith(".py") or spec.rpartition(":")[0].endswith(".py")


def load_plugin(spec: str) -> Any:
    """What is called ``Name`` in the file of ``file.py:Name``, whose code is run, which is said.

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


def made_by(maker: Any, spec: str, *, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The model that a user's class or function makes: told ``input_shape`` and ``classes`` if it asks for them.

    Raises:
        ValueError: it cannot be called so, fails, or makes no ``nn.Module``.
    """
    told = {"input_shape": input_shape, "classes": classes}
    signature = _signature(maker, spec)
    asked = {name: value for name, value in told.items() if name in signature.parameters}
    try:
        signature.bind(**asked)
    except TypeError as error:
        raise ValueError(
            f"{spec} must take (input_shape, classes) or no arguments. Got {signature} instead."
        ) from error
    try:
        model = maker(**asked)
    except Exception as error:  # anyone's code
        raise ValueError(
            f"{spec} failed as it was called ({type(error).__name__}: {error}). Correct the file."
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} must make a torch.nn.Module. Got a {type(model).__name__} instead.")
    return model


def _signature(maker: Any, spec: str) -> inspect.Signature:
    if not callable(maker) or isinstance(maker, nn.Module):
        raise ValueError(
            f"{spec} must be a class or a function that makes a model. Got a {type(maker).__name__} instead."
        )
    return inspect.signature(maker)
