"""Run models without training them: predictions in the loader's order, eval mode inside a block, a model's device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd.storage.stopping import stop_if_requested


class Predictions(NamedTuple):
    """Logits [N, K] float32 and labels [N] int64, both on the CPU, in the order of the loader."""

    logits: Tensor
    labels: Tensor


def predict(model: nn.Module, loader: Iterable[Any], *, on_batch: Callable[[], None] | None = None) -> Predictions:
    """Logits and labels of every sample, in the loader's order, in eval mode without gradient."""
    device, logits, labels = device_of(model), _Rows(loader), _Rows(loader)
    with evaluating(model), torch.no_grad():
        for inputs, label, *_ in loader:
            logits.add(model(inputs.to(device)).float())
            labels.add(label)
            if on_batch:
                on_batch()
            stop_if_requested()
    if not logits.filled:
        raise ValueError("the loader yields no batch: there is nothing to predict on.")
    return Predictions(logits.tensor(), labels.tensor())


class _Rows:
    """Batches put one below the other on the CPU, in a tensor made for all of them at the first.

    A list of small tensors, concatenated in the end, takes the memory twice; worse, each of them comes to lie between
    two large batches, whose memory then is in pieces: 2.7 kB for an image's ten logits (benchmarks/growth.py).
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        sampler = loader.sampler if isinstance(loader, DataLoader) else None
        self._expected = len(sampler) if isinstance(sampler, Sized) else 0  # a guess: the tensor grows where it fails
        self._all: Tensor | None = None
        self.filled = 0

    def add(self, batch: Tensor) -> None:
        end = self.filled + len(batch)
        if self._all is None or end > len(self._all):
            self._make_room(max(end, self._expected, 2 * self.filled), batch)
        self._all[self.filled : end] = batch  # type: ignore[index]  # made just now, if not before
        self.filled = end

    def _make_room(self, rows: int, like: Tensor) -> None:
        earlier, self._all = self._all, torch.empty(rows, *like.shape[1:], dtype=like.dtype)
        if earlier is not None:
            self._all[: self.filled] = earlier[: self.filled]

    def tensor(self) -> Tensor:
        assert self._all is not None
        return self._all if self.filled == len(self._all) else self._all[: self.filled].clone()


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule is back in the mode it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
