"""Multiply-adds match torch's FLOP counter, or explicit products for operations that it does not count."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kd.evaluation.multiply_adds import MultiplyAdds, training_multiply_adds
from kd.methods.objectives import supervised

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 3), (5, 7)),
    "linear on three dimensions": (lambda: nn.Linear(7, 3, bias=False), (2, 5, 7)),
    "convolution": (lambda: nn.Conv2d(2, 6, 3, padding=1), (4, 2, 9, 8)),
    "stride, dilation": (lambda: nn.Conv2d(2, 6, (3, 2), stride=2, dilation=(1, 3)), (4, 2, 9, 12)),
    "a line": (lambda: nn.Conv1d(3, 4, 5), (2, 3, 20)),
    "a volume": (lambda: nn.Conv3d(1, 4, 2), (2, 1, 5, 6, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 5, 3, stride=2), (2, 3, 6, 5)),
    "network": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)),
        (3, 1, 8, 8),
    ),
}


def count_with_both(work: Callable[[], object]) -> tuple[int, int]:
    """Return the counts of this project and of torch."""
    with MultiplyAdds() as counter:
        work()
    with FlopCounterMode(display=False) as torch_counter:
        work()
    return counter.total, torch_counter.get_total_flops() // 2


@pytest.mark.parametrize("name", MODELS)
def test_counts_match_the_counter_of_torch_forward_and_backward(name: str) -> None:
    make, shape = MODELS[name]
    model, inputs = make(), torch.randn(*shape, requires_grad=True)

    def step() -> None:
        model(inputs).sum().backward()

    forward, torch_forward = count_with_both(lambda: model(inputs))
    both, torch_both = count_with_both(step)
    assert forward == torch_forward > 0
    assert both == torch_both == 3 * forward


def test_a_parameter_that_is_not_used_costs_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(7, 3))
    batch = torch.rand(5, 7), torch.arange(5) % 3
    cost = training_multiply_adds(model, supervised, batch)
    model.register_parameter("unused", nn.Parameter(torch.ones(4)))
    assert training_multiply_adds(model, supervised, batch) == cost > 0


def test_each_gradient_of_a_grouped_convolution_costs_a_forward_pass() -> None:
    model, inputs = nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 8, 8, requires_grad=True)
    with MultiplyAdds() as forward:
        output = model(inputs)
    assert forward.total == 2 * 6 * 6 * 6 * (4 // 2) * 9
    with MultiplyAdds() as backward:
        output.sum().backward()
    assert backward.total == 2 * forward.total


def test_the_gradient_of_inputs_is_counted_only_if_needed() -> None:
    model, inputs = nn.Conv2d(1, 4, 3), torch.randn(2, 1, 8, 8)
    with MultiplyAdds() as counter:
        model(inputs).sum().backward()
    assert counter.total == 2 * (2 * 36 * 4 * 9)


def attend(queries: Tensor, keys: Tensor, values: Tensor, backend: SDPBackend) -> int:
    """Multiply-adds forward and backward."""
    with sdpa_kernel(backend), MultiplyAdds() as counter:
        F.scaled_dot_product_attention(queries, keys, values).sum().backward()
    return counter.total


def test_fused_attention_on_a_cpu_is_counted_like_explicit_products() -> None:
    shapes = (2, 3, 10, 8), (2, 3, 12, 8), (2, 3, 12, 8)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in shapes]
    scores = 2 * 3 * 10 * 12 * 8
    assert attend(*inputs, backend=SDPBackend.MATH) == 6 * scores  # two products, and two gradients of each
    assert attend(*inputs, backend=SDPBackend.FLASH_ATTENTION) == 7 * scores  # the scores are computed once more
    with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION), MultiplyAdds() as forward:
        F.scaled_dot_product_attention(*inputs)
    assert forward.total == 2 * scores


def test_elementwise_operations_are_free_and_blocks_add_up() -> None:
    one, torch_counter = torch.randn(3, 4), torch.randn(4, 5)
    with MultiplyAdds() as counter:
        one.relu() + one.sum()
        assert counter.total == 0
        one @ torch_counter
        assert counter.total == 60
        torch.baddbmm(torch.zeros(2, 3, 5), one.expand(2, 3, 4), torch_counter.expand(2, 4, 5))
    assert counter.total == 180


@pytest.mark.slow
def test_counting_does_not_import_the_compiler_of_torch() -> None:
    program = (
        "import sys, torch; from kd.evaluation.multiply_adds import count_multiply_adds; "
        "assert count_multiply_adds(torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 5, 5)) == 162; "
        "sys.exit(bool({'torch._dynamo', 'triton'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
