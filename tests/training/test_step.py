"""A training step clips, accumulates, averages and scales as torch defines it, and resumes bit-identically."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import kd
from kd.methods.objectives import WrappedObjective
from kd.storage.snapshots import Snapshots
from kd.training import step as step_module
from kd.training.recipe import Recipe
from kd.training.run_steps import train as train_steps
from kd.training.step import Step
from tests.conftest import CLASSES, tiny_model


class WrappedForward(WrappedObjective):
    """An objective around another one."""

    def forward(self, model: nn.Module, batch: Any) -> Any:
        return self.objective(model, batch)


class Cut(Exception):
    """Simulated interruption of a training run."""


def load(digits: kd.ImageDataset, batch_size: int = 16, *, shuffle: bool = False) -> DataLoader[Any]:
    return kd.make_loader(digits, batch_size=batch_size, shuffle=shuffle)


def in_float64(digits: kd.ImageDataset, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    images = torch.stack([digits[row][0] for row in range(len(digits))]).double()
    return DataLoader(TensorDataset(images, digits.labels), batch_size=batch_size)  # type: ignore[return-value]


def train(
    digits: kd.ImageDataset,
    recipe: Recipe,
    *,
    model: nn.Module | None = None,
    objective: kd.Objective = kd.supervised,
    snapshots: Snapshots | None = None,
    cut_after: int | None = None,
    batch_size: int = 16,
) -> tuple[nn.Module, kd.History]:
    """Train with a recipe; interrupt after ``cut_after`` batches."""
    model = tiny_model(dropout=0.3, batch_norm=True) if model is None else model
    loader, batches = load(digits, batch_size, shuffle=True), itertools.count(1)

    def cut() -> None:
        if next(batches) == cut_after:
            raise Cut

    history = kd.fit(
        model,
        objective,
        loader,
        load(digits, 50),
        step=recipe.make_step(model, objective, batches=len(loader)),
        epochs=recipe.epochs,
        seed=5,
        keep=recipe.keep,
        patience=recipe.patience,
        on_batch=cut,
        snapshots=snapshots,
    )
    return model, history


def step_once(model: nn.Module, batches: Any, **settings: Any) -> nn.Module:
    """Train one epoch with plain SGD in the batches' order."""
    step = Step(model, torch.optim.SGD(model.parameters(), lr=0.5), **settings)
    kd.fit(model, kd.supervised, batches, None, step=step, epochs=1, seed=0)
    return model


@pytest.mark.parametrize(("size", "accumulate"), [(8, 4), (16, 2), (10, 3), (7, 2), (96, 5), (20, 100)])
def test_accumulated_batches_equal_one_large_batch(digits: kd.ImageDataset, size: int, accumulate: int) -> None:
    """Also with a smaller last batch, and with a last step of fewer batches."""
    parts = step_once(tiny_model().double(), in_float64(digits, size), accumulate=accumulate)
    whole = step_once(tiny_model().double(), in_float64(digits, size * accumulate))
    plain = step_once(tiny_model().double(), in_float64(digits, size))
    for actual, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert size == 96 or kd.weights_bytes(plain) != kd.weights_bytes(parts)


@pytest.mark.parametrize("clip", [1e-3, 0.1, 1e6])
def test_the_norm_of_a_steps_gradient_is_clipped(digits: kd.ImageDataset, clip: float) -> None:
    batches = in_float64(digits, 96)
    start, clipped = tiny_model().double(), step_once(tiny_model().double(), batches, clip=clip)
    loss = nn.functional.cross_entropy(start(next(iter(batches))[0]), digits.labels)
    gradients = torch.autograd.grad(loss, list(start.parameters()))
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    for before, after, gradient in zip(start.parameters(), clipped.parameters(), gradients, strict=True):
        torch.testing.assert_close(before - after, 0.5 * gradient * min(1, clip / norm), rtol=1e-4, atol=1e-12)


def test_the_average_of_weights_and_buffers_follows_its_formula(digits: kd.ImageDataset) -> None:
    class Numbered(nn.Module):
        """A model with a constant integer buffer, such as an index of positions."""

        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_model(batch_norm=True)
            self.register_buffer("numbers", torch.arange(50))

        def forward(self, images: Tensor) -> Any:
            return self.model(images)

    model, decay, expected = Numbered(), 0.9, {}
    step = Step(model, torch.optim.SGD(model.parameters(), lr=0.1), ema=decay)

    def average() -> None:
        for name, value in model.state_dict().items():
            old = expected.get(name, value)
            expected[name] = decay * old + (1 - decay) * value if value.is_floating_point() else value.clone()

    history = kd.fit(model, kd.supervised, load(digits), load(digits), step=step, epochs=2, seed=0, on_batch=average)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    assert torch.equal(model.get_buffer("numbers"), torch.arange(50))
    assert history["val_loss"][-1] == kd.evaluate(model, kd.supervised, load(digits))["loss"]


