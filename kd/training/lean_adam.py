"""torch's Adam without importing torch's compiler, by its internals.

torch wraps the methods of its optimizers to check whether they are being compiled. The first call imports the compiler:
164 MB and 1.2 s in every training process (benchmarks/start.py), although nothing is compiled here. This class uses the
unwrapped methods, which compute the same values.

tests/training/test_lean_adam.py fails if a newer torch changes these internals, and explains the remedy.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

# Methods taken from torch, and the class that defines each. torch's decorator keeps the original in ``__wrapped__``.
METHODS = {
    "add_param_group": torch.optim.Optimizer,
    "state_dict": torch.optim.Optimizer,
    "load_state_dict": torch.optim.Optimizer,
    "zero_grad": torch.optim.Optimizer,
    "step": torch.optim.Adam,
}
_STEP: Any = inspect.unwrap(torch.optim.Adam.step)


class LeanAdam(torch.optim.Adam):
    """``torch.optim.Adam``, bit for bit, without support for ``differentiable=True``."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():  # like the wrapper of step
            return _STEP(self, closure)
