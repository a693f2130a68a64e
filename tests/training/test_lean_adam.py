"""``LeanAdam`` is bit-identical to torch's Adam; these tests fail if torch changes the internals it relies on."""

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

REMEDY = (
    f"torch {torch.__version__} has changed {{change}}, which kd/training/lean_adam.py relies on. Read its docstring "
    "and torch/optim/optimizer.py. If torch's own Adam no longer imports torch._dynamo, delete the module and use "
    "torch.optim.Adam in kd/training/optimizers.py. Otherwise adapt the method, or remove it from the class; python "
    "benchmarks/start.py measures the cost. Then correct this test."
)
PARAMETERS = {
    "add_param_group": ["self", "param_group"],
    "state_dict": ["self"],
    "load_state_dict": ["self", "state_dict"],
    "zero_grad": ["self", "set_to_none"],
    "step": ["self", "closure"],
}


@pytest.mark.parametrize("name", METHODS)
def test_the_method_is_still_wrapped_and_has_the_same_arguments(name: str) -> None:
    method: Any = getattr(METHODS[name], name)
    inner = inspect.unwrap(method)
    remedy = REMEDY.format(change=f"{METHODS[name].__name__}.{name}")
    assert inner is not method, remedy
    assert (inner.__name__, inner.__module__.rpartition(".")[0]) == (name, "torch.optim"), remedy
    assert [*inspect.signature(inner).parameters] == PARAMETERS[name], remedy
    assert "_dynamo" not in inner.__code__.co_names, remedy


def _train(optimizer_class: Any, steps: int, **settings: Any) -> tuple[MLP, torch.optim.Optimizer]:
    """Train a small network, with a round trip of the optimizer's state halfway."""
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
def test_steps_are_bit_identical_to_torchs_adam(settings: dict[str, Any]) -> None:
    (lean_model, lean), (plain_model, plain) = (_train(kind, 10, **settings) for kind in (LeanAdam, torch.optim.Adam))
    remedy = REMEDY.format(change="the computation of an Adam step")
    assert all(torch.equal(a, b) for a, b in zip(lean_model.parameters(), plain_model.parameters(), strict=True)), (
        remedy
    )
    lean_state, plain_state = lean.state_dict(), plain.state_dict()
    assert lean_state["param_groups"] == plain_state["param_groups"], remedy
    for number, moments in plain_state["state"].items():
        assert lean_state["state"][number].keys() == moments.keys(), remedy
        assert all(torch.equal(lean_state["state"][number][name], m) for name, m in moments.items()), remedy


@pytest.mark.slow
def test_torchs_own_adam_still_imports_the_compiler() -> None:
    program = """
import sys, torch
optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
optimizer.step()
sys.exit("torch._dynamo" not in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == 0, REMEDY.format(change="when its optimizers import the compiler")
