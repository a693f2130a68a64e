"""The recipe of confident teachers: whose answers count, what is trained, and that it runs at toy size."""

from __future__ import annotations

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


def test_weighed_are_divergences_and_maps_image_by_image(recipe: dict[str, Any]) -> None:
    teachers, (images, labels) = networks(2), batch()
    objective = recipe["WeightedTeachers"](teachers, temperature=4.0, weight=50.0, alike=False)
    with kd.seeded(1):
        student = CNN(8, MNIST_SHAPE, 10)
    output, terms = objective(student, (images, labels))
    logits = [teacher(images).detach() for teacher in teachers]
    each = torch.stack([F.cross_entropy(own, labels, reduction="none") for own in logits])
    weights = 1 - each.softmax(dim=0)
    expected = sum(
        (own[row] * kd.kd_loss(output[row : row + 1], predictions[row : row + 1], temperature=4)).item()
        for own, predictions in zip(weights, logits, strict=True)
        for row in range(len(labels))
    ) / (2 * len(labels))
    assert terms["soft"].item() == pytest.approx(expected, rel=1e-4)
    with torch.no_grad(), kd.capture(student, "layer3") as ours:
        student(images)
    pooled, far, judged = F.adaptive_avg_pool2d(ours["layer3"], (2, 2)), [], []
    for teacher, project in zip(teachers, objective.projectors, strict=True):
        with torch.no_grad(), kd.capture(teacher, "norm3") as theirs:
            teacher(images)
            own = project(pooled)
            far.append((own - theirs["norm3"]).square().mean(dim=(1, 2, 3)))
            handle = teacher.norm3.register_forward_hook(lambda *_, own=own: own)  # the classifier on the student's
            judged.append(F.cross_entropy(teacher(images), labels, reduction="none"))
            handle.remove()
    weights = 1 - torch.stack(judged).softmax(dim=0)
    assert terms["maps"].item() == pytest.approx(
        50 * (weights * torch.stack(far)).sum(dim=0).mean().item() / 2, rel=1e-4
    )
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.abs().sum() > 0) for p in objective.projectors.parameters())
    assert all(p.grad is None for teacher in teachers for p in teacher.parameters())


def test_teachers_that_are_one_are_heard_alike(recipe: dict[str, Any]) -> None:
    (teacher,), given = networks(1), batch()
    with kd.seeded(1):
        student = CNN(8, MNIST_SHAPE, 10).eval()
    both = [
        recipe["WeightedTeachers"]([teacher] * 3, temperature=4.0, weight=50.0, alike=alike) for alike in (True, False)
    ]
    for objective in both:
        for projector in objective.projectors:
            projector.load_state_dict(objective.projectors[0].state_dict())
    (_, first), (_, second) = (objective(student, given) for objective in both)
    assert all(first[name].item() == pytest.approx(second[name].item(), rel=1e-5) for name in first)


def test_a_share_of_the_labels_is_wrong(recipe: dict[str, Any]) -> None:
    training, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=1000)
    images, labels = recipe["corrupt_labels"](training, 0.3).tensors
    own = torch.tensor([int(training[row][1]) for row in range(len(training))])
    assert (labels != own).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(images[17], training[17][0])
    assert torch.equal(recipe["corrupt_labels"](training, 0.0).tensors[1], own)


def test_at_toy_size_it_is_the_same_twice(recipe: dict[str, Any]) -> None:
    toy = recipe["Settings"](pairs=2, epochs=1, limit=200)
    found = recipe["main"](toy)
    assert {name: len(own) for name, own in found.items()} == {"labels": 2, "alike": 2, "by confidence": 2}
    assert recipe["main"](toy) == found
