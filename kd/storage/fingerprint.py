"""What decides an outcome, as plain data: settings as they are, weights and data by digest, functions by their code.

Equal descriptions mean the same computation on the same things, as far as objects show it: what a function calls or
reads from its module is not followed. They are JSON, so that a difference can be shown to a person.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import re
import types
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

_FOREIGN = ("torch.", "builtins")
_MODULES_OWN = frozenset(vars(nn.Module()))
_UNDERWAY: ContextVar[tuple[int, ...]] = ContextVar("_UNDERWAY", default=())  # ids of what is being described
_LENIENT: ContextVar[bool] = ContextVar("_LENIENT", default=False)


def describe(value: Any) -> Any:
    """The value as JSON data; equal for equal values, in any process.

    A dataset is described by its attributes, or by the string that its ``fingerprint()`` method returns if it has one.
    A function is described by its loaded code, its defaults and what it closes over; what it calls is not followed. A
    callable object, or one of a dataclass, is its class and its attributes. Of the attributes of models, samplers and
    schedulers, what cannot be described counts by its type; whatever lies beside it counts in full.

    Raises:
        TypeError: nothing is known about this type, so a change in it would go unnoticed.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if id(value) in _UNDERWAY.get():
        return {"again": type(value).__qualname__}  # what holds itself, as a recursive closure does
    token = _UNDERWAY.set((*_UNDERWAY.get(), id(value)))
    try:
        return _described(value)
    finally:
        _UNDERWAY.reset(token)


def _described(value: Any) -> Any:
    match value:
        case enum.Enum():
            return f"{type(value).__qualname__}.{value.name}"
        case np.generic():
            return {"type": type(value).__name__, "value": str(value)}
        case bool() | int() | float() | str():
            return value
        case Path() | torch.dtype():
            return str(value)
        case torch.device():
            return f"{value} {torch.cuda.get_device_name(value)}" if value.type == "cuda" else str(value)
        case Tensor():
            return _array(value.detach().cpu())
        case np.ndarray():
            return _array(torch.from_numpy(value))
        case Mapping():
            return {str(key): describe(item) for key, item in value.items()}
        case list() | tuple() | range():
            return _sequence(value)
        case set() | frozenset():
            return {"set": sorted(digest(describe(item)) for item in value)}
        case nn.Module():
            return _module(value)
        case DataLoader():
            return _loader(value)
        case Dataset():
            return _dataset(value)
        case torch.optim.Optimizer():
            return _optimizer(value)
        case torch.optim.lr_scheduler.LRScheduler() | Sampler():
            return {"class": _code(type(value)), "settings": _attributes(value)}
        case type():
            return _code(value)
    return _code_or_record(value)


def _code_or_record(value: Any) -> Any:
    """Functions in all their forms, and objects whose attributes are all that there is to them."""
    match value:
        case functools.partial():
            return {
                "function": describe(value.func),
                "args": describe(value.args),
                "keywords": describe(value.keywords),
            }
        case _ if inspect.isfunction(value):
            return {"code": _code(value), "closure": _closure(value)}
        case types.MethodType():
            return {"method": describe(value.__func__), "of": describe(value.__self__)}
        case types.BuiltinFunctionType() | types.MethodDescriptorType():
            return f"{value.__module__}.{value.__qualname__}"
        case _ if callable(value) and type(value).__module__.startswith(_FOREIGN):
            return {"class": _code(type(value)), "settings": _shown(value)}
        case _ if hasattr(value, "__dict__") and (callable(value) or _is_record(value)):
            return {"class": _code(type(value)), "settings": describe(vars(value))}
    if _LENIENT.get():
        return {"type": type(value).__qualname__}
    raise TypeError(
        f"cannot tell whether a {type(value).__name__} has changed since an earlier run. Use tensors, arrays, numbers, "
        "strings and containers of them, or give the dataset that holds it a fingerprint() method returning a string."
    )


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) or isinstance(value, types.SimpleNamespace)


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
    order = loader.sampler if loader.batch_sampler is None else loader.batch_sampler  # which has the sampler in it
    return {
        "dataset": describe(loader.dataset),
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        **_leniently({"order": order, "collate": loader.collate_fn}),
    }


