"""CTKD: the loss equals kd's, the temperature's gradient is reversed, and both student and temperature are trained."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.methods import METHODS, make
from kd.methods.ctkd import CTKDLoss
from kd.training.optimizers import adam
from tests.conftest import CLASSES, tiny_model


def make_logits(seed: int = 0) -> kd.Batch:
    """Return student logits (the input of ``nn.Identity``), labels and teacher logits."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return student, torch.arange(6) % 5, teacher


def build_objective(**settings: Any) -> Any:
    model = nn.Identity()
    return make("ctkd", model, model, make_logits(), settings)


@pytest.mark.parametrize("theta", [-2.0, 0.0, 1.0, 3.0])
def test_at_its_temperature_it_is_plain_distillation(theta: float) -> None:
    objective, batch = build_objective(), make_logits()
    objective.theta.data.fill_(theta)
    temperature = 1 + 20 / (1 + math.exp(-theta))
    assert objective.temperature().item() == pytest.approx(temperature)
    _, terms = objective(nn.Identity(), batch)
    expected = kd.kd_loss(batch[0], batch[2], temperature=temperature).item()
    assert terms["soft"].item() == pytest.approx(0.9 * expected, rel=1e-6)


@pytest.mark.parametrize(("epoch", "strength"), [(0, 0.5 * (1 - math.cos(math.pi / 4))), (1, 0.5), (3, 1.0), (9, 1.0)])
def test_the_gradient_of_the_temperature_is_reversed_and_grows_as_half_a_cosine(epoch: int, strength: float) -> None:
    objective, batch = build_objective(warmup=0.4).double(), make_logits()
    objective.set_epoch(epoch, 10)
    objective(nn.Identity(), batch)[1]["soft"].backward()

    def loss(theta: float) -> float:
        temperature = 1 + 20 / (1 + math.exp(-theta))
        return 0.9 * kd.kd_loss(batch[0], batch[2], temperature=temperature).item()

    slope = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5  # through the student's softening, the teacher's, and T²
    assert objective.theta.grad.item() == pytest.approx(-strength * slope, rel=1e-5)


def test_the_student_has_the_gradient_of_plain_distillation_at_any_strength() -> None:
    student, labels, teacher = make_logits()
    for epoch in (0, 9):
        objective, inputs = build_objective(), student.clone().requires_grad_()
        objective.set_epoch(epoch, 240)
        objective(nn.Identity(), (inputs, labels, teacher))[1]["soft"].backward()
        plain = student.clone().requires_grad_()
        temperature = objective.temperature().item()
        (0.9 * kd.kd_loss(plain, teacher, temperature=temperature)).backward()  # type: ignore[no-untyped-call]
        assert inputs.grad is not None
        assert plain.grad is not None
        assert torch.allclose(inputs.grad, plain.grad, rtol=1e-5)


def test_training_only_the_temperature_raises_the_loss() -> None:
    objective, batch = build_objective(), make_logits()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    losses: list[float] = []
    for _ in range(20):
        optimizer.zero_grad()
        _, terms = objective(nn.Identity(), batch)
        terms["soft"].backward()
        losses.append(terms["soft"].item())
        optimizer.step()
    assert all(later > earlier for earlier, later in itertools.pairwise(losses))


def test_the_authors_ten_epochs_of_240_are_the_default() -> None:
    assert METHODS["ctkd"].settings["warmup"] == pytest.approx(10 / 240)
    objective = build_objective()
    strengths = []
    for epoch in range(12):
        objective.set_epoch(epoch, 240)
        strengths.append(objective._strength)
    assert strengths[:10] == sorted(strengths[:10])
    assert strengths[9:] == [1.0] * 3
    build_objective(warmup=0.0).set_epoch(0, 10)


def test_temperature_and_student_are_trained_together_and_the_temperature_is_in_the_state(
    digits: kd.ImageDataset,
) -> None:
    def fitted(**settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
        model = tiny_model()
        teacher = torch.randn(len(digits), CLASSES, generator=torch.Generator().manual_seed(0))
        loader = kd.make_loader(kd.DistillDataset(digits, teacher), batch_size=8, shuffle=True)
        objective: Any = make("ctkd", model, model, next(iter(loader)), settings)
        optimizer, _ = adam(model, learning_rate=0.01, steps=2 * len(loader), objective=objective)
        kd.fit(model, objective, loader, None, optimizer=optimizer, epochs=2, seed=0)
        return objective.temperature().detach(), dict(objective.state_dict())

    temperature, state = fitted()
    assert list(state) == ["theta"]
    assert state["theta"].item() != 1
    assert torch.equal(temperature, fitted()[0])
    assert isinstance(build_objective(), CTKDLoss)
