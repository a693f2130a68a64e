"""Recipe on two teachers: averaged targets, seeds of the teachers, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import kd
from kd.data.splits import stratified_split
from kd.models.networks import MLP
from kd.teachers.ensemble import Ensemble

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "two_teachers.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def test_the_target_is_the_mean_of_the_softened_probabilities(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=200)
    with kd.seeded(0):
        first, second = MLP(4), MLP(4)
    distill_set = recipe["make_distill_dataset"](Ensemble([first, second], temperature=5), training)
    images = torch.stack([training[row][0] for row in (3, 50)])
    mean = (torch.softmax(first(images) / 5, dim=1) + torch.softmax(second(images) / 5, dim=1)) / 2
    assert torch.allclose(torch.softmax(distill_set.logits[[3, 50]] / 5, dim=1), mean, atol=1e-6)


def test_the_seed_determines_the_teacher(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=100)
    first, repeated, different = (recipe["train_teacher"](training, seed=seed, epochs=1) for seed in (1, 1, 2))
    assert torch.equal(first.output.weight, repeated.output.weight)
    assert not torch.equal(first.output.weight, different.output.weight)


def test_a_quick_run_is_reproducible_and_equals_the_control_with_alpha_1(recipe: dict[str, Any]) -> None:
    quick = {"pairs": 2, "epochs": 1, "limit": 200}
    errors = recipe["main"](recipe["Settings"](**quick))
    assert {name: len(counts) for name, counts in errors.items()} == {"labels": 2, "one teacher": 2, "two teachers": 2}
    assert recipe["main"](recipe["Settings"](**quick)) == errors
    without = recipe["main"](recipe["Settings"](**quick, alpha=1.0))
    assert without["two teachers"] == without["one teacher"] == without["labels"] == errors["labels"]