def _dataset(dataset: Dataset[Any]) -> dict[str, Any]:
    fingerprint: Callable[[], str] | None = getattr(dataset, "fingerprint", None)
    content = fingerprint() if fingerprint else describe(vars(dataset))
    return {"class": _code(type(dataset)), "content": content}


def _module(model: nn.Module) -> dict[str, Any]:
    """Its classes (torch's own count by torch's version), the settings of every layer, and all weights and buffers."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    own = [_code(cls) for cls in classes if not cls.__module__.startswith(_FOREIGN)]
    layers = {path: _attributes(module) for path, module in model.named_modules()}
    weights = dict(model.named_buffers()) | model.state_dict()  # buffers that are not saved count as well
    return {"classes": sorted(own), "layers": digest(layers), "weights": digest(describe(weights))}


def _optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = optimizer.state_dict()
    groups = [{name: item for name, item in group.items() if name != "params"} for group in state["param_groups"]]
    trained = [[list(p.shape), p.requires_grad] for group in optimizer.param_groups for p in group["params"]]
    return {
        "class": _code(type(optimizer)),
        "groups": describe(groups),
        "trained": digest(trained),
        "state": digest(describe(state["state"])),
    }


def _attributes(thing: Any) -> dict[str, Any]:
    """The type and the attributes, but for a module's own machinery and for data that are described by themselves."""
    passed_over = {"training", "data_source", "generator", "optimizer"}
    passed_over |= _MODULES_OWN if isinstance(thing, nn.Module) else set()
    own = {name: value for name, value in vars(thing).items() if name not in passed_over}
    return {"type": type(thing).__qualname__} | _leniently(own)


def _leniently(values: Mapping[str, Any]) -> dict[str, Any]:
    """Described, and what cannot be by its type: a lock or a file does not decide what a model answers."""
    token = _LENIENT.set(True)
    try:
        return {name: describe(value) for name, value in values.items()}
    finally:
        _LENIENT.reset(token)


def _code(thing: Any) -> str:
    """Name and digest of the code as it was loaded, not of the file, which may have been edited since.

    torch's own code counts by torch's version, which is recorded elsewhere.
    """
    if thing.__module__.startswith(_FOREIGN):
        return f"{thing.__module__}.{thing.__qualname__}"
    return f"{thing.__module__}.{thing.__qualname__} {digest(_compiled(thing))[:12]}"


def _compiled(thing: Any) -> Any:
    """Whatever is code in a function or class, as JSON; None for what is not."""
    if isinstance(thing, (staticmethod, classmethod)):
        thing = thing.__func__
    if isinstance(thing, property):
        return [_compiled(part) for part in (thing.fget, thing.fset)]
    if inspect.isfunction(thing):
        return [_instructions(thing.__code__), _leniently({"": thing.__defaults__, "*": thing.__kwdefaults__})]
    if isinstance(thing, type):
        # Dunder values say where a class was written; later Pythons put its line number there.
        members = {name: m for name, m in vars(thing).items() if inspect.isroutine(m) or not name.startswith("__")}
        return {name: [_compiled(member), _closure(member)] for name, member in members.items()}
    if isinstance(thing, (list, dict, set, Tensor, np.ndarray)):
        return _leniently({"": thing})
    return _constant(thing) if isinstance(thing, (bool, int, float, str, tuple)) else None


def _closure(thing: Any) -> dict[str, Any]:
    """What a function closes over, by name: the settings of an objective are among it."""
    if not inspect.isfunction(thing):
        return {}
    nonlocals = inspect.getclosurevars(thing).nonlocals
    return {name: describe(value) for name, value in nonlocals.items() if name != "__class__"}  # that is super()'s


def _instructions(code: types.CodeType) -> list[Any]:
    return [code.co_code.hex(), list(code.co_names), [_constant(value) for value in code.co_consts]]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _instructions(value)
    if isinstance(value, frozenset):  # its own order differs from process to process
        return sorted(map(_shown, value))
    return [_constant(item) for item in value] if isinstance(value, tuple) else _shown(value)


def _shown(value: Any) -> str:
    """Its repr without addresses, which differ from process to process: a function may be another one's default."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
