"""Parameters that a training leaves as they are by mistake, found from its first gradients and its first epoch."""

from __future__ import annotations

import functools
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from kd.types import Objective

_MOST_OBJECTS = 10_000  # that are searched, such as the elements of a list that the objective uses
_OTHERS = (type(None), bool, int, float, str, bytes, type, ModuleType)  # hold none


class UntrainedWatch:
    """Warns of a model or parameters of an objective that are not trained: of each kind once.

    Args:
        model: the model that is trained.
        objective: the objective; parameters are looked for in its attributes and in the variables that it uses.
        optimizer: the optimizer of the training.
    """

    def __init__(self, model: nn.Module, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        found = list(_search(objective))
        optimizers = [optimizer, *(item for item in found if isinstance(item, torch.optim.Optimizer))]
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        known = {id(p) for item in optimizers for group in item.param_groups for p in group["params"]}
        known |= {id(parameter) for parameter in model.parameters()}
        own = (parameter for item in found for parameter in _name_parameters(item))
        # Teachers too: whether a parameter is meant to be trained shows in its gradient, which an earlier training may
        # have left.
        self._others = {id(p): (name, p, _state(p)) for name, p in own if p.requires_grad and id(p) not in known}
        self._trained = [parameter for parameter in model.parameters() if id(parameter) in held]
        self._norms: Tensor | None = None

    def start_epoch(self) -> None:
        """Remember the weights before the first epoch if it begins with a learning rate of 0."""
        self._norms = self._measure() if self._has_no_rate() else None

    def after_step(self) -> None:
        """Warn if the first step has given the model no gradient, or one to parameters that are in no optimizer."""
        if self._trained and all(parameter.grad is None for parameter in self._trained):
            warnings.warn(
                "the loss of the first batch gives no parameter of the model that the optimizer holds a gradient: the "
                "model is not trained. Compute the loss from the model's output, without detach() and torch.no_grad().",
                stacklevel=6,
            )
        self._trained = []
        lost = [name for name, parameter, before in self._others.values() if _state(parameter) != before]
        self._others = {}
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            warnings.warn(
                f"the objective uses parameters that get a gradient but are in no optimizer: {lost[0]}{more}. They are "
                "not trained. Make the optimizer from [*model.parameters(), *projector.parameters()], or, if they "
                "belong to a teacher, run it under torch.no_grad().",
                stacklevel=6,
            )

    def end_epoch(self) -> None:
        """Warn if the first epoch has changed no weight and the learning rate is 0."""
        before, self._norms = self._norms, None
        if before is not None and self._has_no_rate() and torch.equal(before, self._measure()):
            warnings.warn(
                "the first epoch has changed no weight, because the learning rate is 0 in the optimizer or by the "
                "scheduler. Set a learning rate above 0, such as lr=0.001.",
                stacklevel=4,
            )

    def _has_no_rate(self) -> bool:
        return all(float(group.get("lr", 1.0)) == 0 for group in self._optimizer.param_groups)

    def _measure(self) -> Tensor:
        weights = [p.detach() for group in self._optimizer.param_groups for p in group["params"]]
        return torch.stack([norm.float() for norm in torch._foreach_norm(weights)])


def _state(parameter: Tensor) -> tuple[int, int] | None:
    """Return what changes when the parameter gets a gradient, also in addition to one that it has."""
    gradient = parameter.grad
    return None if gradient is None else (id(gradient), gradient._version)


def _name_parameters(item: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(item, nn.Parameter):
        yield f"a parameter {list(item.shape)}", item
    elif isinstance(item, nn.Module):
        yield from ((f"{name} of {type(item).__name__}", parameter) for name, parameter in item.named_parameters())


def _search(objective: Objective) -> Iterator[Any]:
    """Yield modules, parameters and optimizers that the objective holds or uses: in closures, defaults and globals."""
    waiting, seen = deque[Any]([objective]), dict[int, Any]()
    while waiting and len(seen) < _MOST_OBJECTS:
        item = waiting.popleft()
        if id(item) in seen or isinstance(item, _OTHERS):
            continue
        seen[id(item)] = item  # kept, so that no other object gets its id
        if isinstance(item, (nn.Module, nn.Parameter, torch.optim.Optimizer)):
            yield item
        waiting.extend(_list_parts(item))


def _list_parts(item: Any) -> Iterable[Any]:
    if isinstance(item, (Tensor, torch.optim.Optimizer)):
        return ()
    if isinstance(item, nn.Module):  # its submodules are yielded with it; here what it holds outside these
        held = (vars(module).items() for module in item.modules())
        return [value for values in held for name, value in values if not name.startswith("_")]
    if isinstance(item, functools.partial):
        return item.func, *item.args, *item.keywords.values()
    if isinstance(item, MethodType):
        return item.__self__, item.__func__
    if isinstance(item, FunctionType):
        defaults = (*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values())
        return *_list_variables(item), *defaults
    if isinstance(item, Mapping):
        return item.values()
    return item if isinstance(item, (list, tuple)) else getattr(item, "__dict__", {}).values()


def _list_variables(function: FunctionType) -> Iterator[Any]:
    """Yield the values of the variables that the function uses, but of other modules' functions none."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # the variable has no value yet
            yield cell.cell_contents
    used = [function.__globals__.get(name) for name in function.__code__.co_names]
    yield from (v for v in used if not isinstance(v, FunctionType) or v.__globals__ is function.__globals__)
