"""``keep="best"`` keeps the best epoch by the validation results; ``patience`` ends the training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from torch import nn

import kd
from kd.methods.objectives import WrappedObjective
from kd.training.kept_epoch import KeptEpoch
from kd.training.recipe import Recipe
from tests.training.test_step import WrappedForward, load, train


def test_the_weights_of_the_best_epoch_are_kept(digits: kd.ImageDataset) -> None:
    """With a learning rate that ruins the model, an early epoch is the best."""
    recipe = Recipe(epochs=6, optimizer="sgd", learning_rate=3.0, keep="best")
    model, history = train(digits, recipe)
    best = max(range(6), key=lambda epoch: (history["val_acc"][epoch], -history["val_loss"][epoch], -epoch))
    results = kd.evaluate(model, kd.supervised, load(digits, 50))
    assert (results["acc"], results["loss"]) == (history["val_acc"][best], history["val_loss"][best])
    assert f"those of epoch {best + 1} of 6, chosen by the validation set" in history.notes[0]
    assert best < 5


def test_patience_ends_the_training(digits: kd.ImageDataset) -> None:
    _, complete = train(digits, Recipe(epochs=12, optimizer="sgd", learning_rate=3.0, keep="best"))
    recipe = Recipe(epochs=12, optimizer="sgd", learning_rate=3.0, keep="best", patience=2)
    _, history = train(digits, recipe)
    scores = list(zip(history["val_acc"], [-loss for loss in history["val_loss"]], strict=True))
    assert len(scores) < 12
    assert max(scores) not in scores[-2:]
    assert max(scores) in scores[:-2]
    assert history["val_loss"] == complete["val_loss"][: len(scores)]


def test_without_labels_in_validation_the_loss_chooses() -> None:
    kept, model = KeptEpoch(), nn.Linear(1, 1)
    for epoch, loss in enumerate((3.0, 1.0, 2.0, 1.0)):
        kept.consider(epoch, {"loss": loss, "acc": math.nan}, model)
    assert (kept.epoch, kept.loss) == (2, 1.0)
    assert "(loss 1.0000)" in kept.describe(4, 4)


def test_of_equal_accuracies_the_lowest_cross_entropy_counts_because_losses_differ_between_objectives() -> None:
    kept, model = KeptEpoch(), nn.Linear(1, 1)
    for epoch, (loss, ce) in enumerate(((3.0, 2.0), (2.0, 1.0), (1.0, 1.5))):
        kept.consider(epoch, {"loss": loss, "acc": 0.5, "ce": ce}, model)
    assert kept.epoch == 2


class TwoPhases(WrappedObjective):
    """The first of two phases trains nothing."""

    def __init__(self) -> None:
        super().__init__(kd.supervised)
        self.is_first = False

    def first_phase(self, epochs: int) -> int:
        return epochs // 2

    def set_epoch(self, epoch: int, epochs: int) -> None:
        self.is_first = epoch < self.first_phase(epochs)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        output, terms = self.objective(model, batch)
        return output, {"hard": 0 * terms["hard"] if self.is_first else terms["hard"]}


@pytest.mark.parametrize("wrap", [lambda objective: objective, WrappedForward], ids=["plain", "wrapped"])
def test_no_epoch_of_a_first_phase_counts(digits: kd.ImageDataset, wrap: Any) -> None:
    recipe = Recipe(epochs=8, keep="best", patience=2)
    _, history = train(digits, recipe, objective=wrap(TwoPhases()))
    assert len(history["val_acc"]) > 4
    assert history.kept > 4
    _, single = train(digits, dataclasses.replace(recipe, epochs=1), objective=wrap(TwoPhases()))
    assert single.kept == 1
