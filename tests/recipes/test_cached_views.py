"""Recipe on cached views: every view is paired with its own logits; quick runs."""

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


def test_every_view_is_paired_with_its_own_logits(recipe: dict[str, Any], views: ShiftedImages) -> None:
    with kd.seeded(0):
        teacher = MLP(16)
    cached = recipe["collect_view_logits"](teacher, views)
    assert cached.dtype == torch.float16
    assert cached.shape == (40 * 25, 10)
    loader = one_view_each(kd.DistillDataset(views, cached), views.views, batch_size=16)
    for epoch in range(2):
        seed_loader(loader, seed=0, epoch=epoch)
        for images, _, logits in loader:
            live = teacher(images)
            assert kd.kd_loss(logits, live, temperature=1) < 1e-6
            assert kd.kd_loss(logits.roll(1, dims=0), live, temperature=1) > 1e-3


def test_logits_that_differ_from_the_live_teachers_are_rejected(recipe: dict[str, Any], views: ShiftedImages) -> None:
    class Inconsistent(nn.Module):
        """A teacher whose logits change with every call."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return images.flatten(1)[:, 300:310] * self.calls

    with pytest.raises(ValueError, match="do not match their samples"):
        recipe["collect_view_logits"](Inconsistent(), views)


@pytest.mark.slow
def test_a_quick_run_is_reproducible_and_equals_the_control_with_alpha_1(recipe: dict[str, Any]) -> None:
    quick = {"pairs": 2, "epochs": 1, "teacher_epochs": 1, "limit": 120, "reach": 1}
    errors = recipe["main"](recipe["Settings"](**quick))
    assert {name: len(counts) for name, counts in errors.items()} == dict.fromkeys(
        ("labels", "view logits", "image logits"), 2
    )
    assert recipe["main"](recipe["Settings"](**quick)) == errors
    without = recipe["main"](recipe["Settings"](**quick, alpha=1.0))
    assert without["view logits"] == without["image logits"] == without["labels"] == errors["labels"]


@pytest.mark.slow
def test_the_arms_differ_only_if_views_differ(recipe: dict[str, Any]) -> None:
    quick = {"pairs": 2, "epochs": 3, "teacher_epochs": 2, "limit": 400, "alpha": 0.0}
    shifted = recipe["main"](recipe["Settings"](**quick, reach=2))
    still = recipe["main"](recipe["Settings"](**quick, reach=0))
    assert still["view logits"] == still["image logits"]
    assert shifted["view logits"] != shifted["image logits"]
