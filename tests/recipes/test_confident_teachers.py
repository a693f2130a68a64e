"""Recipe on confident teachers: weights, gradients, wrong labels, and a quick run."""

from __future__ import annotations

import functools
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import kd
from kd.data.splits import stratified_split
from kd.models.networks import CNN, MNIST_SHAPE, ConvNet

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "confident_teachers.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def batch(items: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(items, *MNIST_SHAPE, generator=generator), torch.arange(items)


def networks(count: int) -> list[ConvNet]:
    with kd.seeded(0):
        return [ConvNet() for _ in range(count)]


def test_divergences_and_map_distances_are_weighted_per_image(recipe: dict[str, Any]) -> None:
    teachers, (images, labels) = networks(2), batch()
    objective = recipe["WeightedTeachers"](teachers, temperature=4.0, weight=50.0, equal_weights=False)
    with kd.seeded(1):
        student = CNN(8, MNIST_SHAPE, 10)
    output, terms = objective(student, (images, labels))
    logits = [teacher(images).detach() for teacher in teachers]
    cross_entropies = torch.stack([F.cross_entropy(values, labels, reduction="none") for values in logits])
    weights = 1 - cross_entropies.softmax(dim=0)
    expected = sum(
        (values[row] * kd.kd_loss(output[row : row + 1], predictions[row : row + 1], temperature=4)).item()
        for values, predictions in zip(weights, logits, strict=True)
        for row in range(len(labels))
    ) / (2 * len(labels))
    assert terms["soft"].item() == pytest.approx(expected, rel=1e-4)
    with torch.no_grad(), kd.capture(student, "layer3") as student_maps:
        student(images)
    pooled, distances, map_entropies = F.adaptive_avg_pool2d(student_maps["layer3"], (2, 2)), [], []
    for teacher, project in zip(teachers, objective.projectors, strict=True):
        with torch.no_grad(), kd.capture(teacher, "norm3") as teacher_maps:
            teacher(images)
            values = project(pooled)
            distances.append((values - teacher_maps["norm3"]).square().mean(dim=(1, 2, 3)))
            # The hook replaces the teacher's maps by the student's, so the teacher's classifier is applied to these.
            handle = teacher.norm3.register_forward_hook(lambda *_, values=values: values)
            map_entropies.append(F.cross_entropy(teacher(images), labels, reduction="none"))
            handle.remove()
    weights = 1 - torch.stack(map_entropies).softmax(dim=0)
    assert terms["maps"].item() == pytest.approx(
        50 * (weights * torch.stack(distances)).sum(dim=0).mean().item() / 2, rel=1e-4
    )
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.abs().sum() > 0) for p in objective.projectors.parameters())
    assert all(p.grad is None for teacher in teachers for p in teacher.parameters())


def test_identical_teachers_get_equal_weights(recipe: dict[str, Any]) -> None:
    (teacher,), samples = networks(1), batch()
    with kd.seeded(1):
        student = CNN(8, MNIST_SHAPE, 10).eval()
    make_objective = functools.partial(recipe["WeightedTeachers"], [teacher] * 3, temperature=4.0, weight=50.0)
    objectives = [make_objective(equal_weights=equal_weights) for equal_weights in (True, False)]
    for objective in objectives:
        for projector in objective.projectors:
            projector.load_state_dict(objective.projectors[0].state_dict())
    (_, first), (_, second) = (objective(student, samples) for objective in objectives)
    assert all(first[name].item() == pytest.approx(second[name].item(), rel=1e-5) for name in first)


def test_corrupt_labels_replaces_this_share_of_the_labels(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=1000)
    images, labels = recipe["corrupt_labels"](training, 0.3).tensors
    true_labels = torch.tensor([int(training[row][1]) for row in range(len(training))])
    assert (labels != true_labels).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(images[17], training[17][0])
    assert torch.equal(recipe["corrupt_labels"](training, 0.0).tensors[1], true_labels)


def test_a_quick_run_is_reproducible(recipe: dict[str, Any]) -> None:
    quick = recipe["Settings"](pairs=2, epochs=1, limit=200)
    errors = recipe["main"](quick)
    assert {name: len(counts) for name, counts in errors.items()} == {
        "labels": 2,
        "equal weights": 2,
        "by confidence": 2,
    }
    assert recipe["main"](quick) == errors
