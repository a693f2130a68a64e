"""Calibration measures: their written formulas, scikit-learn's values, and what must come out where truth is known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import main
from kd.evaluation.calibration import (
    Bin,
    Calibration,
    Temperature,
    brier_score,
    calibration,
    calibration_error,
    error_by_chance,
    fit_temperature,
    nll,
    reliability,
    temperature_scaling,
)

exactly = settings(max_examples=40)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def judged(draw: st.DrawFn, smallest: int = 1) -> tuple[Tensor, Tensor]:
    """Logits [N, K] in float64, from nearly uniform to nearly one-hot, and labels that often agree with them."""
    images, classes = draw(st.integers(smallest, 50)), draw(st.integers(2, 6))
    random = generator(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0]))
    logits = scale * torch.randn(images, classes, generator=random, dtype=torch.float64)
    guesses = torch.randint(0, classes, (images,), generator=random)
    return logits, torch.where(torch.rand(images, generator=random) < 0.6, logits.argmax(dim=1), guesses)


def sampled(images: int, classes: int = 10, scale: float = 2.0, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Perfectly calibrated: each label is drawn from the very probabilities that the logits state."""
    random = generator(seed)
    logits = scale * torch.randn(images, classes, generator=random, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=random).squeeze(1)


def with_confidences(values: list[float], right: list[bool]) -> tuple[Tensor, Tensor]:
    """Two classes: class 0 is predicted with these probabilities (above one half), and right or wrong as said."""
    logits = torch.tensor([[math.log(c / (1 - c)), 0.0] for c in values], dtype=torch.float64)
    return logits, torch.tensor([0 if hit else 1 for hit in right])


