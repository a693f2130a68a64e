"""Soft targets that say hardly more than labels are reported with their entropy."""

from __future__ import annotations

import math

import pytest
import torch

from kd.teachers.saturation import LEAST_ENTROPY, explain_saturation, mean_entropy


def test_the_entropy_of_known_distributions() -> None:
    assert mean_entropy(torch.zeros(3, 8), 2.0) == pytest.approx(math.log(8))
    two = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    expected = (-0.75 * math.log(0.75) - 0.25 * math.log(0.25) + math.log(2)) / 2
    assert mean_entropy(two, 1.0) == pytest.approx(expected)
    assert mean_entropy(torch.tensor([[1e4, -1e4]]), 1.0) == 0  # no NaN from 0 · log 0


def test_a_higher_temperature_ends_saturation() -> None:
    logits = 12 * torch.eye(10) + torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) / 10
    reason = explain_saturation(logits, 1.0)
    assert reason is not None
    entropy = mean_entropy(logits, 1.0)
    assert f"at T = 1 its soft targets have a mean entropy of {entropy:.3g} nats" in reason
    assert entropy < LEAST_ENTROPY < mean_entropy(logits, 5.0)
    assert explain_saturation(logits, 5.0) is None


@pytest.mark.parametrize("scale", [1.0, 13.8])
def test_labels_in_place_of_outputs_are_reported_at_any_temperature(scale: float) -> None:
    labels = scale * torch.eye(3)[torch.arange(2500) % 3]
    for temperature in (1.0, 20.0):
        reason = explain_saturation(labels, temperature)
        assert reason is not None
        assert "one-hot or smoothed" in reason
    assert explain_saturation(labels + torch.linspace(0, 1, 2500)[:, None] * torch.eye(3)[0], 5.0) is None
    assert explain_saturation(torch.ones(1, 3), 5.0) is None
