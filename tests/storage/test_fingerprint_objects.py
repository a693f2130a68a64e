"""Objects, functions, models and loaders are described by all that decides, wherever it is kept."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kd
from kd.methods.objectives import in_bfloat16
from kd.storage.fingerprint import describe


class Scaled:
    """A callable object, as transforms and noises are."""

    def __init__(self, factor: float, others: Any = ()) -> None:
        self.factor, self.others = factor, others

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


class Mode(enum.Enum):
    ONE, OTHER = 1, 2


@dataclasses.dataclass
class Options:
    depth: int = 1


class Without(nn.Module):
    """With a method that autograd passes by, a private setting and something that cannot be described."""

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
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
@pytest.mark.parametrize("where", [lambda x: x, closing_over, by_default, lambda x: Scaled(1, [x])])
def test_whatever_decides_counts_wherever_it_is(one: Any, other: Any, where: Callable[[Any], Any]) -> None:
    assert describe(where(one)) == describe(where(copy.deepcopy(one)))
    assert describe(where(one)) != describe(where(other))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_in_a_model_too_beside_what_cannot_be_described(one: Any, other: Any) -> None:
    for hold in (lambda x: {"own": x}, lambda x: {"own": [threading.Lock(), x]}, lambda x: {"_own": {"a": x}}):
        first, again, changed = (describe(Without(**hold(x))) for x in (one, copy.deepcopy(one), other))
        assert first == again
        assert first != changed


def test_private_settings_and_buffers_that_are_not_saved_are_part_of_a_model() -> None:
    assert describe(Without(1)) == describe(Without(1))
    assert describe(Without(1)) != describe(Without(3))
    assert describe(Without(mask=torch.zeros(2))) != describe(Without(mask=torch.ones(2)))
    one, other = (kd.live_teacher(Without(k), kd.supervised) for k in (1, 3))
    assert describe(one) != describe(other)


def test_settings_of_schedulers_samplers_and_batches_count() -> None:
    def scheduled(milestone: int) -> Any:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        parts = [torch.optim.lr_scheduler.ConstantLR(optimizer, factor) for factor in (0.1, 1.0)]
        return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[milestone])

    assert describe(scheduled(2)) == describe(scheduled(2))
    assert describe(scheduled(2)) != describe(scheduled(10))
    data = TensorDataset(torch.arange(8))
    drawn = [
        DataLoader(data, sampler=torch.utils.data.RandomSampler(data, replacement=True, num_samples=n)) for n in (4, 6)
    ]
    assert describe(drawn[0]) != describe(drawn[1])
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


def test_what_holds_itself_is_described_once() -> None:
    def recursive(n: int) -> int:
        return 0 if n == 0 else recursive(n - 1)

    assert describe(recursive) == describe(recursive)


def test_in_an_objective_around_another_settings_count() -> None:
    objectives = [in_bfloat16(Scaled(factor)) for factor in (1, 1, 2)]  # type: ignore[arg-type]
    assert describe(objectives[0]) == describe(objectives[1])
    assert describe(objectives[0]) != describe(objectives[2])