# --- against loops over plain floats


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(z - max(row)) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def looped(logits: Tensor, labels: Tensor, bins: int) -> dict[str, Any]:
    """NLL, Brier score and both calibration errors, image by image."""
    rows = [softmax(row) for row in logits.tolist()]
    truth = labels.tolist()
    images = len(rows)
    confidence = [max(row) for row in rows]
    right = [row.index(max(row)) == label for row, label in zip(rows, truth, strict=True)]
    width: list[list[int]] = [[] for _ in range(bins)]
    mass: list[list[int]] = [[] for _ in range(bins)]
    for i, c in enumerate(confidence):
        width[next(b for b in range(bins) if c <= (b + 1) / bins or b == bins - 1)].append(i)
        mass[sum(other < c for other in confidence) * bins // images].append(i)

    def error(groups: list[list[int]]) -> float:
        gaps = [abs(sum(right[i] for i in g) - sum(confidence[i] for i in g)) for g in groups]
        return sum(gaps) / images

    return {
        "nll": -sum(math.log(row[label]) for row, label in zip(rows, truth, strict=True)) / images,
        "brier": sum((p - (k == label)) ** 2 for row, label in zip(rows, truth, strict=True) for k, p in enumerate(row))
        / images,
        "ece": error(width),
        "adaptive_ece": error(mass),
        "confidence": sum(confidence) / images,
        "accuracy": sum(right) / images,
        "width": [len(g) for g in width],
        "mass": [len(g) for g in mass],
    }


@exactly
@given(judged(), st.integers(1, 20))
def test_every_measure_is_its_written_formula(data: tuple[Tensor, Tensor], bins: int) -> None:
    expected = looped(*data, bins)
    measured = calibration(*data, bins=bins)
    for name, value in measured._asdict().items():
        assert value == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
    for equal_mass, counts in ((False, "width"), (True, "mass")):
        shown = reliability(*data, bins=bins, equal_mass=equal_mass)
        assert [b.images for b in shown] == expected[counts]


@exactly
@given(judged())
def test_nll_and_brier_score_are_scikit_learns(data: tuple[Tensor, Tensor]) -> None:
    logits, labels = data
    probabilities = logits.softmax(dim=1).numpy()
    classes = range(logits.shape[1])
    assert nll(logits, labels) == pytest.approx(sklearn.metrics.log_loss(labels, probabilities, labels=classes))
    one_against_the_rest = [
        sklearn.metrics.brier_score_loss((labels == k).numpy(), probabilities[:, k], pos_label=True) for k in classes
    ]
    assert brier_score(logits, labels) == pytest.approx(sum(one_against_the_rest))


def test_a_case_worked_by_hand() -> None:
    """Confidences 0.6, 0.8, 0.9, 0.9, of which the second and the last are wrong."""
    logits, labels = with_confidences([0.6, 0.8, 0.9, 0.9], [True, False, True, False])
    result = calibration(logits, labels, bins=5)
    assert result.nll == pytest.approx(-(math.log(0.6) + math.log(0.2) + math.log(0.9) + math.log(0.1)) / 4)
    assert result.brier == pytest.approx(2 * (0.4**2 + 0.8**2 + 0.1**2 + 0.9**2) / 4)
    assert (result.confidence, result.accuracy) == pytest.approx((0.8, 0.5))
    # (0.4, 0.6]: 1 image, (0.6, 0.8]: 1, (0.8, 1]: 2. The logarithms may leave 0.6 and 0.8 on either side of an edge,
    # so bins of a width that is clear of them are counted here; edges have a test of their own.
    shown = reliability(logits, labels, bins=4)
    assert [b.images for b in shown] == [0, 0, 1, 3]
    assert shown[:2] == (Bin(0, None, None),) * 2
    assert shown[2][1:] == pytest.approx((0.6, 1.0))
    assert shown[3][1:] == pytest.approx((2.6 / 3, 1 / 3))
    assert calibration_error(shown) == pytest.approx((0.4 + 3 * (2.6 / 3 - 1 / 3)) / 4)
    # Ranks 0, 1, 2, 2 of 4 in 2 bins.
    halves = reliability(logits, labels, bins=2, equal_mass=True)
    assert [b.images for b in halves] == [2, 2]
    assert calibration_error(halves) == pytest.approx((2 * abs(0.5 - 0.7) + 2 * abs(0.5 - 0.9)) / 4)


# --- relations that must hold


@exactly
@given(judged(), st.integers(0, 2**31))
def test_the_order_of_the_images_changes_nothing(data: tuple[Tensor, Tensor], seed: int) -> None:
    logits, labels = data
    logits = torch.cat([logits, logits[: len(logits) // 2]])  # with ties
    labels = torch.cat([labels, (labels[: len(labels) // 2] + 1) % logits.shape[1]])
    order = torch.randperm(len(labels), generator=generator(seed))
    assert calibration(logits[order], labels[order]) == pytest.approx(calibration(logits, labels), rel=1e-9, abs=1e-12)
    assert fit_temperature(logits[order], labels[order]).value == pytest.approx(
        fit_temperature(logits, labels).value, rel=1e-6
    )


@exactly
@given(judged(), st.floats(-50, 50))
def test_a_constant_added_to_a_row_changes_nothing(data: tuple[Tensor, Tensor], constant: float) -> None:
    logits, labels = data
    shifted = logits + constant * torch.arange(len(logits), dtype=torch.float64)[:, None] / len(logits)
    assert calibration(shifted, labels) == pytest.approx(calibration(logits, labels), rel=1e-6, abs=1e-9)
    assert fit_temperature(shifted, labels).value == pytest.approx(fit_temperature(logits, labels).value, rel=1e-6)


@exactly
@given(judged())
def test_measures_stay_within_their_ranges(data: tuple[Tensor, Tensor]) -> None:
    result = calibration(*data)
    assert result.nll >= 0
    assert 0 <= result.brier <= 2
    assert 0 <= result.ece <= 1
    assert 0 <= result.adaptive_ece <= 1
    assert abs(result.confidence - result.accuracy) <= min(result.ece, result.adaptive_ece) + 1e-12  # the triangle's


@exactly
@given(judged(smallest=2), st.integers(1, 80))
def test_bins_of_equal_mass_differ_by_one_image_at_most(data: tuple[Tensor, Tensor], bins: int) -> None:
    assume(len(data[0].softmax(dim=1).amax(dim=1).unique()) == len(data[0]))
    counts = [b.images for b in reliability(*data, bins=bins, equal_mass=True)]
    assert len(counts) == bins
    assert sum(counts) == len(data[0])
    assert max(counts) - min(counts) <= 1


def test_equal_confidences_are_never_parted() -> None:
    logits, labels = with_confidences([0.9] * 8 + [0.6, 0.7], [True, False] * 5)
    shown = reliability(logits, labels, bins=5, equal_mass=True)
    assert [b.images for b in shown] == [2, 8, 0, 0, 0]
    assert shown[2] == Bin(0, None, None)


@pytest.mark.parametrize(("classes", "place"), [(3, 4), (5, 2), (15, 0)])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(classes: int, place: int) -> None:
    shown = reliability(torch.zeros(1, classes), torch.tensor([0]))
    assert [b.images for b in shown] == [int(b == place) for b in range(15)]


def test_without_a_bin_in_which_to_look_there_is_no_error_to_tell() -> None:
    with pytest.raises(ValueError, match="bins must be bins of which one holds an image"):
        calibration_error([Bin(0, None, None)])


# --- where the truth is known


@pytest.mark.parametrize(("images", "classes"), [(200, 10), (2000, 10), (2000, 2)])
def test_perfect_calibration_shows_the_error_of_chance(images: int, classes: int) -> None:
    """In a bin of n images of confidence c, |accuracy − c| is on average √(2 c (1 − c) / (π n)), by the normal law."""
    errors, expected, foretold = [], [], []
    for seed in range(20):
        logits, labels = sampled(images, classes, seed=seed)
        shown = reliability(logits, labels)
        errors.append(calibration_error(shown))
        terms = [(n, c) for n, c, _ in shown if c is not None]
        expected.append(sum(n / images * math.sqrt(2 * c * (1 - c) / (math.pi * n)) for n, c in terms))
        foretold.append(error_by_chance(logits, draws=100, seed=seed).mean)
    assert sum(errors) == pytest.approx(sum(expected), rel=0.2)
    assert sum(foretold) == pytest.approx(sum(errors), rel=0.15)


def test_chance_exceeds_its_limit_in_one_case_of_twenty() -> None:
    cases = [sampled(300, seed=seed) for seed in range(200)]
    above = sum(calibration(*case).ece > error_by_chance(case[0], draws=200, seed=7).high for case in cases)
    assert 2 <= above <= 20  # 10 expected


def test_chance_is_the_same_for_the_same_seed_and_smaller_with_more_images() -> None:
    logits, _ = sampled(4000)
    assert error_by_chance(logits, draws=50) == error_by_chance(logits, draws=50)
    assert error_by_chance(logits, draws=50) != error_by_chance(logits, draws=50, seed=1)
    ratio = error_by_chance(logits[:1000], draws=200).mean / error_by_chance(logits, draws=200).mean
    assert ratio == pytest.approx(2, rel=0.25)
    assert error_by_chance(logits, draws=50).mean < error_by_chance(logits, draws=50).high


def test_overconfidence_is_seen_by_every_measure_and_mended_by_its_temperature() -> None:
    logits, labels = sampled(20_000)
    good, bad = calibration(logits, labels), calibration(3 * logits, labels)
    assert bad.ece > 0.1 > 0.02 > good.ece
    assert bad.adaptive_ece > 0.1 > 0.02 > good.adaptive_ece
    assert bad.nll > good.nll
    assert bad.brier > good.brier
    assert bad.confidence - bad.accuracy > 0.1
    assert fit_temperature(3 * logits, labels).value == pytest.approx(3, rel=0.05)
    assert calibration(3 * logits, labels, temperature=3) == pytest.approx(good, rel=1e-9)


def test_the_documents_example_prints_what_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    document = Path(main.__file__).parent / "docs" / "calibration_and_fidelity.md"
    text = document.read_text(encoding="utf-8")
    (program,), (printed,) = (re.findall(f"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "text"))
    exec(program, {})
    shown, number = capsys.readouterr().out, r"\d+\.\d"
    assert re.sub(number, "", shown) == re.sub(number, "", printed)
    values, documented = ([float(value) for value in re.findall(number, text)] for text in (shown, printed))
    assert values == pytest.approx(documented, abs=0.2)  # the last digit may differ on another processor


# --- temperature


@exactly
@given(judged(smallest=5), st.floats(0.2, 5))
def test_the_fitted_temperature_scales_with_the_logits(data: tuple[Tensor, Tensor], factor: float) -> None:
    one, other = fit_temperature(*data), fit_temperature(factor * data[0], data[1])
    assume(not one.at_bound and not other.at_bound)
    assert other.value == pytest.approx(factor * one.value, rel=1e-6)


@exactly
@given(judged(smallest=5))
def test_no_temperature_has_a_smaller_nll_than_the_fitted_one(data: tuple[Tensor, Tensor]) -> None:
    fitted = fit_temperature(*data)
    best = nll(*data, temperature=fitted.value)
    tried = [0.01 * (100 / 0.01) ** (i / 200) for i in range(201)]
    tried += [fitted.value * factor for factor in (0.99, 1.01) if 0.01 <= fitted.value * factor <= 100]
    assert best <= min(nll(*data, temperature=t) for t in tried) + 1e-12
    assert fitted.at_bound == (fitted.value in (0.01, 100.0))


def test_predictions_that_are_all_right_have_no_finite_optimum_and_say_so() -> None:
    logits = torch.randn(30, 4, generator=generator(0))
    assert fit_temperature(logits, logits.argmax(dim=1)) == Temperature(0.01, at_bound=True)
    assert fit_temperature(logits, logits.argmin(dim=1)) == Temperature(100.0, at_bound=True)


def test_one_wrong_prediction_is_enough_for_an_optimum() -> None:
    logits, labels = with_confidences([0.9] * 9 + [0.9], [True] * 9 + [False])
    fitted = fit_temperature(2.5 * logits, labels)
    assert fitted.value == pytest.approx(2.5, rel=1e-9)
    assert not fitted.at_bound


def test_scaling_is_fitted_on_validation_images_and_changes_no_test_prediction() -> None:
    logits, labels = sampled(4000)
    logits = 2 * logits
    val, test = slice(0, 2000), slice(2000, None)
    result = temperature_scaling(logits[val], labels[val], logits[test], labels[test], bins=10)
    assert result.temperature == fit_temperature(logits[val], labels[val])
    assert result.before == calibration(logits[test], labels[test], bins=10)
    assert result.after == calibration(logits[test] / result.temperature.value, labels[test], bins=10)
    assert result.after.accuracy == result.before.accuracy
    assert result.after.nll < result.before.nll
    assert result.after.ece < result.before.ece


def test_a_temperature_that_rounds_a_lead_away_changes_no_prediction() -> None:
    below, above = 2 - 2**-51, 2 - 2**-52
    logits = torch.tensor([[below, above]], dtype=torch.float64)
    temperature = next(t for t in (1 + i / 64 for i in range(1, 64)) if below / t == above / t)
    assert calibration(logits, torch.tensor([1]), temperature=temperature).accuracy == 1


# --- extremes


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_gaps_of_ten_thousand_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]]).to(dtype)
    result = calibration(logits, torch.tensor([2, 1]))
    assert result == pytest.approx(Calibration(nll=1e4, brier=1, ece=0.5, adaptive_ece=0.5, confidence=1, accuracy=0.5))
    assert all(math.isfinite(value) for value in error_by_chance(logits, draws=5))
    fitted = fit_temperature(logits, torch.tensor([2, 1]))
    assert fitted == Temperature(100.0, at_bound=True)


def test_the_worst_brier_score_is_two_and_the_best_nll_is_a_plain_zero() -> None:
    sure = torch.tensor([[1e4, 0.0]])
    assert brier_score(sure, torch.tensor([1])) == 2
    assert math.copysign(1, nll(sure, torch.tensor([0]))) == 1
    assert nll(sure, torch.tensor([0])) == 0


def test_a_single_image_is_enough() -> None:
    logits, labels = with_confidences([0.75], [True])
    assert calibration(logits, labels) == pytest.approx(
        Calibration(-math.log(0.75), 2 * 0.25**2, 0.25, 0.25, 0.75, 1.0)
    )


@pytest.mark.parametrize("classes", [2, 7])
def test_constant_logits_state_nothing_and_no_temperature_changes_that(classes: int) -> None:
    labels = torch.arange(classes)
    logits = labels[:, None].double().expand(classes, classes)  # another constant in each row
    result = calibration(logits, labels)
    assert result.nll == pytest.approx(math.log(classes))
    assert result.brier == pytest.approx(1 - 1 / classes)
    assert result.ece == pytest.approx(0, abs=1e-12)
    assert result.accuracy == pytest.approx(1 / classes)  # the first class is predicted
    assert fit_temperature(logits, labels) == Temperature(1.0, at_bound=False)
    assert calibration(logits, labels, temperature=10) == pytest.approx(result)


def test_the_arguments_are_left_as_they_were() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    copy, labels = logits.detach().clone(), torch.tensor([0, 1, 2, 0, 1], dtype=torch.uint8)
    temperature_scaling(logits, labels, logits, labels)
    assert torch.equal(logits, copy)
    assert logits.grad is None


# --- what is refused

LOGITS, LABELS = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
MEASURES: list[Callable[..., Any]] = [calibration, nll, brier_score, reliability, fit_temperature]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4), LABELS, r"logits must be \[images, classes\] .*Got \[4\] instead"),
        (torch.zeros(4, 3, 1), LABELS, r"Got \[4, 3, 1\] instead"),
        (torch.zeros(0, 3), LABELS[:0], r"at least 1 image and 2 classes. Got \[0, 3\]"),
        (torch.zeros(4, 1), LABELS, r"at least 1 image and 2 classes. Got \[4, 1\]"),
        (LOGITS.index_fill(0, torch.tensor(2), math.nan), LABELS, r"logits must be finite.*in 1 of 4 rows"),
        (LOGITS - math.inf, LABELS, r"logits must be finite.*in 4 of 4 rows"),
        (LOGITS, LABELS[:3], r"labels must be \[4\], one per row of logits. Got \[3\] instead"),
        (LOGITS, torch.eye(3)[LABELS], r"labels must be \[4\]"),
        (LOGITS, LABELS.float(), "labels must be whole numbers. Got torch.float32"),
        (LOGITS, LABELS.bool(), "labels must be whole numbers. Got torch.bool"),
        (LOGITS, LABELS + 1, "labels must be within 0 … 2, the .*Got '1 … 3'"),
        (LOGITS, LABELS - 1, "labels must be within 0 … 2, the .*Got '-1 … 1'"),
    ],
)
def test_what_fits_no_measure_is_refused(
    measure: Callable[..., Any], logits: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(logits, labels)


@pytest.mark.parametrize("measure", [calibration, nll, brier_score, reliability])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(measure: Callable[..., Any], temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        measure(LOGITS, LABELS, temperature=temperature)


def test_no_bins_no_draws_and_other_classes_are_refused() -> None:
    for equal_mass in (False, True):
        with pytest.raises(ValueError, match="bins must be a whole number of at least 1"):
            reliability(LOGITS, LABELS, bins=0, equal_mass=equal_mass)
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1"):
        error_by_chance(LOGITS, draws=0)
    with pytest.raises(ValueError, match=r"val_logits must be of test_logits' 3 classes. Got \[4, 5\]"):
        temperature_scaling(torch.zeros(4, 5), LABELS, LOGITS, LABELS)
