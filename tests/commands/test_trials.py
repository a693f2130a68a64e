"""A small experiment: arms that differ in nothing but the objective, errors counted, and verdicts printed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
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


def test_a_copy_is_trained_and_the_start_stays_as_it_was(data: TensorDataset, start: MLP) -> None:
    before = weights(start).clone()
    done = train_copy(start, kd.supervised, data, **SETTINGS)
    assert torch.equal(weights(start), before)
    assert not torch.equal(weights(done), before)


def test_arms_with_the_same_objective_end_bit_identical_and_another_seed_does_not(
    data: TensorDataset, start: MLP
) -> None:
    distill_data = kd.DistillDataset(data, torch.randn(40, 3))
    control = train_copy(start, kd.supervised, data, **SETTINGS)
    twin = train_copy(start, kd.distilled(temperature=2, alpha=1), distill_data, **SETTINGS)
    other = train_copy(start, kd.supervised, data, **{**SETTINGS, "seed": 4})
    assert torch.equal(weights(control), weights(twin))
    assert not torch.equal(weights(control), weights(other))


def test_a_loader_is_taken_as_it_is(data: TensorDataset, start: MLP) -> None:
    loader = kd.make_loader(data, batch_size=8, shuffle=True)
    done = train_copy(start, kd.supervised, loader, seed=3, epochs=2)
    assert torch.equal(weights(done), weights(train_copy(start, kd.supervised, data, **SETTINGS)))


def test_errors_are_the_items_that_it_gets_wrong() -> None:
    logits = torch.eye(3)[[0, 1, 2, 0]]
    assert count_errors(torch.nn.Identity(), TensorDataset(logits, torch.tensor([0, 1, 0, 2]))) == 2


def test_each_pair_is_judged_against_its_own_control(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"control": [50, 52, 51, 53], "good": [40, 41, 42, 42], "bad": [70, 71, 73, 72]}
    verdicts = judge_arms(found, [("good", "control"), ("bad", "control"), ("bad", "good")], images=1000)
    assert {name: own.verdict for name, own in verdicts.items()} == {
        "good − control": "helps",
        "bad − control": "hurts",
        "bad − good": "hurts",
    }
    printed = capsys.readouterr().out
    assert "-10.2 (" in printed
    assert "4 seeds; errors of each: control 50 52 51 53; good 40 41 42 42" in printed


def test_the_interval_shown_is_the_one_that_decides(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"control": [50, 50, 50, 50], "a": [46, 50, 44, 45], "b": [49, 50, 52, 51]}
    own = judge_arms(found, [("a", "control"), ("b", "control")], images=1000)["a − control"]
    assert own.interval is not None
    assert f"{own.interval.low:+.1f} to {own.interval.high:+.1f}" in capsys.readouterr().out
