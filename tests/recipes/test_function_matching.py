"""Recipe on function matching: mixtures, independence of labels, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kd
from kd.models.networks import MLP

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "function_matching.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


@pytest.fixture(name="batch")
def _batch() -> kd.Batch:
    with kd.seeded(0):
        return torch.randn(6, 1, 28, 28), torch.arange(6)


class Recorder(nn.Module):
    """A model that stores its last inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.inputs = MLP(8), torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.inputs = images
        logits: torch.Tensor = self.model(images)
        return logits


def test_a_mixture_is_the_weighted_sum_of_an_image_and_its_partner(recipe: dict[str, Any], batch: kd.Batch) -> None:
    with kd.seeded(1):
        mixed, partner, share = recipe["mix_images"](batch[0])
    assert sorted(partner.tolist()) == list(range(6))
    assert 0 < share < 1
    for row, other in enumerate(partner):
        assert torch.allclose(mixed[row], share * batch[0][row] + (1 - share) * batch[0][other])


def test_teacher_and_student_get_the_same_mixture_and_each_step_a_new_one(
    recipe: dict[str, Any], batch: kd.Batch
) -> None:
    teacher, student = Recorder(), Recorder()
    objective = recipe["matching"](teacher)
    with kd.seeded(1):
        objective(student, batch)
        first = student.inputs
        assert torch.equal(teacher.inputs, first)
        objective(student, batch)
    assert torch.equal(teacher.inputs, student.inputs)
    assert not torch.equal(student.inputs, first)
    with kd.seeded(1):
        recipe["mixed_labels"](student, batch)
    assert torch.equal(student.inputs, first)  # the control on mixed labels gets the same mixtures


def test_labels_have_no_effect_and_a_copy_of_the_teacher_has_zero_loss(recipe: dict[str, Any], batch: kd.Batch) -> None:
    teacher, student = MLP(8), MLP(8)
    losses = []
    for labels in (batch[1], batch[1].flip(0)):
        with kd.seeded(1):
            _, terms = recipe["matching"](teacher)(student, (batch[0], labels))
        losses.append(sum(terms.values()).item())
    assert losses[0] == losses[1] > 0
    _, terms = recipe["matching"](teacher)(teacher, batch)
    assert sum(terms.values()).item() == pytest.approx(0, abs=1e-6)


def test_mixed_labels_give_the_weighted_cross_entropies(recipe: dict[str, Any], batch: kd.Batch) -> None:
    student = MLP(8)
    with kd.seeded(1):
        images, partner, share = recipe["mix_images"](batch[0])
    with kd.seeded(1):
        _, terms = recipe["mixed_labels"](student, batch)
    target = share * torch.eye(10)[batch[1]] + (1 - share) * torch.eye(10)[batch[1][partner]]
    expected = -(target * torch.log_softmax(student(images), dim=1)).sum(dim=1).mean()
    assert terms["hard"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_quick_run_is_reproducible(recipe: dict[str, Any]) -> None:
    quick = {"pairs": 2, "epochs": 3, "teacher_epochs": 1, "limit": 200}
    errors = recipe["main"](recipe["Settings"](**quick))
    assert {name: len(counts) for name, counts in errors.items()} == dict.fromkeys(
        ("labels", "mixed labels", "matching", "impatient"), 2
    )
    assert recipe["main"](recipe["Settings"](**quick)) == errors
