"""JSON descriptions of settings, data, weights and code, hashed into a step's key: same description, same computation.

Objects whose state cannot be inspected raise an error. Changes in the following go unnoticed:

- functions that a function calls, globals that it reads, and modules: only their names are included;
- C code, torch, transformers and the standard library: only names are included, as keys contain their versions;
- state that an object's ``__getstate__`` or ``__reduce__`` omits, as it would be missing from a pickled copy;
- locks and loggers, private objects of torch's own modules, the order of dictionaries and sets;
- the content of files that an object refers to by path.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from kd.storage.bytecode import describe_code

_HOOKS = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})
_MODULE_INTERNALS = frozenset(vars(nn.Module())) - _HOOKS  # attributes of every module; only hooks change results
# Attributes of samplers and schedulers that are described elsewhere: as dataset, seed and optimizer.
_DESCRIBED_ELSEWHERE = frozenset({"data_source", "generator", "optimizer"})
_EMPTY_CELL = types.CellType()
_PLAIN = frozenset({type(None), bool, int, float, str})  # describe themselves; lists of rows are long
_WRITTEN_IN_C = (
    types.BuiltinFunctionType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)
_IGNORED = (type(threading.Lock()), type(threading.RLock()), logging.Logger)


class OpaqueError(TypeError, ValueError):
    """Raised if an object cannot be inspected, since changes in it would go unnoticed.

    Also a ``ValueError``, so that commands print it without a traceback.
    """


def describe(value: Any) -> Any:
    """Return the value as JSON data, equal for equal values in any process.

    A dataset is described by the string that its ``fingerprint()`` method returns, or by its attributes if it has no
    such method. A function is described by its loaded code, defaults and closure, a class by its members and bases,
    and any other object by its class and the state that pickle would save.

    Raises:
        OpaqueError: the value contains an object that cannot be inspected.
    """
    return _Describer().describe(value)


def digest(description: Any) -> str:
    """Return the SHA-256 of a description in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


