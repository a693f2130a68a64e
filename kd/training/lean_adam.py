"""torch's Adam without torch's compiler: the one place that leans on what torch does not promise.

torch wraps methods of its optimizers so that they ask torch.compile whether they are being compiled, and to ask they
import the compiler when they are first called: 164 MB and 1.2 s in every process that trains, though nothing is
compiled here (benchmarks/start.py). The wrapped methods are taken out of their wrappers; what they do is the same.

tests/training/test_lean_adam.py fails where a newer torch has changed any of it, and says what to do.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

# What it takes from torch: each method is wrapped by a decorator that leaves it in ``__wrapped__``.
METHODS = {
    "add_param_group": torch.optim.Optimizer,
    "state_dict": torch.optim.Optimizer,
    "load_state_dict": torch.optim.Optimizer,
    "zero_grad": torch.optim.Optimizer,
    "step": torch.optim.Adam,
}
_STEP: Any = inspect.unwrap(torch.optim.Adam.step)


class LeanAdam(torch.optim.Adam):
    """``torch.optim.Adam``, bit for bit, but not differentiable itself (``differentiable=True``)."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():  # as step's wrapper does
            return _STEP(self, closure)
