"""Recipe on int8 students: every arm starts from the same float student; quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import kd
from kd.data.datasets import ArrayDataset
from kd.deploy.quantised import QuantisedLayer

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "quantised.py"


@pytest.fixture(scope="module", name="recipe")
def _recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def test_all_arms_start_from_the_same_student_and_without_further_training_two_are_equal(
    recipe: dict[str, Any],
) -> None:
    images = torch.randn(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    data = kd.DistillDataset(ArrayDataset(images, torch.arange(40) % 10), torch.zeros(40, 10))
    with kd.seeded(0):
        student = recipe["NarrowCNN"](2)
    # A learning rate of almost 0 in place of no training, which fit does not offer.
    settings = recipe["Settings"](further_epochs=1, further_learning_rate=1e-30)
    models = recipe["quantise_in_three_ways"](student, data, 0, settings)
    assert list(models) == ["float", "PTQ", "longer, PTQ", "QAD"]
    assert models["float"] is student
    for name in ("PTQ", "QAD"):
        layers = [module for module in models[name].modules() if isinstance(module, QuantisedLayer)]
        assert len(layers) == 8
    weights = zip(models["PTQ"].parameters(), models["QAD"].parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in weights)


@pytest.mark.slow
def test_quick_run(recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    settings = recipe["Settings"](limit=500, pairs=2, epochs=1, further_epochs=1)
    errors = recipe["main"](settings)
    assert {name: list(map(len, arms.values())) for name, arms in errors.items()} == {
        "MLP": [2] * 4,
        "narrow CNN": [2] * 4,
        "tiny CNN": [2] * 4,
    }
    assert "narrow CNN: errors of 50 images" in capsys.readouterr().out
