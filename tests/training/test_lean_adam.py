"""The Adam that leaves torch's compiler alone: the same bits as torch's own, and loud where torch has changed."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kd.models.networks import MLP
from kd.seeding import seeded
from kd.training.lean_adam import METHODS, LeanAdam

WHAT_TO_DO = (
    f"torch {torch.__version__} has changed {{what}}, on which kd/training/lean_adam.py leans. Read its docstring and "
    "torch/optim/optimizer.py. If torch's own Adam no longer imports torch._dynamo, delete the module and use "
    "torch.optim.Adam in kd/training/optimizers.py. Otherwise take the method as it is now, or leave it out of the "
    "class; python benchmarks/start.py measures what that costs. Then correct this test."
)
PARAMETERS = {
    "add_param_group": ["self", "param_group"],
    "state_dict": ["self"],
    "load_state_dict": ["self", "state_dict"],
    "zero_grad": ["self", "set_to_none"],
    "step": ["self", "closure"],
}


@pytest.mark.parametrize("name", METHODS)
def test_the_method_is_still_wrapped_and_has_the_arguments_it_had(name: str) -> None:
    method: Any = getattr(METHODS[name], name)
    inner = inspect.unwrap(method)
    told = WHAT_TO_DO.format(what=f"{METHODS[name].__name__}.{name}")
    assert inner is not method, told
    assert (inner.__name__, inner.__module__.rpartition(".")[0]) == (name, "torch.optim"), told
    assert [*inspect.signature(inner).parameters] == PARAMETERS[name], told
    assert "_dynamo" not in inner.__code__.co_names, told


def _trained(optimizer_class: Any, steps: int, **settings: Any) -> tuple[MLP, torch.optim.Optimizer]:
    """A small network after some steps, of which the second half follows a round trip of the optimizer's state."""
    with seeded(0):
        model = MLP(8)
        batches = [(torch.randn(16, 1, 28, 28), torch.randint(10, (16,))) for _ in range(steps)]
    optimizer = optimizer_class(model.hidden.parameters(), lr=1e-2, **settings)
    optimizer.add_param_group({"params": [p for p in model.parameters() if p not in {*model.hidden.parameters()}]})
    for number, (images, labels) in enumerate(batches):
        if number == steps // 2:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("settings", [{"fused": True}, {"foreach": True}, {"foreach": False}, {"weight_decay": 0.1}])
def test_its_steps_are_those_of_torchs_adam_bit_for_bit(settings: dict[str, Any]) -> None:
    (ours, lean), (theirs, plain) = (_trained(kind, 10, **settings) for kind in (LeanAdam, torch.optim.Adam))
    told = WHAT_TO_DO.format(what="what a step of Adam does")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)), told
    one, other = lean.state_dict(), plain.state_dict()
    assert one["param_groups"] == other["param_groups"], told
    for number, moments in other["state"].items():
        assert one["state"][number].keys() == moments.keys(), told
        assert all(torch.equal(one["state"][number][name], moment) for name, moment in moments.items()), told


@pytest.mark.slow
def test_torchs_own_adam_still_imports_the_compiler() -> None:
    program = """
import sys, torch
optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
optimizer.step()
sys.exit("torch._dynamo" not in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == 0, WHAT_TO_DO.format(what="when its optimizers import the compiler")
