"""Adam with a learning rate that falls to 0 matches torch's plain Adam at the expected rates."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import kd
from kd.models.networks import MLP
from kd.seeding import seeded
from kd.storage.fingerprint import describe
from kd.training.optimizers import adam


def _model(seed: int = 0) -> MLP:
    with seeded(seed):
        return MLP(8)


def test_the_learning_rate_falls_linearly_to_zero() -> None:
    optimizer, scheduler = adam(_model(), learning_rate=0.1, steps=4)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])


def test_fused_steps_match_the_plain_adam_within_rounding() -> None:
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
    for actual, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.hidden.weight, _model().hidden.weight)


@pytest.mark.slow
def test_a_training_process_does_not_import_torchs_compiler() -> None:
    program = """
import sys, torch, kd
from kd.training.optimizers import adam
model = torch.nn.Linear(3, 2)
data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randint(2, (8,)))
loader = kd.make_loader(data, batch_size=4, shuffle=True)
optimizer, scheduler = adam(model, learning_rate=0.1, steps=4)
kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, scheduler=scheduler, epochs=2, seed=0)
optimizer.load_state_dict(optimizer.state_dict())
optimizer.zero_grad()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_step_needs_no_gradient_and_calls_its_closure_with_gradients() -> None:
    model = _model()
    optimizer, _ = adam(model, learning_rate=1e-4, steps=4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 1, 28, 28)).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss  # type: ignore[no-any-return]

    loss = optimizer.step(closure)
    assert loss is not None
    assert all(p.is_leaf and p.requires_grad and p.grad is not None for p in model.parameters())
    assert loss.item() > model(torch.ones(2, 1, 28, 28)).square().sum().item()


def test_settings_of_the_scheduler_are_part_of_its_description() -> None:
    def describe_scheduler(**settings: float) -> object:
        optimizer, _ = adam(_model(), learning_rate=0.1, steps=4)
        return describe(
            torch.optim.lr_scheduler.LinearLR(optimizer, **{"total_iters": 4, "end_factor": 0.0, **settings})
        )

    assert describe_scheduler() == describe_scheduler()
    assert describe_scheduler() != describe_scheduler(total_iters=5)
    assert describe_scheduler() != describe_scheduler(end_factor=0.5)
    optimizer, _ = adam(_model(), learning_rate=0.1, steps=4)
    lambdas = [torch.optim.lr_scheduler.LambdaLR(optimizer, rule) for rule in (lambda step: 1.0, lambda step: 0.5)]
    assert describe(lambdas[0]) != describe(lambdas[1])


def _fit(model: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any = None) -> None:
    data = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    kd.fit(model, kd.supervised, DataLoader(data), None, optimizer=optimizer, scheduler=scheduler, epochs=1, seed=0)


def test_a_scheduler_of_another_optimizer_is_refused() -> None:
    model = torch.nn.Linear(3, 2)
    used, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with pytest.raises(ValueError, match=r"the scheduler StepLR must belong to the optimizer.*Make it from this"):
        _fit(model, used, torch.optim.lr_scheduler.StepLR(other, 1))
    _fit(model, used, torch.optim.lr_scheduler.StepLR(used, 1))


def test_a_layer_replaced_after_the_optimizer_was_made_is_mentioned() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[1] = torch.nn.Linear(4, 2)
    with pytest.warns(UserWarning, match=r"holds 2 parameters that are not .*, and lacks 2 that are, such as 1\.w"):
        _fit(model, optimizer)


def test_parts_of_a_model_and_several_models_may_share_an_optimizer() -> None:
    model, other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), torch.nn.Linear(3, 2)
    _fit(model, torch.optim.SGD(model[1].parameters(), lr=0.1))
    _fit(model, torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1))
