"""Settings, data, weights and code as JSON, for a step's key: equal descriptions mean the same computation.

Whatever cannot be seen into is refused. What is not followed, so that a change there goes unnoticed:

- what a function calls or reads from its module, and modules themselves: by their names alone;
- code in C, and all of torch and of Python's own library: by their names alone, as both versions are in every key;
- what an object's own ``__getstate__`` or ``__reduce__`` leaves out, which is what a pickled copy does without;
- locks and loggers, private objects of torch's own modules, the order of the items of a dictionary or set;
- files: what can be read from one that an object holds by its path.
"""

from __future__ import annotations

import copyreg
import enum
import hashlib
import inspect
import json
import logging
import sys
import threading
import types
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

_HOOKS = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})
_MACHINERY = frozenset(vars(nn.Module())) - _HOOKS  # of every module; hooks alone change an outcome
_OTHERS = frozenset({"data_source", "generator", "optimizer"})  # of a sampler or scheduler, described by themselves
_EMPTY = types.CellType()
_WRITTEN_IN_C = (
    types.BuiltinFunctionType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)
_DECIDES_NOTHING = (type(threading.Lock()), type(threading.RLock()), logging.Logger)


class OpaqueError(TypeError, ValueError):
    """Something cannot be seen into, so nobody can tell whether it has changed since an earlier run.

    A wrong type; and a ``ValueError``, which commands print as one paragraph.
    """


def describe(value: Any) -> Any:
    """The value as JSON data; equal for equal values, in any process.

    A dataset is described by its attributes, or by the string that its ``fingerprint()`` method returns if it has one;
    a function by its loaded code, its defaults and what it closes over; a class by its own members and those of its
    bases; any other object by its class and by what pickle would keep of it.

    Raises:
        OpaqueError: a change in something that the value holds would go unnoticed.
    """
    return _Description().of(value)


