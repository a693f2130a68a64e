"""Recipe on the reused classifier: loss, gradients, costs of the composite, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import kd
from kd.commands.trials import count_errors, train_copy
from kd.data.splits import stratified_split
from kd.models.networks import CNN, MNIST_SHAPE

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "simkd.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


@pytest.fixture(scope="module", name="batch")
def _batch() -> kd.Batch:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, *MNIST_SHAPE, generator=generator), torch.arange(12) % 10


def make_models(recipe: dict[str, Any]) -> tuple[CNN, CNN, Any]:
    """Teacher, plain student and composite."""
    with kd.seeded(3):
        teacher, student = CNN(8, MNIST_SHAPE, 10), CNN(2, MNIST_SHAPE, 10)
        return teacher.eval(), student, recipe["Composite"](student, teacher, reduction=2)


def last_maps(network: CNN, images: Tensor) -> Tensor:
    return network.layer3(network.layer2(network.layer1(images)))  # type: ignore[no-any-return]


def test_the_loss_is_the_mean_squared_difference_of_the_maps(recipe: dict[str, Any], batch: kd.Batch) -> None:
    teacher, _, composite = make_models(recipe)
    composite.eval()
    _, terms = recipe["simkd"](teacher)(composite, batch)
    with torch.no_grad():
        projected, teacher_maps = composite.projector(composite.trunk(batch[0])), last_maps(teacher, batch[0])
    written = np.mean((projected.double().numpy() - teacher_maps.double().numpy()) ** 2)
    assert list(terms) == ["feature"]
    assert terms["feature"].item() == pytest.approx(written, rel=1e-6)


def test_with_the_teachers_maps_the_composite_has_the_teachers_logits(recipe: dict[str, Any], batch: kd.Batch) -> None:
    teacher, _, composite = make_models(recipe)
    composite.trunk, composite.projector = nn.Sequential(teacher.layer1, teacher.layer2, teacher.layer3), nn.Identity()
    output, terms = recipe["simkd"](teacher)(composite.eval(), batch)
    assert torch.equal(output, teacher(batch[0]))
    assert terms["feature"].item() == 0


def test_projector_and_trunk_have_gradients_and_classifier_and_teacher_none(
    recipe: dict[str, Any], batch: kd.Batch
) -> None:
    teacher, _, composite = make_models(recipe)
    recipe["simkd"](teacher)(composite, batch)[1]["feature"].backward()
    for name, parameter in composite.named_parameters():
        assert (parameter.grad is None) == name.startswith("classifier"), name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_labels_have_no_effect_and_the_classifier_is_unchanged(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=200)
    images = torch.stack([training[i][0] for i in range(len(training))])
    teacher, _, composite = make_models(recipe)
    before = [tensor.clone() for tensor in teacher.state_dict().values()]
    labels = torch.arange(len(images)) % 10
    ends = [
        train_copy(composite, recipe["simkd"](teacher), TensorDataset(images, targets), seed=0, epochs=1)
        for targets in (labels, labels.flip(0))
    ]
    assert all(torch.equal(*pair) for pair in zip(*(end.state_dict().values() for end in ends), strict=True))
    assert torch.equal(ends[0].classifier.weight, teacher.output.weight)
    assert not torch.equal(ends[0].trunk[0][0].weight, composite.trunk[0][0].weight)
    assert all(torch.equal(*pair) for pair in zip(before, teacher.state_dict().values(), strict=True))


def test_costs_include_projector_and_classifier(recipe: dict[str, Any], batch: kd.Batch) -> None:
    _, student, composite = make_models(recipe)
    costs = recipe["format_costs"]({"plain": student, "composite": composite}, batch[0][:1])
    projector = 8 * 16 + 16 * 16 * 9 + 16 * 32  # weights; one multiply-add each at each of 7 × 7 pixels
    trunk = 9 * 2 + 2 * 4 * 9 + 4 * 8 * 9
    norms = 2 * (2 + 4 + 8)
    assert costs["plain"][0] == f"{trunk + norms + 8 * 10 + 10:,}"
    assert costs["composite"][0] == f"{trunk + norms + projector + 2 * (16 + 16 + 32) + 32 * 10 + 10:,}"
    at_each_stage = 9 * 2 * 28**2 + 2 * 4 * 9 * 14**2 + 4 * 8 * 9 * 7**2
    assert costs["plain"][1] == f"{at_each_stage + 80:,}"
    assert costs["composite"][1] == f"{at_each_stage + projector * 49 + 320:,}"


def test_a_quick_run_is_reproducible_and_saves_the_evaluated_model(recipe: dict[str, Any], tmp_path: Path) -> None:
    quick = {"pairs": 2, "epochs": 1, "teacher_epochs": 1, "limit": 200, "teacher": 4, "student": 2}
    errors = recipe["main"](recipe["Settings"](**quick, out=tmp_path))
    assert {name: len(counts) for name, counts in errors.items()} == {
        "labels": 2,
        "kd": 2,
        "composite on labels": 2,
        "simkd": 2,
    }
    assert recipe["main"](recipe["Settings"](**quick)) == errors
    saved = recipe["Composite"](CNN(2, MNIST_SHAPE, 10), CNN(4, MNIST_SHAPE, 10), reduction=2)
    kd.load_weights(saved, tmp_path / "composite.pth")
    _, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=200)
    assert count_errors(saved, held_back) == errors["simkd"][0]
