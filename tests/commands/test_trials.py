"""Small experiments: arms that differ only in the objective, error counts and printed verdicts."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.data import TensorDataset

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy, verdict_cells
from kd.evaluation.paired_seeds import pair_errors
from kd.evaluation.verdict import judge_counts
from kd.models.networks import MLP

SETTINGS = {"seed": 3, "epochs": 2, "batch_size": 8}


@pytest.fixture(name="data")
def _data() -> TensorDataset:
    with kd.seeded(0):
        return TensorDataset(torch.randn(40, 5), torch.arange(40) % 3)


@pytest.fixture(name="start")
def _start() -> MLP:
    with kd.seeded(1):
        return MLP(4, input_shape=(5,), classes=3)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_copy_is_trained_and_the_start_is_unchanged(data: TensorDataset, start: MLP) -> None:
    before = weights(start).clone()
    model = train_copy(start, kd.supervised, data, **SETTINGS)
    assert torch.equal(weights(start), before)
    assert not torch.equal(weights(model), before)


def test_equal_objectives_and_seeds_give_bit_identical_models(data: TensorDataset, start: MLP) -> None:
    distill_data = kd.DistillDataset(data, torch.randn(40, 3))
    control = train_copy(start, kd.supervised, data, **SETTINGS)
    twin = train_copy(start, kd.distilled(temperature=2, alpha=1), distill_data, **SETTINGS)
    reseeded = train_copy(start, kd.supervised, data, **{**SETTINGS, "seed": 4})
    assert torch.equal(weights(control), weights(twin))
    assert not torch.equal(weights(control), weights(reseeded))


def test_a_loader_is_used_unchanged(data: TensorDataset, start: MLP) -> None:
    loader = kd.make_loader(data, batch_size=8, shuffle=True)
    model = train_copy(start, kd.supervised, loader, seed=3, epochs=2)
    assert torch.equal(weights(model), weights(train_copy(start, kd.supervised, data, **SETTINGS)))


def test_errors_are_wrong_predictions() -> None:
    logits = torch.eye(3)[[0, 1, 2, 0]]
    assert count_errors(torch.nn.Identity(), TensorDataset(logits, torch.tensor([0, 1, 0, 2]))) == 2


def test_each_pair_is_judged_against_its_own_control(capsys: pytest.CaptureFixture[str]) -> None:
    errors = {"control": [50, 52, 51, 53], "good": [40, 41, 42, 42], "bad": [70, 71, 73, 72]}
    verdicts = judge_arms(errors, [("good", "control"), ("bad", "control"), ("bad", "good")], images=1000)
    assert {name: judgement.verdict for name, judgement in verdicts.items()} == {
        "good − control": "better than the labels alone",
        "bad − control": "hurts",
        "bad − good": "hurts",
    }
    printed = capsys.readouterr().out
    assert "-10.2 (" in printed
    assert re.search("4 seeds.*: control 50 52 51 53; good 40 41 42 42", printed)


def test_the_printed_interval_is_the_deciding_one(capsys: pytest.CaptureFixture[str]) -> None:
    errors = {"control": [50, 50, 50, 50], "a": [46, 50, 44, 45], "b": [49, 50, 52, 51]}
    judgement = judge_arms(errors, [("a", "control"), ("b", "control")], images=1000)["a − control"]
    assert judgement.interval is not None
    assert f"{judgement.interval.low:+.1f} to {judgement.interval.high:+.1f}" in capsys.readouterr().out


def test_a_row_rounds_neither_the_margin_nor_an_unknown_spread() -> None:
    """A margin of 0.25 errors was "0.2", and the spread of a single seed "± 0.0"."""
    judged = judge_counts({"a": pair_errors([3] * 30, [3] * 30, 250)})["a"]
    assert verdict_cells(judged)[-1] == "no difference larger than 0.25 errors"
    single = judge_counts({"a": pair_errors([3], [4], 250)})["a"]
    assert verdict_cells(single)[:2] == ["4.0", "3.0"]
