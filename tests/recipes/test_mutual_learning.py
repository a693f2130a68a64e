"""Recipe on mutual learning: separate gradients, independent controls, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import kd
from kd.commands.trials import train_copy
from kd.data.splits import stratified_split
from kd.models.networks import MLP

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "mutual_learning.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def peers(recipe: dict[str, Any]) -> Any:
    with kd.seeded(0):
        return recipe["Peers"](MLP(8), MLP(8))


def test_each_student_gets_gradients_of_its_own_divergence_only(recipe: dict[str, Any]) -> None:
    both, batch = peers(recipe), (torch.randn(6, 1, 28, 28), torch.arange(6))
    _, terms = recipe["mutual"](weight=1.0)(both, batch)
    gradients = torch.autograd.grad(terms["mutual"], list(both.students[0].parameters()))
    first, second = (student(batch[0]) for student in both.students)
    divergence = F.kl_div(
        F.log_softmax(first, 1), F.log_softmax(second, 1).detach(), reduction="batchmean", log_target=True
    )
    expected = torch.autograd.grad(divergence, list(both.students[0].parameters()))
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(gradients, expected, strict=True))


def test_with_weight_0_each_student_equals_one_trained_alone(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=200)
    both = peers(recipe)
    together = train_copy(both, recipe["mutual"](weight=0), training, seed=0, epochs=1)
    for start, done in zip(both.students, together.students, strict=True):
        alone = train_copy(start, kd.supervised, training, seed=0, epochs=1)
        assert torch.allclose(alone.hidden.weight, done.hidden.weight, atol=1e-6)


def test_a_quick_run_is_reproducible_and_equals_the_control_with_weight_0(recipe: dict[str, Any]) -> None:
    quick = {"pairs": 2, "epochs": 1, "limit": 200}
    errors = recipe["main"](recipe["Settings"](**quick))
    assert {name: len(counts) for name, counts in errors.items()} == {"alone": 2, "mutual": 2}
    assert recipe["main"](recipe["Settings"](**quick)) == errors
    without = recipe["main"](recipe["Settings"](**quick, weight=0.0))
    assert without["mutual"] == without["alone"] == errors["alone"]
