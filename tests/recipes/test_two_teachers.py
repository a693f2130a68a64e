"""The recipe of two teachers: the lesson is the mean of both, rows in the images' order, and at toy size it runs."""

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


def test_the_target_is_the_mean_of_the_probabilities_at_its_temperature(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=200)
    with kd.seeded(0):
        first, second = MLP(4), MLP(4)
    taught = recipe["make_distill_dataset"](Ensemble([first, second], temperature=5), training)
    images = torch.stack([training[row][0] for row in (3, 50)])
    mean = (torch.softmax(first(images) / 5, dim=1) + torch.softmax(second(images) / 5, dim=1)) / 2
    assert torch.allclose(torch.softmax(taught.logits[[3, 50]] / 5, dim=1), mean, atol=1e-6)


def test_teachers_of_two_seeds_differ_and_of_one_do_not(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=100)
    one, again, other = (recipe["train_teacher"](training, seed=seed, epochs=1) for seed in (1, 1, 2))
    assert torch.equal(one.output.weight, again.output.weight)
    assert not torch.equal(one.output.weight, other.output.weight)


def test_at_toy_size_it_is_the_same_twice_and_with_alpha_1_the_control(recipe: dict[str, Any]) -> None:
    toy = {"pairs": 2, "epochs": 1, "limit": 200}
    found = recipe["main"](recipe["Settings"](**toy))
    assert {name: len(own) for name, own in found.items()} == {"labels": 2, "one teacher": 2, "two teachers": 2}
    assert recipe["main"](recipe["Settings"](**toy)) == found
    without = recipe["main"](recipe["Settings"](**toy, alpha=1.0))
    assert without["two teachers"] == without["one teacher"] == without["labels"] == found["labels"]
