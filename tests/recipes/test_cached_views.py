"""The recipe of cached views: each view's own answer lies beside it, and at toy size it runs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kd
from kd.data.datasets import ImageDataset
from kd.data.loaders import seed_loader
from kd.data.views import ShiftedImages, one_view_each
from kd.models.networks import MLP

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "cached_views.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


@pytest.fixture(scope="module", name="views")
def _views() -> ShiftedImages:
    mnist = kd.load_mnist(train=True)
    return ShiftedImages(ImageDataset(mnist.images[:40], mnist.labels[:40], mean=mnist.mean, std=mnist.std), reach=2)


def test_every_view_that_a_student_sees_has_the_teachers_answer_to_it(
    recipe: dict[str, Any], views: ShiftedImages
) -> None:
    with kd.seeded(0):
        teacher = MLP(16)
    cached = recipe["collect_view_logits"](teacher, views)
    assert cached.dtype == torch.float16
    assert cached.shape == (40 * 25, 10)
    loader = one_view_each(kd.DistillDataset(views, cached), views.views, batch_size=16)
    for epoch in range(2):
        seed_loader(loader, seed=0, epoch=epoch)
        for shown, _, logits in loader:
            live = teacher(shown)
            assert kd.kd_loss(logits, live, temperature=1) < 1e-6
            assert kd.kd_loss(logits.roll(1, dims=0), live, temperature=1) > 1e-3


def test_a_cache_that_is_not_the_live_teachers_is_refused(recipe: dict[str, Any], views: ShiftedImages) -> None:
    class Moody(nn.Module):
        """A teacher whose answers change from time to time."""

        def __init__(self) -> None:
            super().__init__()
            self.asked = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.asked += 1
            return images.flatten(1)[:, 300:310] * self.asked

    with pytest.raises(ValueError, match="do not match their samples"):
        recipe["collect_view_logits"](Moody(), views)


def test_at_toy_size_it_is_the_same_twice_and_with_alpha_1_the_control(recipe: dict[str, Any]) -> None:
    toy = {"pairs": 2, "epochs": 1, "teacher_epochs": 1, "limit": 120, "reach": 1}
    found = recipe["main"](recipe["Settings"](**toy))
    assert {name: len(own) for name, own in found.items()} == dict.fromkeys(
        ("labels", "own logits", "the image's logits"), 2
    )
    assert recipe["main"](recipe["Settings"](**toy)) == found
    without = recipe["main"](recipe["Settings"](**toy, alpha=1.0))
    assert without["own logits"] == without["the image's logits"] == without["labels"] == found["labels"]


def test_logits_differ_where_views_do(recipe: dict[str, Any]) -> None:
    toy = {"pairs": 1, "epochs": 2, "teacher_epochs": 2, "limit": 300, "alpha": 0.0}
    shifted = recipe["main"](recipe["Settings"](**toy, reach=2))
    still = recipe["main"](recipe["Settings"](**toy, reach=0))
    assert still["own logits"] == still["the image's logits"]
    assert shifted["own logits"] != shifted["the image's logits"]
