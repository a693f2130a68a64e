"""Recipe without data: terms and their gradients, no use of real images, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import kd
from kd.commands.trials import train_copy
from kd.models.features import capture
from kd.models.networks import MLP, MNIST_SHAPE, ConvNet
from tests.methods_in_numpy import kl, softmax

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "data_free.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def make_models(recipe: dict[str, Any], **changes: Any) -> tuple[ConvNet, MLP, Any, kd.Batch]:
    """Return a teacher, a student, the objective and a batch of noise."""
    with kd.seeded(3):
        teacher, student = ConvNet(), MLP(8)
        objective = recipe["DataFree"](teacher, recipe["Settings"](**changes))
        return teacher, student, objective, (torch.randn(12, 100), torch.full((12,), -1))


def test_generated_images_have_shape_mean_and_deviation_of_the_data(recipe: dict[str, Any]) -> None:
    _, _, objective, (noise, _) = make_models(recipe)
    images = objective.generator(noise)
    assert images.shape == (12, *MNIST_SHAPE)
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-2)


def test_the_terms_match_their_formulas(recipe: dict[str, Any]) -> None:
    teacher, student, objective, batch = make_models(recipe, activation=0.3, balance=2.0, temperature=4.0)
    for model in (teacher.eval(), student, objective.eval(), objective.teacher[0]):
        model.double()
    batch = batch[0].double(), batch[1]
    output, terms = objective(student, batch)
    with torch.no_grad(), capture(teacher, "output:input") as errors:
        predictions = teacher(objective.generator(batch[0])).numpy()
    p = np.array([softmax(row) for row in predictions])
    lesson = [kl(softmax(t, 4.0), softmax(s, 4.0)) for t, s in zip(predictions, output.detach().numpy(), strict=True)]
    written = {
        "sure": -np.mean(np.log(p.max(axis=1))),
        "activation": -0.3 * np.mean(np.abs(errors["output:input"].numpy())),
        "balance": 2.0 * np.sum(p.mean(axis=0) * np.log10(p.mean(axis=0))),
        "soft": 16 * np.mean(lesson),
    }
    assert list(terms) == list(written)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(written, rel=1e-6)


def test_the_terms_are_finite_if_a_class_never_occurs(recipe: dict[str, Any]) -> None:
    _, student, objective, batch = make_models(recipe)
    with torch.no_grad():
        objective.teacher[0].output.weight *= 1e4
    _, terms = objective(student, batch)
    assert all(bool(term.isfinite()) for term in terms.values())
    terms["balance"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in objective.generator.parameters() if p.grad is not None)


@pytest.mark.parametrize("term", ["sure", "activation", "balance"])
def test_generator_terms_have_gradients_for_the_generator_only(recipe: dict[str, Any], term: str) -> None:
    teacher, student, objective, batch = make_models(recipe)
    objective(student, batch)[1][term].backward()
    assert objective.generator[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in [*student.parameters(), *teacher.parameters()])
    assert all(parameter.grad is None for parameter in objective.teacher[0].parameters())


def test_the_distillation_loss_has_gradients_for_the_student_only(recipe: dict[str, Any]) -> None:
    _, student, objective, batch = make_models(recipe)
    objective(student, batch)[1]["soft"].backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_training_changes_the_generator_and_not_the_teacher(recipe: dict[str, Any]) -> None:
    teacher, student, objective, batch = make_models(recipe)
    asked = objective.teacher[0]
    before, norms = kd.weights_bytes(teacher), kd.weights_bytes(asked)
    start = objective.generator[0].weight.clone()
    train_copy(student, objective, TensorDataset(*batch), seed=0, epochs=2, batch_size=6)
    assert not torch.equal(objective.generator[0].weight, start)
    assert (kd.weights_bytes(teacher), kd.weights_bytes(asked)) == (before, norms)
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert not list(filter(lambda name: "teacher" in name, dict(objective.named_parameters())))


def test_real_images_are_not_read(recipe: dict[str, Any]) -> None:
    """Entries of a batch after the noise have no effect on the terms."""
    _, student, objective, (noise, _) = make_models(recipe)
    objective.eval()
    plain = objective(student, (noise,))[1]
    labelled = objective(student, (noise, torch.arange(12) % 10, torch.randn(12, *MNIST_SHAPE)))[1]
    assert all(torch.equal(plain[name], labelled[name]) for name in plain)


@pytest.mark.slow
def test_a_quick_run_is_reproducible(recipe: dict[str, Any]) -> None:
    quick = {"pairs": 2, "steps": 3, "teacher_epochs": 1, "limit": 200}
    errors = recipe["main"](recipe["Settings"](**quick))
    assert {name: len(counts) for name, counts in errors.items()} == {"real": 2, "noise": 2, "data-free": 2}
    assert recipe["main"](recipe["Settings"](**quick)) == errors
