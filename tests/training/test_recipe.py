"""Optimizers and schedules of a recipe are torch's, at every step."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kd
from kd.methods.objectives import WrappedObjective
from kd.training.optimizers import SCHEDULES, make_optimizer, make_schedule
from kd.training.recipe import Recipe
from tests.conftest import tiny_model


def rates(name: str, steps: int, warmup: int = 0, rate: float = 0.1) -> list[float]:
    """Return the learning rate of every step, and the one after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler, seen = make_schedule(optimizer, name, steps=steps, warmup=warmup), []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


FORMULAS = {
    "linear": lambda t, n: 1 - t / n,
    "cosine": lambda t, n: (1 + math.cos(math.pi * t / n)) / 2,
    "constant": lambda t, n: 1.0,
    "step": lambda t, n: 0.1 ** (t // math.ceil(n / 3)),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("steps", [3, 10, 30])
def test_a_schedule_follows_its_formula(name: str, steps: int) -> None:
    expected = [0.1 * FORMULAS[name](step, steps) for step in range(steps + 1)]
    assert rates(name, steps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_warm_up_rises_linearly_and_the_schedule_has_the_other_steps(name: str) -> None:
    seen = rates(name, 30, warmup=4)
    assert seen[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert seen[4:] == pytest.approx(rates(name, 26), abs=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 7])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.9999, math.nextafter(1, 0)])
def test_any_share_below_1_leaves_a_step_after_the_warm_up(share: float, batches: int, epochs: int) -> None:
    step = Recipe(warmup=share, epochs=epochs, schedule="constant").make_step(tiny_model(), batches=batches)
    assert step.scheduler is not None
    for _ in range(epochs * batches - 1):
        step.optimizer.step()
        step.scheduler.step()
    assert step.optimizer.param_groups[0]["lr"] == pytest.approx(Recipe.learning_rate)  # of the last step
    with pytest.raises(ValueError, match="warmup must be shorter than the training"):
        Recipe(warmup=float(epochs), epochs=epochs).make_step(tiny_model(), batches=batches)


def test_every_schedule_is_tested() -> None:
    assert set(FORMULAS) == set(SCHEDULES)


def torchs(name: str, groups: Any, rate: float, momentum: float, nesterov: bool) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=rate, fused=True)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "nesterov"), [("adam", False), ("adamw", False), ("sgd", False), ("sgd", True)])
def test_an_optimizer_equals_torchs_own_loop_bit_for_bit(
    digits: kd.ImageDataset, name: str, nesterov: bool, decay: float
) -> None:
    fitted, by_hand = (tiny_model(batch_norm=True) for _ in range(2))
    loader = kd.make_loader(digits, batch_size=16)
    recipe = Recipe(optimizer=name, weight_decay=decay, learning_rate=0.01, momentum=0.8, nesterov=nesterov, epochs=2)
    kd.fit(fitted, kd.supervised, loader, None, step=recipe.make_step(fitted, batches=6), epochs=2, seed=0)
    decayed = [parameter for key, parameter in by_hand.named_parameters() if key in ("1.weight", "5.weight")]
    others = [parameter for key, parameter in by_hand.named_parameters() if key not in ("1.weight", "5.weight")]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torchs(name, groups, 0.01, 0.8, nesterov)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=12)
    for images, labels in [*loader, *loader]:
        optimizer.zero_grad()
        F.cross_entropy(by_hand(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    assert kd.weights_bytes(fitted) == kd.weights_bytes(by_hand)


def test_norms_and_biases_do_not_decay_and_parameters_of_the_objective_are_trained() -> None:
    class Projected(WrappedObjective):
        def __init__(self) -> None:
            super().__init__(kd.supervised)
            self.projector = nn.Linear(3, 2)

    model, objective = tiny_model(batch_norm=True), Projected()
    optimizer = make_optimizer("adamw", model, objective, learning_rate=0.1, weight_decay=0.3)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = {**dict(model.named_parameters()), **dict(objective.named_parameters())}
    assert {name for name, parameter in named.items() if decays[id(parameter)]} == {
        "1.weight",
        "5.weight",
        "projector.weight",
    }
    assert set(decays.values()) == {0.0, 0.3}


@pytest.mark.parametrize(
    ("recipe", "batches", "warmup"),
    [
        (Recipe(warmup=0.1, epochs=3), 10, 3),
        (Recipe(warmup=0.1, epochs=3, accumulate=4), 10, 1),
        (Recipe(warmup=1.0, epochs=3), 10, 10),
        (Recipe(warmup=1.5, epochs=3, accumulate=3), 10, 6),
        (Recipe(warmup=0.01, epochs=1), 10, 0),
    ],
)
def test_a_warm_up_is_a_share_below_1_and_else_in_epochs(recipe: Recipe, batches: int, warmup: int) -> None:
    optimizer = recipe.make_step(tiny_model(), batches=batches).optimizer
    assert optimizer.param_groups[0]["lr"] == pytest.approx(recipe.learning_rate / (warmup + 1))


@pytest.mark.parametrize("accumulate", [1, 3, 6, 7])
def test_the_schedule_ends_with_the_training(digits: kd.ImageDataset, accumulate: int) -> None:
    recipe, model = Recipe(epochs=3, accumulate=accumulate), tiny_model()
    step, loader = recipe.make_step(model, batches=6), kd.make_loader(digits, batch_size=16)
    seen: list[float] = []
    on_batch = lambda: seen.append(step.optimizer.param_groups[0]["lr"])  # noqa: E731
    kd.fit(model, kd.supervised, loader, None, step=step, epochs=3, seed=0, on_batch=on_batch)
    assert step.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-15)
    assert len(set(seen)) >= 3 * (6 // accumulate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of adam, adamw, sgd. Got 'lion'"),
        ({"schedule": "poly"}, "schedule must be one of linear, cosine, constant, step. Got 'poly'"),
        ({"warmup": 10.0}, "warmup must be shorter than the training of 10 epochs"),
    ],
)
def test_unknown_names_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Recipe(), **changes).make_step(tiny_model(), batches=5)