def test_training_itself_is_not_changed_by_the_average(digits: kd.ImageDataset) -> None:
    losses = [train(digits, Recipe(epochs=3, ema=ema))[1]["train_loss"] for ema in (0.0, 0.9)]
    assert losses[0] == losses[1]


def test_the_default_recipe_is_torchs_adam_with_a_linear_schedule_bit_for_bit(digits: kd.ImageDataset) -> None:
    recipe, loader = Recipe(epochs=2), load(digits)
    fitted, by_hand = tiny_model(batch_norm=True), tiny_model(batch_norm=True)
    step = recipe.make_step(fitted, batches=len(loader))
    kd.fit(fitted, kd.supervised, loader, None, step=step, epochs=2, seed=0)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=4e-3, fused=True)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=2 * len(loader))
    for images, labels in [*loader, *loader]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    assert kd.weights_bytes(fitted) == kd.weights_bytes(by_hand)


RECIPES = {
    "adamw, cosine": Recipe(optimizer="adamw", weight_decay=0.05, schedule="cosine", warmup=0.2),
    "sgd, step": Recipe(optimizer="sgd", weight_decay=1e-3, schedule="step", warmup=1.0, learning_rate=0.1),
    "nesterov, constant": Recipe(optimizer="sgd", nesterov=True, schedule="constant", learning_rate=0.05),
    "average, clip, accumulate": Recipe(ema=0.9, clip=0.5, accumulate=4),
    "sgd, accumulate, best": Recipe(optimizer="sgd", accumulate=4, keep="best", learning_rate=0.1),
    "float16, accumulate, average": Recipe(precision="float16", accumulate=4, ema=0.8, schedule="cosine", warmup=0.1),
    "bfloat16, best": Recipe(precision="bfloat16", keep="best", patience=2, ema=0.5),
}


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 18), min_size=1, max_size=3))
def test_a_training_interrupted_anywhere_ends_bit_identical(
    name: str, cuts: list[int], digits: kd.ImageDataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = dataclasses.replace(RECIPES[name], epochs=3)
    expected, curves = train(digits, recipe)
    folder = tmp_path_factory.mktemp("cut")
    for cut_after in cuts:
        with contextlib.suppress(Cut):
            train(digits, recipe, snapshots=Snapshots(folder, key="k", interval=0), cut_after=cut_after)
    model, history = train(digits, recipe, snapshots=Snapshots(folder, key="k", interval=0))
    assert kd.weights_bytes(model) == kd.weights_bytes(expected)
    assert history == curves
    assert history.notes == curves.notes


@pytest.mark.parametrize("cut_after", [2, 3, 4, 6, 7])
def test_a_snapshot_in_the_middle_of_an_accumulation_holds_the_gradients(
    digits: kd.ImageDataset, tmp_path: Path, cut_after: int
) -> None:
    recipe = Recipe(epochs=2, accumulate=4, optimizer="sgd", learning_rate=0.1)
    expected, _ = train(digits, recipe)
    with pytest.raises(Cut):
        train(digits, recipe, snapshots=Snapshots(tmp_path, key="k", interval=0), cut_after=cut_after)
    state = Snapshots(tmp_path, key="k").state
    assert state is not None
    batches = (cut_after - 1) % 6 or 6  # of the epoch, before the one that was cut
    assert bool(state["parts"]["step"]["gradients"]) == (batches % 4 != 0)
    model, _ = train(digits, recipe, snapshots=Snapshots(tmp_path, key="k", interval=0))
    assert kd.weights_bytes(model) == kd.weights_bytes(expected)


def test_a_training_may_resume_after_the_last_batch_of_an_unfinished_accumulation(
    digits: kd.ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step after resuming then has no backward pass of its own."""
    recipe = Recipe(epochs=1, accumulate=4, precision="float16")
    expected, _ = train(digits, recipe)
    write, is_last = Snapshots.write, iter([False] * 5 + [True])

    def write_and_cut(snapshots: Snapshots, state: Any) -> None:
        write(snapshots, state)
        if next(is_last):
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "write", write_and_cut)
        with pytest.raises(Cut):
            train(digits, recipe, snapshots=Snapshots(tmp_path, key="k", interval=0))
    model, _ = train(digits, recipe, snapshots=Snapshots(tmp_path, key="k", interval=0))
    assert kd.weights_bytes(model) == kd.weights_bytes(expected)


class Overflows(nn.Module):
    """A supervised objective whose gradient is infinite at some batches."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.bad, self.calls = bad, 0

    def forward(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output, terms = kd.supervised(model, batch)
        if not model.training:
            return output, terms
        self.calls += 1
        factor = math.inf if self.calls in self.bad else 1.0
        return output, {"hard": terms["hard"] * factor}


def test_a_gradient_that_is_not_finite_in_float16_is_a_skipped_step(digits: kd.ImageDataset) -> None:
    model = tiny_model()
    step = Recipe(epochs=2, precision="float16").make_step(model, batches=6)
    weights, rates = [kd.weights_bytes(model)], []

    def record() -> None:
        weights.append(kd.weights_bytes(model))
        rates.append(step.optimizer.param_groups[0]["lr"])

    history = kd.fit(model, Overflows(2, 3), load(digits), load(digits), step=step, epochs=2, seed=0, on_batch=record)
    changed = [after != before for before, after in itertools.pairwise(weights)]
    assert changed == [True, False, False, *[True] * 9]
    assert rates[0] == rates[1] == rates[2] > rates[3]
    assert history["train_skipped"] == [2, 0]
    assert history.notes == ["2 training steps were skipped: their gradient overflowed float16."]
    assert all(math.isfinite(value) for curve in history.values() for value in curve)


def test_too_many_skipped_steps_in_a_row_are_an_error(digits: kd.ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "MOST_SKIPPED", 4)
    train(digits, Recipe(epochs=2, precision="float16"), objective=Overflows(1, 2, 3, 5, 6, 7, 9))
    with pytest.raises(FloatingPointError, match=r"not finite in 4 steps in a row.*fell to 4096\. Use bfloat16"):
        train(digits, Recipe(epochs=2, precision="float16"), objective=Overflows(5, 6, 7, 8))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_a_scaler_it_is_an_error_at_once(digits: kd.ImageDataset, precision: str) -> None:
    with pytest.raises(FloatingPointError, match="epoch 1 of 2, batch 3"):
        train(digits, Recipe(epochs=2, precision=precision), objective=Overflows(3))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_only_the_forward_pass_of_training_is_in_the_precision(digits: kd.ImageDataset, precision: str) -> None:
    model, dtypes = tiny_model(), []
    model.register_forward_hook(lambda module, _, output: dtypes.append((module.training, output.dtype)))
    train(digits, Recipe(epochs=1, precision=precision), model=model)
    assert set(dtypes) == {(True, getattr(torch, precision)), (False, torch.float32)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either an optimizer.* or a step"),
        ({"step": True, "optimizer": True}, "either an optimizer.* or a step"),
        ({"step": True, "scheduler": True}, "either an optimizer.* or a step"),
        ({"step": "other"}, "the step must belong to the model"),
        ({"step": True, "keep": "best"}, "keep must be last without validation"),
        ({"step": True, "keep": "worst"}, "keep must be last or best. Got 'worst'"),
        ({"step": True, "patience": 3}, "patience must be 0 without keep='best'"),
    ],
)
def test_clashing_arguments_of_fit_are_refused(
    digits: kd.ImageDataset, arguments: dict[str, Any], message: str
) -> None:
    model, other = tiny_model(), tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = Step(other, torch.optim.SGD(other.parameters(), lr=0.1))
    made = {"step": {True: Step(model, optimizer), "other": step}, "optimizer": {True: optimizer}}
    made["scheduler"] = {True: torch.optim.lr_scheduler.StepLR(optimizer, 1)}  # type: ignore[dict-item]
    given = {name: made[name][value] if name in made else value for name, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        kd.fit(model, kd.supervised, load(digits), None, epochs=1, seed=0, **given)


def test_another_engine_needs_only_what_the_module_lists(digits: kd.ImageDataset, tmp_path: Path) -> None:
    listed = set(re.findall(r"``(\w+)``", str(step_module.__doc__)))
    assert listed <= {*dir(Step), "optimizer"}
    used = set[str]()

    class Engine:
        """A step without any other attribute."""

        def __init__(self, step: Step) -> None:
            self._step = step

        def __getattr__(self, name: str) -> Any:
            assert name in listed
            used.add(name)
            return getattr(self._step, name)

    def train_with(make: Any) -> dict[str, Tensor]:
        model, loader = tiny_model(), load(digits, shuffle=True)
        step = make(Recipe(precision="float16", ema=0.5, accumulate=2).make_step(model, batches=len(loader)))
        snapshots = Snapshots(tmp_path / make.__name__, key="key", interval=0)
        kd.fit(model, kd.supervised, loader, load(digits, 50), step=step, epochs=2, seed=0, snapshots=snapshots)
        train_steps("title", model, kd.supervised, loader, None, step=step, epochs=1, seed=0)
        return model.state_dict()

    def unwrapped(step: Step) -> Step:
        return step

    states = train_with(unwrapped), train_with(Engine)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert used | {"load_state_dict"} == listed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": -1}, "clip must be at least 0"),
        ({"accumulate": 0}, "accumulate must be an integer of at least 1"),
        ({"ema": 1}, r"ema must be in \[0, 1\)"),
        ({"precision": "float8"}, "precision must be one of float32, bfloat16, float16. Got 'float8'"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    model = nn.Linear(2, CLASSES)
    with pytest.raises(ValueError, match=message):
        Step(model, torch.optim.SGD(model.parameters(), lr=0.1), **settings)


def test_the_state_of_another_kind_of_step_is_refused() -> None:
    model = nn.Linear(2, CLASSES)
    plain = Recipe().make_step(model, batches=1)
    averaged = Recipe(ema=0.9).make_step(model, batches=1)
    with pytest.raises(KeyError, match="average"):
        averaged.load_state_dict(plain.state_dict())
