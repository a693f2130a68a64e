"""The strength of the control with label smoothing: chosen on validation, by several pilots if errors do not decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import kd
from kd.commands.compare import students
from kd.commands.compare.settings import STRENGTHS
from kd.commands.compare.students import choose_smoothing
from kd.commands.compare.teachers import Teacher, list_seeds
from kd.commands.data import load_data
from kd.commands.dry_run import plan
from kd.commands.paired_settings import PILOT_SEEDS
from kd.evaluation.quantities import BALANCED, ERRORS, NLL, Quantity, choose_quantity
from kd.models.inference import Predictions
from kd.training.history import History
from kd.training.students import Student, TrainedStudent
from tests.commands.compare.test_command import CPU, MNIST, SETTINGS

LABELS = (torch.arange(600) < 12).long()  # twelve rare items
RECALL = choose_quantity("recall:rare", LABELS, ("common", "rare"))
# Rare items found by the pilots of each strength. The best of the first pilots is the weakest strength, the best of all
# is 0.3.
FOUND = {0.05: (9, 2, 2), 0.1: (5, 3, 4), 0.2: (6, 5, 4), 0.3: (7, 8, 7), 0.5: (8, 5, 6)}


def predict(found: int) -> Predictions:
    predicted = LABELS.clone()
    predicted[found:12] = 0
    return Predictions(4 * torch.nn.functional.one_hot(predicted, 2).float(), LABELS)


def choose(quantity: Quantity, monkeypatch: pytest.MonkeyPatch) -> tuple[float, list[str], dict[str, bytes]]:
    """Return the choice, the names of the pilots and their initial weights."""
    trained: dict[str, bytes] = {}

    def fake(_: Any, pilots: Mapping[str, Student], *, tested: bool, **__: Any) -> Iterator[tuple[str, TrainedStudent]]:
        assert not tested
        counts = dict.fromkeys(STRENGTHS, 0)
        for name, pilot in pilots.items():
            trained[name] = kd.weights_bytes(pilot.model)
            strength = float(name.split("-")[2])
            found = FOUND[strength][counts[strength]]
            counts[strength] += 1
            yield name, TrainedStudent({}, History(), predict(found), None)

    monkeypatch.setattr(students, "train_students", fake)
    prepared: Any = SimpleNamespace(data=SimpleNamespace(task=MNIST, class_weights=None), control_data=None)
    nothing: Any = None
    teacher = Teacher(0, SETTINGS, prepared, nothing, nothing, list_seeds(SETTINGS, 0))
    return choose_smoothing(SETTINGS, [teacher], quantity, CPU), list(trained), trained


def test_errors_take_one_pilot_for_each_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    best, names, _ = choose(ERRORS, monkeypatch)
    assert names == [f"pilot-smoothing-{strength}" for strength in STRENGTHS]
    assert best == 0.05


@pytest.mark.parametrize("quantity", [BALANCED, NLL, RECALL])
def test_the_mean_over_the_pilots_decides_where_errors_do_not(
    quantity: Quantity, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best, names, weights = choose(quantity, monkeypatch)
    assert best == 0.3
    assert len(names) == PILOT_SEEDS * len(STRENGTHS)
    assert {*names} >= {f"pilot-smoothing-{strength}" for strength in STRENGTHS}  # also those of the errors
    assert len(set(weights.values())) == PILOT_SEEDS
    assert f"means of {PILOT_SEEDS} pilots: 0.05: " in " ".join(capsys.readouterr().out.split())


def test_the_pilots_are_part_of_the_estimate(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    labels = (np.arange(200) < 20).astype(np.int64)
    np.savez(path, x=rng.standard_normal((200, 4)).astype(np.float32), y=labels)
    settings = dataclasses.replace(SETTINGS, data=str(path), teacher=("mlp:4",), student="mlp:4", limit=None)
    counts = {
        decide: plan(own, load_data(own), CPU).trainings["pilot"]
        for decide in ("auto", "errors", "balanced")
        for own in [dataclasses.replace(settings, decide=decide)]
    }
    expected = {"auto": PILOT_SEEDS, "errors": 1, "balanced": PILOT_SEEDS}
    assert counts == {decide: seeds * len(STRENGTHS) for decide, seeds in expected.items()}


def test_equal_strengths_are_not_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weakest of several equal strengths was once "the best"."""
    assert choose(ERRORS, monkeypatch)[0] == 0.05
    assert "label smoothing 0.05 is the best on the validation" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setitem(FOUND, 0.2, FOUND[0.05])
    assert choose(ERRORS, monkeypatch)[0] == 0.05
    assert "0.05 is the weakest of the 2 best on the validation" in " ".join(capsys.readouterr().out.split())
