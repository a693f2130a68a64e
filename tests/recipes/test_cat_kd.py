"""Recipe on class attention transfer: equivalent conversion, the map term, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kd
from kd.commands.trials import count_errors, train_copy
from kd.data.splits import stratified_split
from kd.evaluation.metrics import count_parameters
from kd.models.networks import CNN, MNIST_SHAPE
from tests.features_in_numpy import cat

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "cat_kd.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


@pytest.fixture(scope="module", name="batch")
def _batch() -> kd.Batch:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, *MNIST_SHAPE, generator=generator), torch.arange(12) % 10


def make_models(recipe: dict[str, Any]) -> tuple[Any, Any]:
    """Teacher and student."""
    with kd.seeded(3):
        return recipe["MapClassifier"](CNN(4, MNIST_SHAPE, 10)), recipe["MapClassifier"](CNN(2, MNIST_SHAPE, 10))


def test_a_converted_network_computes_the_same_function_with_as_many_parameters(
    recipe: dict[str, Any], batch: kd.Batch
) -> None:
    network = CNN(3, MNIST_SHAPE, 10).double().eval()
    converted = recipe["MapClassifier"](network).double().eval()
    assert torch.allclose(converted(batch[0].double()), network(batch[0].double()), atol=1e-12)
    assert count_parameters(converted) == count_parameters(network)
    assert converted.maps(converted.trunk(batch[0].double())).shape == (12, 10, 7, 7)


def test_the_map_term_matches_a_numpy_reference(recipe: dict[str, Any], batch: kd.Batch) -> None:
    teacher, student = (model.eval() for model in make_models(recipe))
    output, terms = recipe["cat_kd"](teacher, beta=3.0, side=2)(student, batch)
    with torch.no_grad():
        teacher_maps, student_maps = (
            model.maps(model.trunk(batch[0])).double().numpy() for model in (teacher, student)
        )
    assert list(terms) == ["hard", "maps"]
    assert terms["maps"].item() == pytest.approx(3 * cat(student_maps, teacher_maps), rel=1e-6)
    assert terms["hard"].item() == pytest.approx(nn.functional.cross_entropy(output, batch[1]).item())
    np.testing.assert_allclose(output.detach().numpy(), student_maps.mean(axis=(2, 3)), atol=1e-6)


def test_with_side_1_the_term_is_the_squared_difference_of_the_logits(recipe: dict[str, Any], batch: kd.Batch) -> None:
    teacher, student = (model.eval() for model in make_models(recipe))
    output, terms = recipe["cat_kd"](teacher, beta=1.0, side=1)(student, batch)
    assert terms["maps"].item() == pytest.approx((output - teacher(batch[0])).square().mean().item(), rel=1e-5)


def test_the_map_term_trains_the_student_and_not_the_teacher(recipe: dict[str, Any], batch: kd.Batch) -> None:
    teacher, student = make_models(recipe)
    before = [tensor.clone() for tensor in teacher.state_dict().values()]
    recipe["cat_kd"](teacher, beta=1.0, side=2)(student, batch)[1]["maps"].backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, teacher.state_dict().values(), strict=True))
    twin = recipe["cat_kd"](teacher, beta=1.0, side=2)(teacher, batch)[1]
    assert twin["maps"].item() == 0


def test_with_weight_0_the_student_equals_the_control(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=200)
    teacher, student = make_models(recipe)
    objectives = recipe["cat_kd"](teacher, beta=0.0, side=2), kd.supervised
    ends = [
        train_copy(student, objective, training, seed=0, epochs=1).state_dict().values() for objective in objectives
    ]
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def test_a_quick_run_is_reproducible_and_saves_the_evaluated_model(recipe: dict[str, Any], tmp_path: Path) -> None:
    quick = {"pairs": 2, "epochs": 1, "teacher_epochs": 1, "limit": 200, "teacher": 4, "student": 2}
    errors = recipe["main"](recipe["Settings"](**quick, out=tmp_path))
    assert {name: len(counts) for name, counts in errors.items()} == {"labels": 2, "kd": 2, "cat-kd": 2}
    assert recipe["main"](recipe["Settings"](**quick)) == errors
    saved = recipe["MapClassifier"](CNN(2, MNIST_SHAPE, 10))
    kd.load_weights(saved, tmp_path / "student.pth")
    _, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=200)
    assert count_errors(saved, held_back) == errors["cat-kd"][0]