class _Describer:
    """Recursive description of one value.

    Attributes:
        open_ids: ids of the objects being described, outermost first.
        class_descriptions: descriptions of the classes seen so far.
        contents: tensors and arrays seen so far and their descriptions, by id; splits share images of gigabytes.
    """

    def __init__(self) -> None:
        self.open_ids: list[int] = []
        self.class_descriptions: dict[type, str] = {}
        self.contents: dict[int, tuple[object, dict[str, Any]]] = {}

    def describe(self, value: Any) -> Any:
        if type(value) in _PLAIN:
            return value
        if id(value) in self.open_ids:  # a cycle: the object contains itself, like a recursive closure
            return {"again": len(self.open_ids) - self.open_ids.index(id(value))}
        self.open_ids.append(id(value))
        try:
            return self._describe_data(value)
        finally:
            self.open_ids.pop()

    def _describe_data(self, value: Any) -> Any:
        match value:
            case enum.Enum():
                return {"member": f"{type(value).__qualname__}.{value.name}", "value": self.describe(value.value)}
            case Path() | torch.dtype():
                return str(value)
            case torch.device():
                return f"{value} {torch.cuda.get_device_name(value)}" if value.type == "cuda" else str(value)
            case bytes() | bytearray():
                return {"sha256": hashlib.sha256(value).hexdigest(), "dtype": type(value).__name__}
            case Tensor() | np.ndarray() if _has_content(value):
                return self._describe_content(value)
        if type(value) in (dict, types.MappingProxyType):
            return self._describe_mapping(value)
        if type(value) in (list, tuple, range):
            items = list(value) if _PLAIN.issuperset(map(type, value)) else [self.describe(item) for item in value]
            # Long lists would make description.json unreadable.
            return items if len(items) <= 16 else {"sha256": digest(items), "length": len(items)}
        if type(value) in (set, frozenset):
            return {"set": sorted(digest(self.describe(item)) for item in value)}
        return self._describe_code_or_object(value)

    def _describe_content(self, value: Tensor | np.ndarray[Any, Any]) -> dict[str, Any]:
        if id(value) not in self.contents:
            self.contents[id(value)] = value, _hash_content(value)  # the reference keeps the id from being reused
        return self.contents[id(value)][1]

    def _describe_mapping(self, mapping: Mapping[Any, Any]) -> Any:
        if all(type(key) is str for key in mapping):
            return {key: self.describe(item) for key, item in mapping.items()}
        pairs = [[self.describe(key), self.describe(item)] for key, item in mapping.items()]
        return {"items": sorted(pairs, key=digest)}

    def _describe_code_or_object(self, value: Any) -> Any:
        match value:
            case type():
                if value not in self.class_descriptions:
                    self.class_descriptions[value] = self._describe_class(value)
                return self.class_descriptions[value]
            case types.FunctionType() if hasattr(value, "_torchdynamo_orig_callable"):
                return {"compiled": self.describe(value._torchdynamo_orig_callable)}
            case types.FunctionType():
                attributes = {name: item for name, item in vars(value).items() if not name.startswith("__")}
                return {
                    "code": self._describe_function(value),
                    "closure": self._describe_closure(value),
                    "attributes": self.describe(attributes),
                }
            case types.MethodType():
                return {"method": self.describe(value.__func__), "of": self.describe(value.__self__)}
            case staticmethod() | classmethod():
                return self.describe(value.__func__)
            case property():
                return [self.describe(function) for function in (value.fget, value.fset, value.fdel)]
            case torch.jit.ScriptModule() | torch.jit.ScriptFunction():
                raise _opaque_error(value, "TorchScript code is not accessible: build it in Python, or pass FILE.onnx")
            case nn.Module() if hasattr(value, "_orig_mod"):  # torch.compile's wrapper
                return {**self.describe(value._orig_mod), "compiled": True}
            case nn.Module():
                return self._describe_module(value)
            case DataLoader():
                return self._describe_loader(value)
            case Dataset():
                fingerprint = getattr(value, "fingerprint", None)
                content = fingerprint() if fingerprint else self.describe(vars(value))
                return {"class": self.describe(type(value)), "content": content}
            case torch.optim.Optimizer():
                return self._describe_optimizer(value)
            case torch.optim.lr_scheduler.LRScheduler() | Sampler():
                return {
                    "class": self.describe(type(value)),
                    "settings": self._describe_attributes(value, _DESCRIBED_ELSEWHERE),
                }
            case weakref.ReferenceType():
                return {"reference": self.describe(value())}
            case types.ModuleType():
                return f"module {value.__name__}"
            case _ if isinstance(value, _WRITTEN_IN_C):
                return f"{getattr(value, '__module__', None)}.{value.__qualname__}"
            case _ if isinstance(value, _IGNORED):
                return {"type": type(value).__qualname__}
        return self._describe_object(value)

    def _describe_object(self, value: Any) -> Any:
        """Describe any other object by its pickle reduction: constructor, arguments, state and items."""
        if type(value) is object:
            raise _opaque_error(value)
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            parts = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:  # each library raises its own type for objects that cannot be pickled
            raise _opaque_error(value, str(error)) from error
        if isinstance(parts, str):
            return f"{getattr(value, '__module__', None)}.{parts}"
        function, arguments, *rest = parts
        state, *items = [*rest, None, None, None][:3]
        return {
            "object": [self.describe(function), self.describe(arguments)],
            "state": self.describe(state),
            "items": [self.describe(list(group)) for group in items if group is not None],
        }

    def _describe_loader(self, loader: DataLoader[Any]) -> dict[str, Any]:
        return {
            "dataset": self.describe(loader.dataset),
            "batch_size": loader.batch_size,
            "drop_last": loader.drop_last,
            "order": self.describe(loader.sampler if loader.batch_sampler is None else loader.batch_sampler),
            "collate": self.describe(loader.collate_fn),
            "mix": self.describe(getattr(loader, "mix", None)),  # of kd.data.loaders.Loader
        }

    def _describe_module(self, model: nn.Module) -> dict[str, Any]:
        """Describe the classes and settings of all layers, and all weights and buffers."""
        classes = {str(self.describe(type(module))) for module in model.modules()}
        layers = {path: self._describe_attributes(module, _MODULE_INTERNALS) for path, module in model.named_modules()}
        weights = {**dict(model.named_buffers()), **model.state_dict()}  # includes non-persistent buffers
        return {"classes": sorted(classes), "layers": digest(layers), "weights": digest(self.describe(weights))}

    def _describe_optimizer(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state = optimizer.state_dict()
        groups = [{name: item for name, item in group.items() if name != "params"} for group in state["param_groups"]]
        parameters = [[list(p.shape), p.requires_grad] for group in optimizer.param_groups for p in group["params"]]
        return {
            "class": self.describe(type(optimizer)),
            "groups": self.describe(groups),
            "trained": digest(parameters),
            "state": digest(self.describe(state["state"])),
        }

    def _describe_attributes(self, owner: Any, excluded: frozenset[str]) -> dict[str, Any]:
        """Describe type and attributes. Opaque attributes of library objects are described by their type alone."""
        attributes = {"type": type(owner).__qualname__}
        for name, value in vars(owner).items():
            if name in excluded or (name in _HOOKS and not value):
                continue
            try:
                attributes[name] = self.describe([*value.values()] if name in _HOOKS else value)
            except OpaqueError:
                if not _is_library_code(type(owner).__module__):
                    raise
                attributes[name] = type(value).__qualname__
        return attributes

    def _describe_class(self, cls: type) -> str:
        """Return the name and the digest of all that the loaded class and its bases define."""
        name = f"{cls.__module__}.{cls.__qualname__}"
        if _is_library_code(name):
            return name
        # Dunder attributes depend on where the class was defined: newer Python versions store its line number there.
        members = {key: m for key, m in vars(cls).items() if inspect.isroutine(m) or not key.startswith("__")}
        members.pop("_abc_impl", None)  # abc's internal cache, no part of the code
        return f"{name} {digest([self.describe(members), [self.describe(base) for base in cls.__bases__]])[:12]}"

    def _describe_function(self, function: types.FunctionType) -> str:
        """Return the name and the digest of the loaded code; the file may have been edited since."""
        name = f"{function.__module__}.{function.__qualname__}"
        if _is_library_code(name):
            return name
        defaults = [self.describe(function.__defaults__), self.describe(function.__kwdefaults__)]
        return f"{name} {digest([describe_code(function.__code__), defaults])[:12]}"

    def _describe_closure(self, function: types.FunctionType) -> dict[str, Any]:
        """Describe the closure's variables by name; an objective's settings are among them."""
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        # An empty cell is a variable without a value yet; __class__ is there for super().
        return {
            name: self.describe(cell.cell_contents)
            for name, cell in cells
            if name != "__class__" and cell != _EMPTY_CELL
        }


def _is_library_code(name: str) -> bool:
    """Return whether the name belongs to a library whose version stands for its code."""
    return name.startswith(("torch.", "transformers.")) or name.partition(".")[0] in sys.stdlib_module_names


def _opaque_error(value: object, reason: str = "") -> OpaqueError:
    return OpaqueError(
        f"cannot tell whether a {type(value).__name__} has changed since an earlier run{reason and f' ({reason})'}. "
        "Use tensors, arrays, numbers, strings, containers of these, or picklable objects; or give the dataset that "
        "contains it a fingerprint() method that returns a string."
    )


def _has_content(value: Tensor | np.ndarray[Any, Any]) -> bool:
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return value.layout is torch.strided and value.device.type != "meta"


def _hash_content(value: Tensor | np.ndarray[Any, Any]) -> dict[str, Any]:
    array = value.detach().cpu().contiguous().flatten().view(torch.uint8) if isinstance(value, Tensor) else value
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return {"sha256": hashlib.sha256(content).hexdigest(), "shape": list(value.shape), "dtype": str(value.dtype)}
