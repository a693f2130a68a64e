"""Adam with a step size that falls to nothing: the same numbers as torch's plain Adam, at the rates that were said."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from kd.describe import describe
from kd.models import MLP
from kd.optimizers import adam
from kd.seeding import seeded


def _model(seed: int = 0) -> MLP:
    with seeded(seed):
        return MLP(8)


def test_the_step_size_falls_linearly_from_the_learning_rate_to_zero() -> None:
    optimizer, scheduler = adam(_model(), learning_rate=0.1, steps=4)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])


def test_fused_steps_are_those_of_the_plain_adam_within_rounding() -> None:
    model = _model()
    plain = copy.deepcopy(model)
    optimizer, scheduler = adam(model, learning_rate=1e-2, steps=20)
    reference = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=False, foreach=False)
    with seeded(1):
        batches = [(torch.randn(16, 1, 28, 28), torch.randint(10, (16,))) for _ in range(20)]
    for step, (images, labels) in enumerate(batches):
        reference.param_groups[0]["lr"] = 1e-2 * (1 - step / 20)
        for network, stepper in ((model, optimizer), (plain, reference)):
            stepper.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            stepper.step()
        scheduler.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.hidden.weight, _model().hidden.weight)


def test_what_decides_the_rates_is_in_the_description_of_a_stage() -> None:
    def described(**settings: float) -> object:
        optimizer, _ = adam(_model(), learning_rate=0.1, steps=4)
        return describe(
            torch.optim.lr_scheduler.LinearLR(optimizer, **{"total_iters": 4, "end_factor": 0.0, **settings})
        )

    assert described() == described()
    assert described() != described(total_iters=5)
    assert described() != described(end_factor=0.5)
    optimizer, _ = adam(_model(), learning_rate=0.1, steps=4)
    lambdas = [torch.optim.lr_scheduler.LambdaLR(optimizer, rule) for rule in (lambda step: 1.0, lambda step: 0.5)]
    assert describe(lambdas[0]) != describe(lambdas[1])
