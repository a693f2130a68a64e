"""Recipe on a hint: gradients of projector and student, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import kd
from kd.models.networks import CNN, MNIST_SHAPE, ConvNet

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "feature_projector.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


@pytest.fixture(name="batch")
def _batch() -> kd.Batch:
    with kd.seeded(0):
        return torch.randn(6, *MNIST_SHAPE), torch.arange(6)


def make_models(recipe: dict[str, Any], images: torch.Tensor, weight: float = 1.0) -> tuple[CNN, ConvNet, Any]:
    with kd.seeded(0):
        student, teacher = CNN(2, MNIST_SHAPE, 10), ConvNet()
        return student, teacher, recipe["Hint"](student, teacher, images, weight=weight)


def test_the_hint_has_gradients_for_projector_and_lower_layers_only(recipe: dict[str, Any], batch: kd.Batch) -> None:
    student, teacher, hint = make_models(recipe, batch[0])
    before = [tensor.clone() for tensor in teacher.state_dict().values()]
    _, terms = hint(student, batch)
    terms["hint"].backward()
    assert hint.projector.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in student.layer2.parameters())
    assert all(parameter.grad is None for parameter in [*student.layer3.parameters(), *teacher.parameters()])
    assert all(torch.equal(*pair) for pair in zip(before, teacher.state_dict().values(), strict=True))


def test_the_projector_is_trained_by_the_optimizer_and_the_teacher_is_not(
    recipe: dict[str, Any], batch: kd.Batch
) -> None:
    _, _, hint = make_models(recipe, batch[0])
    assert [name for name, _ in hint.named_parameters()] == ["projector.weight", "projector.bias"]


def test_the_hint_is_zero_if_projected_and_teacher_maps_are_equal(recipe: dict[str, Any], batch: kd.Batch) -> None:
    student, teacher, hint = make_models(recipe, batch[0])
    teacher.norm2.weight.data.zero_()  # so the teacher's maps are its norm's bias, whatever the image
    teacher.norm2.bias.data.fill_(0.5)
    hint.projector.weight.data.zero_()
    hint.projector.bias.data.fill_(0.5)
    assert hint(student, batch)[1]["hint"].item() == 0
    hint.projector.bias.data.fill_(1.5)
    assert hint(student, batch)[1]["hint"].item() == pytest.approx(1)


def test_a_quick_run_is_reproducible_and_equals_the_control_with_weight_0(recipe: dict[str, Any]) -> None:
    quick = {"pairs": 2, "epochs": 1, "limit": 200}
    errors = recipe["main"](recipe["Settings"](**quick))
    assert {name: len(counts) for name, counts in errors.items()} == {"labels": 2, "hint": 2}
    assert recipe["main"](recipe["Settings"](**quick)) == errors
    unweighted = recipe["main"](recipe["Settings"](**quick, weight=0))
    assert unweighted["hint"] == unweighted["labels"] == errors["labels"]
