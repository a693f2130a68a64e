"""The training loop learns, is reproducible to the bit, averages correctly and stops before a bad step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

import kd
from tests.conftest import CLASSES, tiny_model


def train(
    dataset: kd.ImageDataset, model: nn.Module, objective: kd.Objective = kd.supervised, **changes: Any
) -> kd.History:
    """Call ``kd.fit`` with 96 samples in batches of 20, so that the last batch is smaller."""
    loader = kd.make_loader(dataset, batch_size=20, shuffle=True)
    arguments: dict[str, Any] = {
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9),
        "epochs": 3,
        "seed": 0,
    }
    return kd.fit(model, objective, loader, kd.make_loader(dataset, batch_size=50), **(arguments | changes))


def make_poisoned(bad: float, at_call: int) -> tuple[kd.Objective, Callable[[], int]]:
    """Return a supervised objective whose second term is ``bad`` at the given call, and a counter of its calls."""
    calls = 0

    def objective(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal calls
        calls += 1
        output, terms = kd.supervised(model, batch)
        return output, {**terms, "soft": output.mean() * (bad if calls == at_call else 0.5)}

    return objective, lambda: calls


def test_fit_learns(digits: kd.ImageDataset) -> None:
    history = train(digits, tiny_model(), epochs=6)
    assert history["val_acc"][-1] > 0.95
    assert history["train_loss"][-1] < 0.5 * history["train_loss"][0]
    assert history["val_ce"][-1] < 0.5 * history["val_ce"][0]


def test_fit_without_validation_gives_the_same_weights_and_no_val_curves(digits: kd.ImageDataset) -> None:
    loader = kd.make_loader(digits, batch_size=20, shuffle=True)
    validated, alone = tiny_model(dropout=0.3), tiny_model(dropout=0.3)
    histories = [
        kd.fit(
            model, kd.supervised, loader, val, optimizer=torch.optim.SGD(model.parameters(), lr=0.2), epochs=2, seed=0
        )
        for model, val in ((validated, loader), (alone, None))
    ]
    assert kd.weights_bytes(alone) == kd.weights_bytes(validated)
    assert set(histories[1]) == {"train_loss", "train_hard", "train_acc", "train_ce"}
    assert all(histories[1][name] == histories[0][name] for name in histories[1])


def test_fit_equals_a_plain_sgd_loop(digits: kd.ImageDataset) -> None:
    loader, fitted, by_hand = kd.make_loader(digits, batch_size=20), tiny_model(), tiny_model()
    for model in (fitted, by_hand):  # left-over gradients must be ignored
        model(torch.ones(1, 1, 6, 6)).sum().backward()
    optimizer = torch.optim.SGD(fitted.parameters(), lr=0.2)
    kd.fit(fitted, kd.supervised, loader, loader, optimizer=optimizer, epochs=2, seed=0)
    for images, labels in [*loader, *loader]:
        loss = nn.functional.cross_entropy(by_hand(images), labels)
        for weight, gradient in zip(
            by_hand.parameters(), torch.autograd.grad(loss, list(by_hand.parameters())), strict=True
        ):
            weight.data.sub_(gradient, alpha=0.2)
    for weight, expected in zip(fitted.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-7)


def test_the_same_seed_gives_bit_identical_weights_and_history(digits: kd.ImageDataset) -> None:
    models = [tiny_model(dropout=0.5, batch_norm=True) for _ in range(2)]
    histories = []
    for model in models:
        torch.rand(1)  # random numbers drawn by the caller must have no effect
        histories.append(train(digits, model, seed=7))
    assert kd.weights_bytes(models[0]) == kd.weights_bytes(models[1])
    assert dict(histories[0]) == dict(histories[1])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_another_seed_gives_another_training(digits: kd.ImageDataset, dropout: float) -> None:
    models = [tiny_model(dropout=dropout) for _ in range(2)]
    for seed, model in enumerate(models):
        train(digits, model, seed=seed)
    assert kd.weights_bytes(models[0]) != kd.weights_bytes(models[1])


@pytest.mark.filterwarnings("ignore:the first epoch has changed no weight")
def test_dropout_differs_between_the_epochs_and_repeats_with_the_seed(digits: kd.ImageDataset) -> None:
    """With learning rate 0 and batches in order, only dropout can change the training loss."""
    loader, losses = kd.make_loader(digits, batch_size=20), []
    for _ in range(2):
        model = tiny_model(dropout=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        history = kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, epochs=3, seed=0)
        losses.append(history["train_loss"])
        torch.rand(1)
    assert len(set(losses[0])) == 3
    assert losses[0] == losses[1]


def test_the_callers_random_state_is_restored(digits: kd.ImageDataset) -> None:
    before = torch.get_rng_state()
    train(digits, tiny_model(dropout=0.5))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(FloatingPointError):
        train(digits, tiny_model(dropout=0.5), make_poisoned(math.nan, 2)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_training_steps_are_in_train_mode_and_validation_steps_in_eval_mode(
    digits: kd.ImageDataset,
) -> None:
    model, seen = tiny_model(dropout=0.5).eval(), []
    model.register_forward_hook(
        lambda *_: seen.append(({module.training for module in model.modules()}, torch.is_grad_enabled()))
    )
    train(digits, model, epochs=3, on_epoch=lambda *_: model.eval())
    assert seen == 3 * (5 * [({True}, True)] + 2 * [({False}, False)])


@pytest.mark.parametrize("measure", [lambda m, x: kd.evaluate(m, kd.supervised, x), kd.predict])
def test_evaluate_and_predict_restore_the_mode_of_every_submodule(
    digits: kd.ImageDataset, measure: Callable[..., object]
) -> None:
    model = tiny_model(dropout=0.5, batch_norm=True).train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm1d)).eval()
    before = kd.weights_bytes(model)
    with torch.enable_grad():
        measure(model, kd.make_loader(digits, batch_size=20))
        assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [module is not frozen for module in model.modules()]
    assert kd.weights_bytes(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_restored_after_an_error_in_evaluation(digits: kd.ImageDataset) -> None:
    model = tiny_model().train()
    with pytest.raises(FloatingPointError, match=r"evaluation, batch 2: hard = .*, soft = inf"):
        kd.evaluate(model, make_poisoned(math.inf, 2)[0], kd.make_loader(digits, batch_size=20))
    assert all(module.training for module in model.modules())


def test_means_do_not_depend_on_the_batch_size(digits: kd.ImageDataset) -> None:
    model = tiny_model()
    whole = kd.evaluate(model, kd.supervised, kd.make_loader(digits, batch_size=96))
    for batch_size in (1, 7, 50, 95):
        means = kd.evaluate(model, kd.supervised, kd.make_loader(digits, batch_size=batch_size))
        assert means == pytest.approx(whole, rel=1e-5)


@pytest.mark.filterwarnings("ignore:the first epoch has changed no weight")
def test_training_means_are_over_samples(digits: kd.ImageDataset) -> None:
    """With learning rate 0, training and evaluation measure the same."""
    model = tiny_model()
    history = train(digits, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), epochs=1)
    for name in ("loss", "hard", "acc", "ce"):
        assert history[f"train_{name}"] == pytest.approx(history[f"val_{name}"], rel=1e-5)


def test_the_loss_is_the_sum_of_its_terms(digits: kd.ImageDataset) -> None:
    dataset = kd.DistillDataset(digits, kd.collect_logits(tiny_model(1), digits).logits)
    loader = kd.make_loader(dataset, batch_size=20)
    means = kd.evaluate(tiny_model(), kd.distilled(temperature=3, alpha=0.3), loader)
    assert set(means) == {"loss", "hard", "soft", "acc", "ce"}
    assert means["loss"] == pytest.approx(means["hard"] + means["soft"], rel=1e-5)
    assert means["hard"] == pytest.approx(0.3 * means["ce"], rel=1e-5)
    assert means["soft"] > 0


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(2, 6), st.integers(1, 9), st.integers(0, 2**31))
def test_accuracy_and_cross_entropy_match_numpy(n: int, classes: int, batch_size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(n, classes, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    loader = kd.make_loader(TensorDataset(logits, labels), batch_size=batch_size)
    means = kd.evaluate(nn.Identity(), kd.supervised, loader)
    z, y = logits.double().numpy(), labels.numpy()
    assert means["acc"] == pytest.approx((z.argmax(1) == y).mean(), abs=1e-6)
    entropies = np.log(np.exp(z).sum(1)) - z[np.arange(n), y]
    assert means["ce"] == pytest.approx(entropies.mean(), rel=1e-5, abs=1e-6)
    assert means["loss"] == means["hard"] == means["ce"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(digits: kd.ImageDataset, bad: float) -> None:
    model, (objective, calls) = tiny_model(), make_poisoned(bad, at_call=10)  # 5 + 2 calls per epoch: epoch 2, batch 3
    good: list[bytes] = []
    with pytest.raises(FloatingPointError) as stopped:
        train(digits, model, objective, on_batch=lambda: good.append(kd.weights_bytes(model)))
    message = str(stopped.value)
    assert "epoch 2 of 3, batch 3 at learning rate " in message
    assert ": hard = " in message
    assert "soft = nan" in message or "soft = inf" in message or "soft = -inf" in message
    assert "lower the learning rate" in message
    assert calls() == 10
    assert len(good) == 7
    assert kd.weights_bytes(model) == good[-1]


@pytest.mark.parametrize("epochs", [0, -1, 2.5, "3"])
def test_epochs_other_than_one_or_more_raise(digits: kd.ImageDataset, epochs: Any) -> None:
    with pytest.raises(ValueError, match=rf"^epochs must be an integer of at least 1\. Got {epochs!r} instead"):
        train(digits, tiny_model(), epochs=epochs)


def test_a_negative_seed_raises_before_the_first_step(digits: kd.ImageDataset) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"^seed must be .* Got -1 instead"):
        train(digits, model, seed=-1)
    assert kd.weights_bytes(model) == kd.weights_bytes(tiny_model())


@pytest.mark.parametrize("measure", [lambda m, x: kd.evaluate(m, kd.supervised, x), kd.predict])
def test_a_loader_without_batches_raises(digits: kd.ImageDataset, measure: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="the loader yields no batch"):
        measure(tiny_model(), DataLoader(digits, batch_size=100, drop_last=True))


def test_training_on_a_loader_without_batches_raises(digits: kd.ImageDataset) -> None:
    model = tiny_model()
    empty, full = DataLoader(digits, batch_size=100, drop_last=True), kd.make_loader(digits, batch_size=50)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for loaders in ((empty, full), (full, empty)):
        with pytest.raises(ValueError, match="the loader yields no batch"):
            kd.fit(model, kd.supervised, *loaders, optimizer=optimizer, epochs=1, seed=0)


def test_the_callbacks_are_called_once_per_step_and_once_per_epoch(digits: kd.ImageDataset) -> None:
    steps: list[int] = []
    epochs: list[tuple[int, int, int]] = []
    train(
        digits,
        tiny_model(),
        on_batch=lambda: steps.append(len(epochs)),
        on_epoch=lambda done, history: epochs.append((done, len(history["val_loss"]), len(history["train_acc"]))),
    )
    assert steps == 5 * [0] + 5 * [1] + 5 * [2]
    assert epochs == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


def test_the_history_has_one_list_per_quantity_and_one_entry_per_epoch(digits: kd.ImageDataset) -> None:
    history = train(digits, tiny_model())
    assert set(history) == {f"{split}_{name}" for split in ("train", "val") for name in ("loss", "hard", "acc", "ce")}
    assert {len(curve) for curve in history.values()} == {3}
    assert all(isinstance(value, float) and math.isfinite(value) for curve in history.values() for value in curve)
    assert all(0 <= value <= 1 for split in ("train", "val") for value in history[f"{split}_acc"])
    assert history.seconds > 0
    assert history.notes == []


def test_custom_metrics_are_recorded_by_name(digits: kd.ImageDataset) -> None:
    def share_of_first_class(output: Tensor, batch: kd.Batch) -> Tensor:
        return (batch[1] == 0).float().mean()

    history = train(digits, tiny_model(), metrics={"share": share_of_first_class}, epochs=1)
    assert set(history) == {"train_loss", "train_hard", "train_share", "val_loss", "val_hard", "val_share"}
    assert history["train_share"] == pytest.approx([1 / CLASSES])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_predictions_are_in_the_loaders_order_in_single_precision_or_better(
    digits: kd.ImageDataset, dtype: torch.dtype
) -> None:
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(1))
    images = torch.stack([digits[int(i)][0] for i in order]).to(dtype)
    model = tiny_model(dropout=0.5).to(dtype)
    steps: list[None] = []
    loader = DataLoader(TensorDataset(images, digits.labels[order]), batch_size=20)
    logits, labels = kd.predict(model, loader, on_batch=lambda: steps.append(None))
    assert (logits.dtype, labels.dtype) == (torch.promote_types(dtype, torch.float32), torch.int64)
    assert (logits.device.type, labels.device.type, logits.requires_grad) == ("cpu", "cpu", False)
    assert torch.equal(labels, digits.labels[order])
    assert len(steps) == 5
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(images).to(logits.dtype), rtol=1e-2, atol=1e-2)


class WrongLength(Sampler[int]):
    """A sampler that yields ``count`` indices but reports a different length."""

    def __init__(self, count: int, reported: int) -> None:
        self.count, self.reported = count, reported

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def __len__(self) -> int:
        return self.reported


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), reported=st.none() | st.integers(1, 60))
def test_predictions_do_not_depend_on_the_loaders_reported_length(sizes: list[int], reported: int | None) -> None:
    batches = [(torch.randn(size, 6), torch.randint(4, (size,))) for size in sizes]
    model = nn.Linear(6, 4)
    loader: Any = batches
    if reported is not None:  # torch trusts the sampler's length, which may be wrong
        loader = DataLoader(batches, batch_size=None, sampler=WrongLength(len(batches), reported))  # type: ignore[arg-type]
    logits, labels = kd.predict(model, loader)
    with torch.no_grad():
        assert torch.equal(logits, torch.cat([model(inputs) for inputs, _ in batches]))
    assert torch.equal(labels, torch.cat([label for _, label in batches]))
    assert logits.untyped_storage().nbytes() == logits.nbytes  # no spare memory


def test_predictions_of_a_loader_with_drop_last_omit_the_last_batch(digits: kd.ImageDataset) -> None:
    loader = DataLoader(digits, batch_size=50, drop_last=True)
    assert len(kd.predict(tiny_model(), loader).logits) == 50
