"""Inference: predictions in the loader's order, eval mode inside a block, and the device of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd.checks import require_finite_logits
from kd.losses.labels import to_int64
from kd.losses.precision import widen
from kd.models.main_output import take_logits
from kd.storage.stopping import stop_if_requested
from kd.types import UNLABELLED


class Predictions(NamedTuple):
    """Logits [N, K] float32 (float64 of a float64 model) and labels [N] int64, on the CPU, in the loader's order."""

    logits: Tensor
    labels: Tensor

    @property
    def wrong(self) -> Tensor:
        """Mask [N] bool of the samples that are classified wrongly."""
        return self.logits.argmax(dim=1) != self.labels

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Predictions:
        """Return predictions saved by ``_asdict``; raise ``ValueError`` if they are not finite or not of this form."""
        predictions = cls(**state)
        if not all(isinstance(value, Tensor) for value in predictions):
            raise ValueError("predictions must be tensors")
        logits, labels = predictions
        kinds = (logits.ndim, labels.is_floating_point(), list(labels.shape))
        if logits.dtype not in (torch.float32, torch.float64) or kinds != (2, False, [len(logits)]):
            raise ValueError("predictions must be logits [N, K] float32 or float64 and integer labels [N]")
        require_finite_logits("saved logits", logits, "")
        if bool(((labels < UNLABELLED) | (labels >= logits.shape[1])).any()):
            raise ValueError(f"labels must be within −1 … {logits.shape[1] - 1}")
        return predictions


def find_differing_rows(live: Tensor, saved: Tensor) -> list[int]:
    """Return the rows of finite logits [R, K] that differ by more than rounding, for the same samples and model.

    Another batch size changes the order of summation, and a GPU may use TF32. A tolerance of 1 % of the largest logit
    covers both and is far below the distance between the logits of two images.
    """
    tolerance = 0.01 * float(live.abs().max())
    rows: list[int] = ((live - saved).abs().amax(dim=1) > tolerance).nonzero().flatten().tolist()
    return rows


def predict(model: nn.Module, loader: Iterable[Any], *, on_batch: Callable[[], None] | None = None) -> Predictions:
    """Return logits and labels of all samples in the loader's order. The model runs in eval mode without gradients.

    Args:
        on_batch: called after each batch, for a progress bar.

    Raises:
        ValueError: the loader yields no batch.
    """
    device, logits, labels = device_of(model), _RowBuffer(loader), _RowBuffer(loader)
    with evaluating(model), torch.no_grad():
        for inputs, label, *_ in map(require_pair, loader):
            logits.add(widen(take_logits(model(move_inputs(inputs, loader, device)))))
            labels.add(to_int64(label))
            if on_batch:
                on_batch()
            stop_if_requested()
    if not logits.filled:
        raise ValueError("the loader yields no batch, so there is nothing to predict. Pass a non-empty dataset.")
    return Predictions(logits.tensor(), labels.tensor())


def run_on_copy(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the model's logits for a copy of the inputs. A model that changes its inputs in place would otherwise
    change what the next model sees.
    """
    return take_logits(model(inputs.clone()))


def require_pair(batch: Any) -> Any:
    """Return a batch of a loader; raise ``ValueError`` unless it is (inputs, labels, …), with one tensor of inputs."""
    if isinstance(batch, Mapping):
        raise ValueError(
            f"a batch must be (inputs, labels, …). Got a dictionary with {', '.join(map(str, batch))}. Let the dataset "
            "return (input, label), or pass a loader whose collate_fn does."
        )
    inputs = batch[0]
    if not hasattr(inputs, "to"):
        several = f" of {len(inputs)}" if isinstance(inputs, (list, tuple, Mapping)) else ""
        raise ValueError(
            f"the inputs of a batch must be one tensor [B, …]. Got a {type(inputs).__name__}{several}. Pack several "
            "inputs into one tensor, and take it apart in the forward of the model."
        )
    return batch


def move_inputs(inputs: Any, loader: Iterable[Any], device: torch.device) -> Any:
    """Return the inputs of a batch of the loader on the device, in memory that a model may change in place.

    A ``DataLoader`` that stacks samples yields new tensors. Other iterables may yield the same tensor again, such as a
    list, or views of the data; these inputs are copied.
    """
    is_new = (
        isinstance(loader, DataLoader)
        and loader.batch_sampler is not None
        and getattr(loader.collate_fn, "__module__", "").startswith(("torch.", "kd."))  # a user's may return views
    )
    return inputs.to(device, non_blocking=True, **({} if is_new else {"copy": True}))


class _RowBuffer:
    """Concatenated batches on the CPU, in one tensor that is allocated with the first batch.

    Concatenating a list of small tensors at the end would need twice the memory. The small tensors would also fragment
    the memory that the large input batches free: 2.7 kB per image with ten logits (benchmarks/growth.py).
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        sampler = loader.sampler if isinstance(loader, DataLoader) else None
        self._expected = len(sampler) if isinstance(sampler, Sized) else 0  # an estimate; the tensor grows if too small
        self._all: Tensor | None = None
        self.filled = 0

    def add(self, batch: Tensor) -> None:
        end = self.filled + len(batch)
        if self._all is None or end > len(self._all):
            self._allocate(max(end, self._expected, 2 * self.filled), batch)
        self._all[self.filled : end] = batch  # type: ignore[index]  # allocated above
        self.filled = end

    def _allocate(self, rows: int, like: Tensor) -> None:
        old, self._all = self._all, torch.empty(rows, *like.shape[1:], dtype=like.dtype)
        if old is not None:
            self._all[: self.filled] = old[: self.filled]

    def tensor(self) -> Tensor:
        assert self._all is not None
        return self._all if self.filled == len(self._all) else self._all[: self.filled].clone()


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Set models to eval mode inside the block and restore the mode of every submodule afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def running_hooks(model: nn.Module) -> Iterator[None]:
    """Let all hooks of layers run inside the block: what ``torch.compile`` has compiled skips hooks that came later, so
    such modules run uncompiled.
    """
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):  # imports the compiler
            yield
    else:
        yield


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter, or the CPU if the model has no parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
