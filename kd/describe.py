"""What decides an outcome, as plain data: settings as they are, weights and data by digest, functions by their source.

Two descriptions are equal exactly when the same computation would be done on the same things. They are JSON, so that a
difference can be shown to a person.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


def describe(value: Any) -> Any:
    """The value as JSON data; equal for equal values, in any process.

    A dataset is described by its attributes, or by the string that its ``fingerprint()`` method returns if it has one.
    A function is described by its source and what it closes over; what it calls is not followed.

    Raises:
        TypeError: nothing is known about this type, so a change in it would go unnoticed.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path() | torch.device() | torch.dtype():
            return str(value)
        case Tensor():
            return _array(value.detach().cpu())
        case np.ndarray():
            return _array(torch.from_numpy(value))
        case Mapping():
            return {str(key): describe(item) for key, item in value.items()}
        case list() | tuple() | range():
            return _sequence(value)
        case nn.Module():
            # The printed form shows what has no weights: the rate of a dropout, the stride of a convolution.
            weights = digest(describe(value.state_dict()))
            return {"class": _sources(value), "layers": digest(repr(value)), "weights": weights}
        case DataLoader():
            return _loader(value)
        case Dataset():
            return _dataset(value)
        case type():
            return _source(value)
        case torch.optim.Optimizer():
            groups = [{key: item for key, item in group.items() if key != "params"} for group in value.param_groups]
            return {"class": _source(type(value)), "groups": describe(groups)}
        case _ if inspect.isfunction(value):
            return _function(value)
    raise TypeError(
        f"cannot tell whether a {type(value).__name__} has changed since an earlier run. Use tensors, arrays, numbers, "
        "strings and containers of them, or give the dataset that holds it a fingerprint() method returning a string."
    )


def digest(description: Any) -> str:
    """SHA-256 of a description, in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two descriptions differ, one line each: ``settings.epochs: was 10, is 2``."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if old == new:
        return []
    was, now = json.dumps(old), json.dumps(new)
    return [
        f"{path}: was {was}, is {now}" if len(was + now) < 40 else f"{path} is another"
    ]  # digests tell a person nothing


def _array(tensor: Tensor) -> dict[str, Any]:
    content = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    return {"sha256": hashlib.sha256(content).hexdigest(), "shape": list(tensor.shape), "dtype": str(tensor.dtype)}


def _sequence(values: Any) -> Any:
    described = [describe(item) for item in values]
    return described if len(described) <= 16 else {"sha256": digest(described), "length": len(described)}


def _loader(loader: DataLoader[Any]) -> dict[str, Any]:
    return {
        "dataset": describe(loader.dataset),
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "order": type(loader.sampler).__name__,
    }


def _dataset(dataset: Dataset[Any]) -> dict[str, Any]:
    fingerprint: Callable[[], str] | None = getattr(dataset, "fingerprint", None)
    content = fingerprint() if fingerprint else describe(vars(dataset))
    return {"class": _source(type(dataset)), "content": content}


def _function(function: Any) -> dict[str, Any]:
    """A function with the values that it closes over: the settings of an objective are among them."""
    return {"source": _source(function), "closure": describe(inspect.getclosurevars(function).nonlocals)}


def _sources(model: nn.Module) -> list[str]:
    """Every class that the model is made of, but for torch's own, whose version is recorded elsewhere."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    return sorted(_source(cls) for cls in classes if not cls.__module__.startswith(("torch.", "builtins")))


def _source(thing: Any) -> str:
    """The name and a digest of the source: who edits a model's ``forward`` has another model."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    try:
        source = inspect.getsource(thing)
    except (OSError, TypeError):  # built in, or typed into a console
        return name
    return f"{name} {hashlib.sha256(source.encode()).hexdigest()[:12]}"
