"""Adam with a learning rate that falls to 0 matches torch's plain Adam at the expected rates."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import kd
from kd.models.networks import MLP
from kd.seeding import seeded
from kd.storage.fingerprint import describe
from kd.training.optimizers import adam, require_trained


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
from kd.training.optimizers import adam, require_trained
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


def _fit(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any = None,
    objective: kd.Objective = kd.supervised,
) -> None:
    data = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    kd.fit(model, objective, DataLoader(data), None, optimizer=optimizer, scheduler=scheduler, epochs=1, seed=0)


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


class Projector(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projector = torch.nn.Linear(2, 2)

    def forward(self, model: torch.nn.Module, batch: kd.types.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = model(batch[0])
        return output, {"loss": F.cross_entropy(self.projector(output), batch[1])}


class Holder:
    """An objective that is no module, which holds one."""

    def __init__(self, projector: Projector) -> None:
        self.parts = {"projector": projector}

    def __call__(self, model: torch.nn.Module, batch: kd.types.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss: tuple[torch.Tensor, dict[str, torch.Tensor]] = self.parts["projector"](model, batch)
        return loss


def _with_default(projector: Projector) -> kd.Objective:
    def objective(model: Any, batch: Any, *, projector: Projector = projector) -> Any:
        return projector(model, batch)

    return objective


_PROJECTOR = Projector()  # as in a notebook, where a projector is a global variable


def _use_global(model: Any, batch: Any) -> Any:
    return _PROJECTOR(model, batch)


HIDDEN: dict[str, Callable[[Projector], kd.Objective]] = {
    "method": lambda projector: projector.forward,
    "partial": lambda projector: functools.partial(projector),
    "lambda": lambda projector: lambda model, batch: projector(model, batch),
    "default": _with_default,
    "attribute": Holder,
    "nested": lambda projector: functools.partial(lambda run, model, batch: run(model, batch), projector.forward),
    "global": lambda _: _use_global,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_projector_that_no_optimizer_has_is_mentioned(name: str) -> None:
    projector = _PROJECTOR if name == "global" else Projector()
    for parameter in projector.parameters():  # of an earlier training
        parameter.grad = torch.zeros_like(parameter)
    model, objective = torch.nn.Linear(3, 2), HIDDEN[name](projector)
    with pytest.warns(UserWarning, match=r"in no optimizer: projector\.\w+ of Projector and 1 more\. They"):
        _fit(model, torch.optim.SGD(model.parameters(), lr=0.1), objective=objective)
    _fit(model, torch.optim.SGD([*model.parameters(), *projector.parameters()], lr=0.1), objective=objective)


def test_a_teacher_and_a_network_with_its_own_optimizer_in_an_objective_are_not_mentioned() -> None:
    model, teacher, peer = (torch.nn.Linear(3, 2) for _ in range(3))
    own = torch.optim.SGD(peer.parameters(), lr=0.1)
    teacher(torch.ones(1, 3)).sum().backward()  # a gradient of its own training

    def objective(model: torch.nn.Module, batch: kd.types.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.no_grad():
            target = teacher(batch[0])
        own.step()
        output = model(batch[0])
        return output, {
            "soft": kd.kd_loss(output, target, temperature=2),
            "peer": (peer(batch[0]) - output).square().mean(),
        }

    _fit(model, torch.optim.SGD(model.parameters(), lr=0.1), objective=objective)


@pytest.mark.parametrize("is_detached", [False, True])
def test_a_loss_that_does_not_depend_on_the_model_is_mentioned(is_detached: bool) -> None:
    """The projector alone gets a gradient, which looks like a training."""
    model, projector = torch.nn.Linear(3, 2), Projector()
    before = model.weight.detach().clone()

    def objective(model: torch.nn.Module, batch: kd.types.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = model(batch[0])
        features = projector.projector(output.detach() if is_detached else output)
        return output, {"loss": F.cross_entropy(features, batch[1])}

    optimizer = torch.optim.SGD([*model.parameters(), *projector.parameters()], lr=0.1)
    with pytest.warns(UserWarning, match="no parameter of the model .* detach") if is_detached else nullcontext():
        _fit(model, optimizer, objective=objective)
    assert torch.equal(model.weight, before) == is_detached


def test_a_learning_rate_that_is_always_0_is_mentioned_but_not_a_warm_up_from_0() -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.warns(UserWarning, match="the first epoch has changed no weight, because the learning rate is 0"):
        _fit(model, torch.optim.Adam(model.parameters(), lr=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="the learning rate is 0"):
        _fit(model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0))
    for rule in (lambda step: step, lambda step: step % 8):  # the second is 0 again after the epoch of 8 steps
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        _fit(model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rule))


def test_complex_parameters_are_trained_without_the_fused_step() -> None:
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    model = torch.nn.ParameterList([weight])
    optimizer, _ = adam(model, learning_rate=0.1, steps=2)
    weight.abs().sum().backward()
    optimizer.step()
    assert torch.allclose(weight.detach(), torch.full((3,), 0.9 + 0j), atol=1e-3)


def test_optimizers_and_schedulers_that_need_more_than_a_step_are_refused() -> None:
    model = _model()
    lbfgs, sgd = torch.optim.LBFGS(model.parameters()), torch.optim.SGD(model.parameters(), lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd)
    with pytest.raises(ValueError, match=r"one batch\. Got LBFGS"):
        require_trained(lbfgs, model, kd.supervised)
    with pytest.raises(ValueError, match=r"Got ReduceLROnPlateau.* on_epoch="):
        require_trained(sgd, model, kd.supervised, plateau)
