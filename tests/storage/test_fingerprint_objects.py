"""Descriptions of objects, functions, models and loaders contain all state that affects results, at any depth."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import functools
import logging
import re
import ssl
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

import kd
import kd.models.build
from kd.methods.objectives import in_bfloat16
from kd.storage.fingerprint import OpaqueError, describe, digest


class Scaled:
    """A callable object, like a transform."""

    def __init__(self, factor: float, others: Any = ()) -> None:
        self.factor, self.others = factor, others

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


class Mode(enum.Enum):
    ONE, OTHER = 1, 2


@dataclasses.dataclass
class Options:
    depth: int = 1


class PartlyOpaque(nn.Module):
    """A module with a ``no_grad`` method, a private setting and an opaque attribute."""

    def __init__(self, k: int = 1, mask: torch.Tensor | None = None, **settings: Any) -> None:
        super().__init__()
        self._k, self.lock = k, threading.Lock()
        vars(self).update(settings)
        self.register_buffer("mask", torch.zeros(2) if mask is None else mask, persistent=False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._k * x


def closing_over(thing: Any) -> Callable[[], Any]:
    return lambda: thing


def by_default(thing: Any) -> Callable[..., Any]:
    def function(argument: Any = thing, *, keyword: Any = thing) -> Any:
        return argument, keyword

    return function


class Slotted:
    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        self.depth = depth


class Plain:
    """An object that is neither callable nor a dataclass."""

    def __init__(self, depth: int) -> None:
        self.depth, self.lock = depth, threading.Lock()

    def __getstate__(self) -> dict[str, int]:
        return {"depth": self.depth}


class Pair(NamedTuple):
    value: int
    different: int


DIFFERENT: list[tuple[Any, Any]] = [
    (Scaled(1), Scaled(2)),
    (Scaled(1).__call__, Scaled(2).__call__),
    (functools.partial(Scaled(1)), functools.partial(Scaled(2))),
    (torch.sigmoid, torch.tanh),
    (np.float32(1), np.float32(2)),
    (np.float32(1), np.float64(1)),
    ({1, 2}, {1, 3}),
    (Mode.ONE, Mode.OTHER),
    (Options(1), Options(2)),
    (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
    (torch.zeros(3), torch.tensor([0.0, 0.0, 1e-9])),
    (torch.eye(3).to_sparse(), (2 * torch.eye(3)).to_sparse()),
    (Slotted(1), Slotted(2)),
    (Plain(1), Plain(2)),
    (Pair(1, 2), Pair(1, 3)),
    ({1: "a"}, {"1": "a"}),
    ({(1, 2): "a"}, {(1, 3): "a"}),
    (collections.OrderedDict(a=1), collections.OrderedDict(a=2)),
    (collections.defaultdict(list), collections.defaultdict(dict)),
    (b"a", b"b"),
    (b"a", bytearray(b"a")),
    (re.compile("a"), re.compile("b")),
    (np.array(["a", "b"]), np.array(["a", "c"])),
    (np.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-02"], "M8[D]")),
    (np.eye(3)[::2], np.eye(3)[1:]),
    (np.zeros(0), np.zeros((0, 1))),
    (np.array([None, "b"], dtype=object), np.array([None, "c"], dtype=object)),
    (np.random.default_rng(0), np.random.default_rng(1)),
]


@pytest.mark.parametrize(("value", "different"), DIFFERENT)
@pytest.mark.parametrize("where", [lambda x: x, closing_over, by_default, lambda x: Scaled(1, [x])])
def test_a_difference_changes_the_description_at_any_depth(
    value: Any, different: Any, where: Callable[[Any], Any]
) -> None:
    assert describe(where(value)) == describe(where(copy.deepcopy(value)))
    assert describe(where(value)) != describe(where(different))


@pytest.mark.parametrize(("value", "different"), DIFFERENT)
def test_a_difference_changes_the_description_of_a_partly_opaque_model(value: Any, different: Any) -> None:
    for hold in (lambda x: {"own": x}, lambda x: {"own": [threading.Lock(), x]}, lambda x: {"_own": {"a": x}}):
        first, again, changed = (describe(PartlyOpaque(**hold(x))) for x in (value, copy.deepcopy(value), different))
        assert first == again
        assert first != changed


def test_private_settings_and_unsaved_buffers_are_part_of_a_models_description() -> None:
    assert describe(PartlyOpaque(1)) == describe(PartlyOpaque(1))
    assert describe(PartlyOpaque(1)) != describe(PartlyOpaque(3))
    assert describe(PartlyOpaque(mask=torch.zeros(2))) != describe(PartlyOpaque(mask=torch.ones(2)))
    value, different = (kd.live_teacher(PartlyOpaque(k), kd.supervised) for k in (1, 3))
    assert describe(value) != describe(different)


def test_settings_of_schedulers_samplers_and_collate_functions_change_the_description() -> None:
    def scheduled(milestone: int) -> Any:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        schedulers = [torch.optim.lr_scheduler.ConstantLR(optimizer, factor) for factor in (0.1, 1.0)]
        return torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, milestones=[milestone])

    assert describe(scheduled(2)) == describe(scheduled(2))
    assert describe(scheduled(2)) != describe(scheduled(10))
    data = TensorDataset(torch.arange(8))
    samplers = [
        DataLoader(data, sampler=torch.utils.data.RandomSampler(data, replacement=True, num_samples=n)) for n in (4, 6)
    ]
    assert describe(samplers[0]) != describe(samplers[1])
    batches = [
        DataLoader(
            data,
            batch_sampler=torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(data), n, drop_last=False),
        )
        for n in (2, 4)
    ]
    assert describe(batches[0]) != describe(batches[1])
    collated = [DataLoader(data, collate_fn=functools.partial(torch.stack, dim=n)) for n in (0, 1)]
    assert describe(collated[0]) != describe(collated[1])


def test_a_recursive_closure_is_described_once() -> None:
    def recursive(n: int) -> int:
        return 0 if n == 0 else recursive(n - 1)

    assert describe(recursive) == describe(recursive)


def test_settings_of_a_wrapped_objective_change_the_description() -> None:
    objectives = [in_bfloat16(Scaled(factor)) for factor in (1, 1, 2)]  # type: ignore[arg-type]
    assert describe(objectives[0]) == describe(objectives[1])
    assert describe(objectives[0]) != describe(objectives[2])


def make_class(**members: Any) -> type:
    return type("Made", (), members)


@pytest.mark.parametrize(("value", "different"), DIFFERENT)
def test_members_of_a_class_and_its_bases_change_the_description(value: Any, different: Any) -> None:
    for derived in (lambda x: make_class(setting=x), lambda x: type("Derived", (make_class(setting=x),), {})):
        first, again, changed = (describe(derived(x)()) for x in (value, copy.deepcopy(value), different))
        assert first == again
        assert first != changed


def test_the_code_of_every_kind_of_method_changes_the_description() -> None:
    def first(self: Any) -> int:
        return 1

    def second(self: Any) -> int:
        return 2

    for kind in (lambda f: f, staticmethod, classmethod, property, functools.cached_property, functools.partialmethod):
        assert describe(make_class(method=kind(first))()) == describe(make_class(method=kind(first))())
        assert describe(make_class(method=kind(first))()) != describe(make_class(method=kind(second))())


def test_exception_handling_and_argument_names_change_a_functions_description() -> None:
    def guarded(x: Any) -> Any:
        try:
            y = int(x)
            return y + 1
        except ValueError:
            return 0

    def renamed(z: Any) -> Any:
        try:
            y = int(z)
            return y + 1
        except ValueError:
            return 0

    def keyword(*, x: Any) -> Any:
        try:
            y = int(x)
            return y + 1
        except ValueError:
            return 0

    functions = (guarded, renamed, keyword)
    for function in functions:
        function.__qualname__ = "same"
    assert len({digest(describe(function)) for function in functions}) == 3


def test_attributes_of_a_function_change_the_description() -> None:
    def make_function(depth: int) -> Callable[[], int]:
        def function() -> int:
            return 0

        function.depth = depth  # type: ignore[attr-defined]
        return function

    assert describe(make_function(1)) == describe(make_function(1))
    assert describe(make_function(1)) != describe(make_function(2))


def test_hooks_are_part_of_a_models_description() -> None:
    def hooked(factor: float, register: str) -> nn.Module:
        model = nn.Linear(1, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        getattr(model, register)(lambda *_: None if factor else torch.zeros(1))
        getattr(model, register)(closing_over(factor))
        return model

    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        assert describe(hooked(1.0, register)) == describe(hooked(1.0, register))
        assert describe(hooked(1.0, register)) != describe(hooked(2.0, register))


class Holding(nn.Module):
    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.thing = thing


OPAQUE = {
    "a bare object": lambda: object(),
    "an open file": lambda: open(__file__, encoding="utf-8"),  # noqa: SIM115, PTH123
    "a generator": lambda: (number for number in range(3)),
    "an object that cannot be pickled": lambda: threading.local(),
    "an object of a C library": lambda: ssl.create_default_context(),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda x: x,
    "an item": lambda x: [x],
    "an attribute of a model": Holding,
    "a closure": closing_over,
    "a default": by_default,
    "an object's attribute": lambda x: Scaled(1, x),
    "a member of a class": lambda x: make_class(setting=x),
    "collating": lambda x: DataLoader(TensorDataset(torch.zeros(1)), collate_fn=closing_over(x)),
}


@pytest.mark.parametrize("location", PLACES)
@pytest.mark.parametrize("opaque", OPAQUE)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_opaque_object_raises_at_any_depth(opaque: str, location: str) -> None:
    """The type alone would not reveal a change."""
    thing = OPAQUE[opaque]()
    with pytest.raises(OpaqueError, match=r"cannot tell whether a .* has changed since an earlier run"):
        describe(PLACES[location](thing))
    if hasattr(thing, "close"):
        thing.close()


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_an_fx_graph_is_described_and_torchscript_raises() -> None:
    class Adding(nn.Module):
        def __init__(self, constant: int) -> None:
            super().__init__()
            self.constant = constant

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.constant

    assert describe(torch.fx.symbolic_trace(Adding(1))) == describe(torch.fx.symbolic_trace(Adding(1)))
    assert describe(torch.fx.symbolic_trace(Adding(1))) != describe(torch.fx.symbolic_trace(Adding(2)))
    with pytest.raises(OpaqueError, match="TorchScript code is not accessible"):
        describe(torch.jit.trace(Adding(1), torch.zeros(1)))  # type: ignore[no-untyped-call]


def test_locks_and_loggers_do_not_change_the_description() -> None:
    for first, second in ((threading.Lock(), threading.Lock()), (logging.getLogger("a"), logging.getLogger("b"))):
        assert describe(Holding(first)) == describe(Holding(second))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1), 1.0, 10),
        lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)),
        lambda: torch.utils.data.WeightedRandomSampler([0.5] * 4, 4),
        lambda: torch.utils.data.random_split(TensorDataset(torch.arange(4)), [2, 2], torch.Generator())[0].dataset,
        lambda: DataLoader(TensorDataset(torch.arange(4)), shuffle=True, generator=torch.Generator()),
        lambda: v2.Compose([v2.RandomCrop(28, padding=4), v2.ColorJitter(0.1), v2.RandAugment(), v2.Lambda(abs)]),
        lambda: torch.fx.symbolic_trace(nn.Sequential(nn.ReLU())),
        lambda: torch.compile(nn.ReLU()),
        lambda: torch.compile(closing_over(1)),
        lambda: torch.optim.swa_utils.AveragedModel(nn.ReLU()),
        lambda: kd.models.build.build("torchvision:mobilenet_v3_small", input_shape=(3, 224, 224), classes=3, seed=0),
        lambda: kd.models.build.build("timm:test_vit", input_shape=(3, 160, 160), classes=3, seed=0),
    ],
)
def test_common_objects_are_described_equally_when_created_again(make: Callable[[], Any]) -> None:
    assert digest(describe(make())) == digest(describe(make()))
