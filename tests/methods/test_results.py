"""What an objective returns is checked in every training: its form, and that no curve hides another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.methods import own_objective
from kd.training.batch_metrics import METRICS


def fit(objective: Any, **options: Any) -> kd.History:
    with kd.seeded(0):
        model, batch = nn.Linear(3, 4), (torch.randn(8, 3), torch.arange(8) % 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return kd.fit(model, objective, [batch], None, epochs=1, seed=0, optimizer=optimizer, **options)  # type: ignore[arg-type]


def returning(result: Any) -> Any:
    """Return an objective with this result, a function of output and cross-entropy."""

    def objective(model: nn.Module, batch: kd.Batch) -> Any:
        output, terms = kd.supervised(model, batch)
        return result(output, terms["hard"])

    return objective


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (lambda output, loss: loss, r"must return \(output, terms\).* Got a tensor of shape \[\] instead"),
        (lambda output, loss: None, "Got a NoneType instead"),
        (lambda output, loss: (output, loss), "Got a tuple instead"),
        (lambda output, loss: (output, {}), "Got a tuple instead"),
        (lambda output, loss: (None, {"hard": loss}), "Got a tuple instead"),
        (lambda output, loss: (output, {"hard": 1.0}), "the term 'hard' of the objective must be .* Got a float"),
        (lambda output, loss: (output, {"hard": output}), r"Got a tensor of shape \[8, 4\]"),
        (lambda output, loss: (output, {"hard": loss + 1j}), r"Got a complex tensor of shape \[\]"),
    ],
)
def test_a_result_of_another_form_is_refused(result: Any, got: str) -> None:
    with pytest.raises(ValueError, match=got):
        fit(returning(result))


@pytest.mark.parametrize("name", ["loss", "acc", "ce", "skipped"])
def test_a_term_may_not_hide_another_curve(name: str) -> None:
    """A term "loss" would hide a loss that is not finite, too."""
    with pytest.raises(ValueError, match=f"the term '{name}' of the objective has the name of another curve"):
        fit(returning(lambda output, loss: (output, {name: loss, "far": loss.detach() * math.nan})))


def test_a_single_term_may_be_called_loss() -> None:
    history = fit(returning(lambda output, loss: (output, {"loss": loss})))
    assert history["train_loss"] == history["train_ce"]


def test_the_names_of_all_metrics_are_known_before_the_training() -> None:
    assert set(own_objective._METRICS) == set(METRICS)


@pytest.mark.parametrize(
    ("metrics", "error"),
    [
        ({"hard": lambda output, batch: output.mean()}, "the term 'hard' of the objective has the name of another"),
        ({"loss": lambda output, batch: output.mean()}, "the metric 'loss' has the name of another curve"),
        ({"mean": lambda output, batch: 1.0}, "the metric 'mean' must return .* Got a float instead"),
        ({"mean": lambda output, batch: output}, r"Got a tensor of shape \[8, 4\] instead"),
    ],
)
def test_a_metric_of_another_form_or_name_is_refused(metrics: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        fit(kd.supervised, metrics=metrics)


def test_a_result_may_be_a_list_and_terms_of_any_other_name() -> None:
    def total(output: Tensor, loss: Tensor) -> list[Any]:
        return [output, {"a/b": loss, "": 0 * loss}]

    history = fit(returning(total))
    assert history["train_a/b"] == history["train_loss"] == history["train_ce"]
