"""What a model computes: the multiply-adds of its matrix products, convolutions and attention, counted as they run.

torch has a counter too (``torch.utils.flop_counter``). It leaves out attention on a CPU, and loads torch.compile and
triton: 165 MB and a second, at the end of every run. Tests hold this one against it.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kd.models.inference import device_of, evaluating
from kd.types import Batch, Objective

_aten = torch.ops.aten


class MultiplyAdds(TorchDispatchMode):
    """Counts inside its block, forward and backward, on any device.

    Attributes:
        total: so far.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        count = _COUNTS.get(getattr(func, "overloadpacket", func))
        self.total += count(args) if count else 0
        return answer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch would import its compiler to mark this class as not to be compiled
        return False


def _product(first: int) -> Callable[[Sequence[Any]], int]:
    """Of the matrices [..., M, K] and [..., K, N] that stand at this place of the arguments."""
    return lambda args: args[first].numel() * args[first + 1].shape[-1]


def _convolution(args: Sequence[Any]) -> int:
    """Of (inputs, weight, bias, stride, padding, dilation, transposed, …)."""
    inputs, weight, _, stride, padding, dilation, transposed = args[:7]
    if transposed:
        return int(inputs[:, 0].numel() * weight.numel())
    sizes = zip(inputs.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    pixels = math.prod((size + 2 * p - d * (side - 1) - 1) // s + 1 for size, side, s, p, d in sizes)
    return int(len(inputs) * pixels * weight.numel())


def _convolution_backward(args: Sequence[Any]) -> int:
    """Of (gradient, inputs, weight, bias sizes, stride, …, mask): as much for each of two gradients as forward."""
    mask: Sequence[bool] = args[-1]
    return _convolution([args[1], args[2], None, *args[4:8]]) * sum(mask[:2])


def _attention(first: int, *, of_keys: int, of_values: int) -> Callable[[Sequence[Any]], int]:
    """Of queries [..., S, D], keys [..., T, D] and values [..., T, V] that stand at this place, by products of each."""

    def count(args: Sequence[Any]) -> int:
        queries, keys, values = args[first : first + 3]
        return int(queries[..., 0].numel() * keys.shape[-2] * (of_keys * keys.shape[-1] + of_values * values.shape[-1]))

    return count


def _named(names: Sequence[str], count: Callable[[Sequence[Any]], int]) -> dict[Any, Callable[[Sequence[Any]], int]]:
    """For those of torch's operations that this version of it has."""
    return {getattr(_aten, name): count for name in names if hasattr(_aten, name)}


_KERNELS = [f"_scaled_dot_product_{kernel}_attention" for kernel in ("flash", "efficient", "cudnn")]
_COUNTS: Mapping[Any, Callable[[Sequence[Any]], int]] = {
    **_named(["mm", "bmm", "_int_mm"], _product(0)),
    **_named(["addmm", "baddbmm"], _product(1)),
    **_named(["convolution", "_convolution"], _convolution),
    **_named(["convolution_backward"], _convolution_backward),
    # Forward: scores and answers. Backward: scores once more, the gradients of scores and values, queries and keys.
    **_named([*_KERNELS, f"{_KERNELS[0]}_for_cpu"], _attention(0, of_keys=1, of_values=1)),
    **_named(
        [f"{name}_backward" for name in (*_KERNELS, f"{_KERNELS[0]}_for_cpu")], _attention(1, of_keys=3, of_values=2)
    ),
}


def training_multiply_adds(model: nn.Module, objective: Objective, batch: Batch) -> int:
    """Multiply-add operations of one training step on a batch, forward and backward; the optimizer's are not counted.

    The model's gradients are left as they were.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = device_of(model)
    counter = MultiplyAdds()
    with evaluating(model), counter:
        _, terms = objective(model, tuple(tensor.to(device) for tensor in batch))
        if trained:
            torch.autograd.grad(functools.reduce(operator.add, terms.values()), trained)
    return counter.total


def count_multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiply-add operations of one forward pass on a batch of examples: products, convolutions and attention."""
    counter = MultiplyAdds()
    with evaluating(model), torch.no_grad(), counter:
        model(example.to(device_of(model)))
    return counter.total
