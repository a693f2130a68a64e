"""Recipe on a custom loss: its limit, and a quick run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kd

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "own_loss.py"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def test_the_loss_is_zero_if_logits_are_equal_up_to_a_constant(recipe: dict[str, Any]) -> None:
    teacher, labels = torch.randn(6, 10), torch.arange(6)
    _, terms = recipe["matched_logits"](nn.Identity(), (teacher + 3, labels, teacher))
    assert terms["soft"].item() == pytest.approx(0, abs=1e-10)


def test_the_gradient_equals_the_limit_of_a_large_temperature(recipe: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 10, dtype=torch.float64, generator=generator) for _ in range(2))
    student.requires_grad_()
    labels = torch.arange(6)
    _, terms = recipe["matched_logits"](nn.Identity(), (student, labels, teacher))
    (gradient,) = torch.autograd.grad(terms["soft"], student)
    (soft,) = torch.autograd.grad(kd.kd_loss(student, teacher, temperature=1e4), student)
    assert torch.allclose(gradient, soft, rtol=1e-3, atol=1e-5)


def test_a_quick_run_returns_the_errors_of_every_student(recipe: dict[str, Any]) -> None:
    errors = recipe["main"](recipe["Settings"](pairs=2, epochs=1, limit=200))
    assert {name: len(counts) for name, counts in errors.items()} == {"labels alone": 2, "kd": 2, "matched logits": 2}
    assert recipe["main"](recipe["Settings"](pairs=2, epochs=1, limit=200)) == errors
