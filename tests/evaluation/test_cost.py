"""Multiply-adds of training: counted against arithmetic by hand, and the longer control that they pay for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kd
from kd.evaluation.cost import TrainingCost, measure_footprint, saved, training_cost
from kd.evaluation.multiply_adds import training_multiply_adds
from kd.models.networks import MLP
from tests.conftest import tiny_model


def batch(size: int = 8) -> kd.Batch:
    return torch.randn(size, 1, 6, 6), torch.zeros(size, dtype=torch.int64)


def test_a_step_of_a_perceptron_is_counted_as_by_hand() -> None:
    forward, first_layer = 36 * 16 + 16 * 4, 36 * 16
    # Backward: once for the weights of each layer, once for the inputs of all but the first, which needs none.
    assert training_multiply_adds(tiny_model(), kd.supervised, batch()) == 8 * (3 * forward - first_layer)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = tiny_model(dropout=0.5, batch_norm=True).train()
    before = kd.weights_bytes(model)
    training_multiply_adds(model, kd.supervised, batch())
    assert kd.weights_bytes(model) == before
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_whole_training_is_epochs_times_images() -> None:
    teacher, student = nn.Sequential(nn.Flatten(), nn.Linear(36, 100), nn.Linear(100, 4)), tiny_model()
    found = training_cost(teacher, student, batch(), images=1000, epochs=3, served=5)
    assert found.student == 3 * 1000 * (3 * (36 * 16 + 16 * 4) - 36 * 16)
    assert found.teacher == 3 * 1000 * (3 * (36 * 100 + 100 * 4) - 36 * 100)
    assert found.cache == 1000 * (36 * 100 + 100 * 4)
    assert found.distilled == found.student + (found.teacher + found.cache) / 5
    live = training_cost(teacher, student, batch(), images=1000, epochs=3, served=5, asked_at_each_step=True)
    assert live.distilled == found.student + found.teacher / 5 + 3 * 1000 * (36 * 100 + 100 * 4)


@given(
    st.integers(1, 10**12), st.integers(0, 10**10), st.integers(1, 10**10), st.integers(1, 100), st.integers(1, 1000)
)
def test_the_longer_control_has_the_same_multiply_adds_to_half_an_epoch(
    teacher: int, cache: int, student: int, epochs: int, served: int
) -> None:
    found = TrainingCost(teacher, cache, student, epochs, served)
    assert found.longer_epochs >= epochs
    rounding = 1e-12 * found.distilled  # of the two sums themselves, which may be a billion times half an epoch
    assert abs(found.longer - found.distilled) <= student / epochs / 2 * (1 + 1e-9) + rounding
    assert TrainingCost(teacher, cache, student, epochs, served + 1).longer_epochs <= found.longer_epochs


def test_the_documented_student_costs_what_its_layers_say() -> None:
    images = torch.randn(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64)
    forward, first_layer = 784 * 256 + 256 * 10, 784 * 256
    assert training_multiply_adds(MLP(256), kd.supervised, images) == 4 * (3 * forward - first_layer)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\)"):
        kd.methods.objectives.smoothed(smoothing=smoothing)


def test_a_footprint_is_the_file_and_one_answer() -> None:
    model = tiny_model()
    found = measure_footprint(model, batch(1)[0])
    assert found.bytes == len(kd.weights_bytes(model))
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.multiply_adds == 36 * 16 + 16 * 4
    assert 0 < found.latency.median <= found.latency.p90
    assert found.latency.threads == 1


def test_what_is_saved_is_every_pass_but_the_first() -> None:
    found = saved(tiny_model(), batch(8), images=800, students=5, epochs=4)
    assert found.passes == 20
    assert found.seconds > 0
    assert found.total == pytest.approx(19 * found.seconds)
