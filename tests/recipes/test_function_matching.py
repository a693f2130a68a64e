"""The recipe of a matched function: teacher and student see one picture, no label counts, and at toy size it runs."""

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


class Watched(nn.Module):
    """A model that keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.shown = MLP(8), torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown = images
        logits: torch.Tensor = self.model(images)
        return logits


def test_a_mixture_has_the_shares_it_says(recipe: dict[str, Any], batch: kd.Batch) -> None:
    with kd.seeded(1):
        mixed, partner, share = recipe["mix_images"](batch[0])
    assert sorted(partner.tolist()) == list(range(6))
    assert 0 < share < 1
    for row, other in enumerate(partner):
        assert torch.allclose(mixed[row], share * batch[0][row] + (1 - share) * batch[0][other])


def test_teacher_and_student_see_the_same_picture_and_the_next_step_another(
    recipe: dict[str, Any], batch: kd.Batch
) -> None:
    teacher, student = Watched(), Watched()
    objective = recipe["matching"](teacher)
    with kd.seeded(1):
        objective(student, batch)
        first = student.shown
        assert torch.equal(teacher.shown, first)
        objective(student, batch)
    assert torch.equal(teacher.shown, student.shown)
    assert not torch.equal(student.shown, first)
    with kd.seeded(1):
        recipe["mixed_labels"](student, batch)
    assert torch.equal(student.shown, first)  # its control sees the same mixtures


def test_no_label_counts_and_who_answers_as_the_teacher_has_no_loss(recipe: dict[str, Any], batch: kd.Batch) -> None:
    teacher, student = MLP(8), MLP(8)
    losses = []
    for labels in (batch[1], batch[1].flip(0)):
        with kd.seeded(1):
            _, terms = recipe["matching"](teacher)(student, (batch[0], labels))
        losses.append(sum(terms.values()).item())
    assert losses[0] == losses[1] > 0
    _, terms = recipe["matching"](teacher)(teacher, batch)
    assert sum(terms.values()).item() == pytest.approx(0, abs=1e-6)


def test_mixed_labels_are_cross_entropies_by_their_shares(recipe: dict[str, Any], batch: kd.Batch) -> None:
    student = MLP(8)
    with kd.seeded(1):
        images, partner, share = recipe["mix_images"](batch[0])
    with kd.seeded(1):
        _, terms = recipe["mixed_labels"](student, batch)
    target = share * torch.eye(10)[batch[1]] + (1 - share) * torch.eye(10)[batch[1][partner]]
    expected = -(target * torch.log_softmax(student(images), dim=1)).sum(dim=1).mean()
    assert terms["hard"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_at_toy_size_it_is_the_same_twice(recipe: dict[str, Any]) -> None:
    toy = {"pairs": 2, "epochs": 3, "teacher_epochs": 1, "limit": 200}
    found = recipe["main"](recipe["Settings"](**toy))
    assert {name: len(own) for name, own in found.items()} == dict.fromkeys(
        ("labels", "mixed labels", "matching", "impatient"), 2
    )
    assert recipe["main"](recipe["Settings"](**toy)) == found
