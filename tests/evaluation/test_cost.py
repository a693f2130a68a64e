"""Multiply-adds of training match arithmetic by hand; the longer control costs the same as distillation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kd
from kd.evaluation.cost import TrainingCost, measure_footprint, measure_saving, training_cost
from kd.evaluation.multiply_adds import training_multiply_adds
from kd.models.networks import MLP
from tests.conftest import tiny_model


def batch(size: int = 8) -> kd.Batch:
    return torch.randn(size, 1, 6, 6), torch.zeros(size, dtype=torch.int64)


def test_a_training_step_of_a_perceptron_is_counted_as_by_hand() -> None:
    forward, first_layer = 36 * 16 + 16 * 4, 36 * 16
    # Backward: once for the weights of each layer, once for the inputs of all but the first, which needs none.
    assert training_multiply_adds(tiny_model(), kd.supervised, batch()) == 8 * (3 * forward - first_layer)


def test_counting_does_not_change_the_model() -> None:
    model = tiny_model(dropout=0.5, batch_norm=True).train()
    before = kd.weights_bytes(model)
    training_multiply_adds(model, kd.supervised, batch())
    assert kd.weights_bytes(model) == before
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_cost_scales_with_epochs_and_images() -> None:
    teacher, student = nn.Sequential(nn.Flatten(), nn.Linear(36, 100), nn.Linear(100, 4)), tiny_model()
    cost = training_cost(teacher, student, batch(), images=1000, epochs=3, served=5)
    assert cost.student == 3 * 1000 * (3 * (36 * 16 + 16 * 4) - 36 * 16)
    assert cost.teacher == 3 * 1000 * (3 * (36 * 100 + 100 * 4) - 36 * 100)
    assert cost.cache == 1000 * (36 * 100 + 100 * 4)
    assert cost.distilled == cost.student + (cost.teacher + cost.cache) / 5
    live = training_cost(teacher, student, batch(), images=1000, epochs=3, served=5, asked_at_each_step=True)
    assert live.distilled == cost.student + cost.teacher / 5 + 3 * 1000 * (36 * 100 + 100 * 4)


@given(
    st.integers(1, 10**12), st.integers(0, 10**10), st.integers(1, 10**10), st.integers(1, 100), st.integers(1, 1000)
)
def test_the_longer_control_has_the_same_multiply_adds_to_half_an_epoch(
    teacher: int, cache: int, student: int, epochs: int, served: int
) -> None:
    cost = TrainingCost(teacher, cache, student, epochs, served)
    assert cost.longer_epochs >= epochs
    rounding = 1e-12 * cost.distilled  # of the two sums themselves, which may be a billion times half an epoch
    assert abs(cost.longer - cost.distilled) <= student / epochs / 2 * (1 + 1e-9) + rounding
    assert TrainingCost(teacher, cache, student, epochs, served + 1).longer_epochs <= cost.longer_epochs


def test_the_cost_of_the_documented_student_follows_from_its_layers() -> None:
    images = torch.randn(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64)
    forward, first_layer = 784 * 256 + 256 * 10, 784 * 256
    assert training_multiply_adds(MLP(256), kd.supervised, images) == 4 * (3 * forward - first_layer)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_outside_its_range_raises(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\)"):
        kd.methods.objectives.smoothed(smoothing=smoothing)


def test_a_footprint_contains_file_size_and_single_input_latency() -> None:
    model = tiny_model()
    footprint = measure_footprint(model, batch(1)[0])
    assert footprint.bytes == len(kd.weights_bytes(model))
    assert footprint.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert footprint.multiply_adds == 36 * 16 + 16 * 4
    assert 0 < footprint.latency.median <= footprint.latency.p90
    assert footprint.latency.threads == 1


def test_a_cache_saves_every_pass_except_the_first() -> None:
    saving = measure_saving(tiny_model(), batch(8), images=800, students=5, epochs=4)
    assert saving.passes == 20
    assert saving.seconds > 0
    assert saving.total == pytest.approx(19 * saving.seconds)
