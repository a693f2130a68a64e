"""Temperature scaling: the fitted temperature is the optimum, on validation images, and changes no prediction."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from kd.evaluation.calibration import Temperature, calibration, fit_temperature, nll, temperature_scaling
from tests.evaluation.test_calibration import exactly, generator, logits_and_labels, make_logits, sample_calibrated


@exactly
@given(logits_and_labels(smallest=5), st.floats(0.2, 5))
def test_the_fitted_temperature_scales_with_the_logits(data: tuple[Tensor, Tensor], factor: float) -> None:
    base, scaled = fit_temperature(*data), fit_temperature(factor * data[0], data[1])
    assume(not base.at_bound and not scaled.at_bound)
    assert scaled.value == pytest.approx(factor * base.value, rel=1e-6)


@exactly
@given(logits_and_labels(smallest=5))
def test_no_temperature_has_a_smaller_nll_than_the_fitted_one(data: tuple[Tensor, Tensor]) -> None:
    fitted = fit_temperature(*data)
    best = nll(*data, temperature=fitted.value)
    temperatures = [0.01 * (100 / 0.01) ** (i / 200) for i in range(201)]
    temperatures += [fitted.value * factor for factor in (0.99, 1.01) if 0.01 <= fitted.value * factor <= 100]
    assert best <= min(nll(*data, temperature=t) for t in temperatures) + 1e-12
    assert fitted.at_bound == (fitted.value in (0.01, 100.0))


def test_all_correct_predictions_return_a_bound_as_temperature() -> None:
    logits = torch.randn(30, 4, generator=generator(0))
    assert fit_temperature(logits, logits.argmax(dim=1)) == Temperature(0.01, at_bound=True)
    assert fit_temperature(logits, logits.argmin(dim=1)) == Temperature(100.0, at_bound=True)


def test_one_wrong_prediction_is_enough_for_an_optimum() -> None:
    logits, labels = make_logits([0.9] * 9 + [0.9], [True] * 9 + [False])
    fitted = fit_temperature(2.5 * logits, labels)
    assert fitted.value == pytest.approx(2.5, rel=1e-9)
    assert not fitted.at_bound


def test_scaling_is_fitted_on_validation_images_and_changes_no_test_prediction() -> None:
    logits, labels = sample_calibrated(4000)
    logits = 2 * logits
    val, test = slice(0, 2000), slice(2000, None)
    result = temperature_scaling(logits[val], labels[val], logits[test], labels[test], bins=10)
    assert result.temperature == fit_temperature(logits[val], labels[val])
    assert result.before == calibration(logits[test], labels[test], bins=10)
    assert result.after == calibration(logits[test] / result.temperature.value, labels[test], bins=10)
    assert result.after.accuracy == result.before.accuracy
    assert result.after.nll < result.before.nll
    assert result.after.ece < result.before.ece


def test_a_temperature_that_rounds_logits_to_a_tie_changes_no_prediction() -> None:
    below, above = 2 - 2**-51, 2 - 2**-52
    logits = torch.tensor([[below, above]], dtype=torch.float64)
    temperature = next(t for t in (1 + i / 64 for i in range(1, 64)) if below / t == above / t)
    assert calibration(logits, torch.tensor([1]), temperature=temperature).accuracy == 1
