"""Multiply-adds of matrix products, convolutions and attention, counted while a model runs.

PyTorch's own counter (``torch.utils.flop_counter``) misses attention on a CPU and imports torch.compile and triton,
which costs 165 MB and a second per run. Tests compare the two.
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
    """Context manager that counts the multiply-adds of forward and backward passes on any device.

    Attributes:
        total: multiply-adds so far.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        count = _COUNTS.get(getattr(func, "overloadpacket", func))
        self.total += count(args) if count else 0
        return output

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # otherwise torch imports its compiler just to exclude this class
        return False


def _count_product(first: int) -> Callable[[Sequence[Any]], int]:
    """Return a counter of products of [..., M, K] and [..., K, N], which are arguments ``first`` and ``first + 1``."""
    return lambda args: args[first].numel() * args[first + 1].shape[-1]


def _count_convolution(args: Sequence[Any]) -> int:
    """Count a convolution with arguments (inputs, weight, bias, stride, padding, dilation, transposed, …)."""
    inputs, weight, _, stride, padding, dilation, transposed = args[:7]
    if transposed:
        return int(inputs[:, 0].numel() * weight.numel())
    sizes = zip(inputs.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    pixels = math.prod((size + 2 * p - d * (side - 1) - 1) // s + 1 for size, side, s, p, d in sizes)
    return int(len(inputs) * pixels * weight.numel())


def _count_convolution_backward(args: Sequence[Any]) -> int:
    """Count a backward pass with arguments (gradient, inputs, weight, bias sizes, stride, …, mask).

    The gradients of inputs and weight, if requested by the mask, each cost the same as the forward pass.
    """
    mask: Sequence[bool] = args[-1]
    return _count_convolution([args[1], args[2], None, *args[4:8]]) * sum(mask[:2])


def _count_attention(first: int, *, of_keys: int, of_values: int) -> Callable[[Sequence[Any]], int]:
    """Return a counter of attention with queries [..., S, D], keys [..., T, D] and values [..., T, V].

    Args:
        first: position of the queries in the arguments, followed by keys and values.
        of_keys, of_values: number of matrix products of the size of queries × keys and of scores × values.
    """

    def count(args: Sequence[Any]) -> int:
        queries, keys, values = args[first : first + 3]
        return int(queries[..., 0].numel() * keys.shape[-2] * (of_keys * keys.shape[-1] + of_values * values.shape[-1]))

    return count


def _map_operations(
    names: Sequence[str], count: Callable[[Sequence[Any]], int]
) -> dict[Any, Callable[[Sequence[Any]], int]]:
    """Map operations to their counter; skip operations that the installed torch lacks."""
    return {getattr(_aten, name): count for name in names if hasattr(_aten, name)}


_KERNELS = [f"_scaled_dot_product_{kernel}_attention" for kernel in ("flash", "efficient", "cudnn")]
_COUNTS: Mapping[Any, Callable[[Sequence[Any]], int]] = {
    **_map_operations(["mm", "bmm", "_int_mm"], _count_product(0)),
    **_map_operations(["addmm", "baddbmm"], _count_product(1)),
    **_map_operations(["convolution", "_convolution"], _count_convolution),
    **_map_operations(["convolution_backward"], _count_convolution_backward),
    # Forward: scores and outputs. Backward: scores again, then gradients of scores, values, queries and keys.
    **_map_operations([*_KERNELS, f"{_KERNELS[0]}_for_cpu"], _count_attention(0, of_keys=1, of_values=1)),
    **_map_operations(
        [f"{name}_backward" for name in (*_KERNELS, f"{_KERNELS[0]}_for_cpu")],
        _count_attention(1, of_keys=3, of_values=2),
    ),
}


def training_multiply_adds(model: nn.Module, objective: Objective, batch: Batch) -> int:
    """Count the multiply-adds of the forward and backward pass on a batch, without the optimizer.

    The gradients stored in the model do not change.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = device_of(model)
    counter = MultiplyAdds()
    with evaluating(model), counter:
        _, terms = objective(model, tuple(tensor.to(device) for tensor in batch))
        if parameters:
            torch.autograd.grad(functools.reduce(operator.add, terms.values()), parameters, allow_unused=True)
    return counter.total


def count_multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Count the multiply-adds of one forward pass on a batch of examples."""
    counter = MultiplyAdds()
    with evaluating(model), torch.no_grad(), counter:
        model(example.to(device_of(model)))
    return counter.total