def digest(description: Any) -> str:
    """SHA-256 of a description, in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


class _Description:
    """One description while it is made.

    Attributes:
        inside: ids of what is being described, from the outermost on.
        codes: of the classes described so far.
    """

    def __init__(self) -> None:
        self.inside: list[int] = []
        self.codes: dict[type, str] = {}

    def of(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) in self.inside:  # what holds itself, as a recursive closure does
            return {"again": len(self.inside) - self.inside.index(id(value))}
        self.inside.append(id(value))
        try:
            return self._data(value)
        finally:
            self.inside.pop()

    def _data(self, value: Any) -> Any:
        match value:
            case enum.Enum():
                return {"member": f"{type(value).__qualname__}.{value.name}", "value": self.of(value.value)}
            case Path() | torch.dtype():
                return str(value)
            case torch.device():
                return f"{value} {torch.cuda.get_device_name(value)}" if value.type == "cuda" else str(value)
            case bytes() | bytearray():
                return {"sha256": hashlib.sha256(value).hexdigest(), "dtype": type(value).__name__}
            case Tensor() if value.layout is torch.strided and value.device.type != "meta":
                content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
                return _content(content, value.shape, value.dtype)
            case np.ndarray() if not value.dtype.hasobject:
                return _content(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, value.shape, value.dtype)
        if type(value) in (dict, types.MappingProxyType):
            return self._mapping(value)
        if type(value) in (list, tuple, range):
            described = [self.of(item) for item in value]
            return described if len(described) <= 16 else {"sha256": digest(described), "length": len(described)}
        if type(value) in (set, frozenset):
            return {"set": sorted(digest(self.of(item)) for item in value)}
        return self._code_or_object(value)

    def _mapping(self, mapping: Mapping[Any, Any]) -> Any:
        if all(type(key) is str for key in mapping):
            return {key: self.of(item) for key, item in mapping.items()}
        pairs = [[self.of(key), self.of(item)] for key, item in mapping.items()]
        return {"items": sorted(pairs, key=digest)}

    def _code_or_object(self, value: Any) -> Any:
        match value:
            case type():
                if value not in self.codes:
                    self.codes[value] = self._class(value)
                return self.codes[value]
            case types.FunctionType() if hasattr(value, "_torchdynamo_orig_callable"):
                return {"compiled": self.of(value._torchdynamo_orig_callable)}
            case types.FunctionType():
                own = {name: item for name, item in vars(value).items() if not name.startswith("__")}
                return {"code": self._function(value), "closure": self._closure(value), "attributes": self.of(own)}
            case types.MethodType():
                return {"method": self.of(value.__func__), "of": self.of(value.__self__)}
            case staticmethod() | classmethod():
                return self.of(value.__func__)
            case property():
                return [self.of(function) for function in (value.fget, value.fset, value.fdel)]
            case torch.jit.ScriptModule() | torch.jit.ScriptFunction():
                raise _refused(value, "TorchScript does not show its code")
            case nn.Module() if hasattr(value, "_orig_mod"):  # torch.compile's wrapper
                return {**self.of(value._orig_mod), "compiled": True}
            case nn.Module():
                return self._module(value)
            case DataLoader():
                return self._loader(value)
            case Dataset():
                fingerprint = getattr(value, "fingerprint", None)
                content = fingerprint() if fingerprint else self.of(vars(value))
                return {"class": self.of(type(value)), "content": content}
            case torch.optim.Optimizer():
                return self._optimizer(value)
            case torch.optim.lr_scheduler.LRScheduler() | Sampler():
                return {"class": self.of(type(value)), "settings": self._attributes(value, _OTHERS)}
            case weakref.ReferenceType():
                return {"reference": self.of(value())}
            case types.ModuleType():
                return f"module {value.__name__}"
            case _ if isinstance(value, _WRITTEN_IN_C):
                return f"{getattr(value, '__module__', None)}.{value.__qualname__}"
            case _ if isinstance(value, _DECIDES_NOTHING):
                return {"type": type(value).__qualname__}
        return self._object(value)

    def _object(self, value: Any) -> Any:
        """Any other object, as pickle takes it apart: how to make it, its arguments, state and items."""
        if type(value) is object:
            raise _refused(value)
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            parts = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:  # each library has its own for what it does not pickle
            raise _refused(value, str(error)) from error
        if isinstance(parts, str):
            return f"{getattr(value, '__module__', None)}.{parts}"
        function, arguments, *rest = parts
        state, *items = [*rest, None, None, None][:3]
        return {
            "object": [self.of(function), self.of(arguments)],
            "state": self.of(state),
            "items": [self.of(list(group)) for group in items if group is not None],
        }

    def _loader(self, loader: DataLoader[Any]) -> dict[str, Any]:
        order = loader.sampler if loader.batch_sampler is None else loader.batch_sampler  # which has the sampler in it
        return {
            "dataset": self.of(loader.dataset),
            "batch_size": loader.batch_size,
            "drop_last": loader.drop_last,
            "order": self.of(order),
            "collate": self.of(loader.collate_fn),
        }

    def _module(self, model: nn.Module) -> dict[str, Any]:
        """Its classes, the settings of every layer, and all weights and buffers."""
        classes = {str(self.of(type(module))) for module in model.modules()}
        layers = {path: self._attributes(module, _MACHINERY) for path, module in model.named_modules()}
        weights = {**dict(model.named_buffers()), **model.state_dict()}  # buffers that are not saved count as well
        return {"classes": sorted(classes), "layers": digest(layers), "weights": digest(self.of(weights))}

    def _optimizer(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state = optimizer.state_dict()
        groups = [{name: item for name, item in group.items() if name != "params"} for group in state["param_groups"]]
        trained = [[list(p.shape), p.requires_grad] for group in optimizer.param_groups for p in group["params"]]
        return {
            "class": self.of(type(optimizer)),
            "groups": self.of(groups),
            "trained": digest(trained),
            "state": digest(self.of(state["state"])),
        }

    def _attributes(self, thing: Any, without: frozenset[str]) -> dict[str, Any]:
        """The type and the attributes. What torch's own objects hold and cannot be seen into counts by its type."""
        described = {"type": type(thing).__qualname__}
        for name, value in vars(thing).items():
            if name in without or (name in _HOOKS and not value):
                continue
            try:
                described[name] = self.of([*value.values()] if name in _HOOKS else value)
            except OpaqueError:
                if not _by_name_alone(type(thing).__module__):
                    raise
                described[name] = type(value).__qualname__
        return described

    def _class(self, cls: type) -> str:
        """Name and digest of all that a class and its bases define, as it was loaded."""
        name = f"{cls.__module__}.{cls.__qualname__}"
        if _by_name_alone(name):
            return name
        # Values between double underscores say where a class was written; later Pythons put its line number there.
        members = {key: m for key, m in vars(cls).items() if inspect.isroutine(m) or not key.startswith("__")}
        members.pop("_abc_impl", None)  # the cache of an abstract class
        return f"{name} {digest([self.of(members), [self.of(base) for base in cls.__bases__]])[:12]}"

    def _function(self, function: types.FunctionType) -> str:
        """Name and digest of the code as it was loaded, not of the file, which may have been edited since."""
        name = f"{function.__module__}.{function.__qualname__}"
        if _by_name_alone(name):
            return name
        defaults = [self.of(function.__defaults__), self.of(function.__kwdefaults__)]
        return f"{name} {digest([_instructions(function.__code__), defaults])[:12]}"

    def _closure(self, function: types.FunctionType) -> dict[str, Any]:
        """What a function closes over, by name: the settings of an objective are among it."""
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        # An empty cell is a variable that has no value yet; __class__ is super()'s.
        return {name: self.of(cell.cell_contents) for name, cell in cells if name != "__class__" and cell != _EMPTY}


def _by_name_alone(name: str) -> bool:
    """Whether this is a name in torch or in Python's own library, whose versions count in their code's place."""
    return name.startswith("torch.") or name.partition(".")[0] in sys.stdlib_module_names


def _refused(value: object, why: str = "") -> OpaqueError:
    return OpaqueError(
        f"cannot tell whether a {type(value).__name__} has changed since an earlier run{why and f' ({why})'}. Use "
        "tensors, arrays, numbers, strings, containers of them, and objects that pickle takes apart; or give the "
        "dataset that holds it a fingerprint() method returning a string."
    )


def _content(content: bytes | memoryview, shape: Sequence[int], dtype: object) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "shape": list(shape), "dtype": str(dtype)}


def _instructions(code: types.CodeType) -> list[Any]:
    """All of a function's code that decides what it does, without the lines and the file that it came from."""
    arguments = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    names = [list(code.co_varnames), list(code.co_names), list(code.co_freevars)]
    constants = [_constant(value) for value in code.co_consts]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), arguments, names, constants]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _instructions(value)
    if isinstance(value, frozenset):  # its own order differs from process to process
        return sorted(map(repr, value))
    return [_constant(item) for item in value] if isinstance(value, tuple) else repr(value)
