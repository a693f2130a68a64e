"""Calibration metrics match loops over plain floats, scikit-learn, and known truth in simulations."""

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
from kd.devices import using_threads
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
def logits_and_labels(draw: st.DrawFn, smallest: int = 1) -> tuple[Tensor, Tensor]:
    """Logits [N, K] in float64, from nearly uniform to nearly one-hot, and labels that often agree with them."""
    images, classes = draw(st.integers(smallest, 50)), draw(st.integers(2, 6))
    random = generator(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0]))
    logits = scale * torch.randn(images, classes, generator=random, dtype=torch.float64)
    guesses = torch.randint(0, classes, (images,), generator=random)
    return logits, torch.where(torch.rand(images, generator=random) < 0.6, logits.argmax(dim=1), guesses)


def sample_calibrated(images: int, classes: int = 10, scale: float = 2.0, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits and labels drawn from their probabilities, so that calibration is perfect."""
    random = generator(seed)
    logits = scale * torch.randn(images, classes, generator=random, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=random).squeeze(1)


def make_logits(values: list[float], right: list[bool]) -> tuple[Tensor, Tensor]:
    """Return logits of two classes that predict class 0 with these probabilities (above ½), and labels."""
    logits = torch.tensor([[math.log(c / (1 - c)), 0.0] for c in values], dtype=torch.float64)
    return logits, torch.tensor([0 if hit else 1 for hit in right])


# --- comparison with loops over plain floats


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(z - max(row)) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def compute_by_loop(logits: Tensor, labels: Tensor, bins: int) -> dict[str, Any]:
    """Compute NLL, Brier score and both calibration errors image by image."""
    rows = [softmax(row) for row in logits.tolist()]
    truth = labels.tolist()
    images = len(rows)
    confidence = [max(row) for row in rows]
    right = [row.index(max(row)) == label for row, label in zip(rows, truth, strict=True)]
    width: list[list[int]] = [[] for _ in range(bins)]
    mass: list[list[int]] = [[] for _ in range(bins)]
    for i, c in enumerate(confidence):
        width[next(b for b in range(bins) if c <= (b + 1) / bins or b == bins - 1)].append(i)
        mass[sum(value < c for value in confidence) * bins // images].append(i)

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
@given(logits_and_labels(), st.integers(1, 20))
def test_metrics_match_a_loop_over_plain_floats(data: tuple[Tensor, Tensor], bins: int) -> None:
    expected = compute_by_loop(*data, bins)
    measured = calibration(*data, bins=bins)
    for name, value in measured._asdict().items():
        assert value == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
    for equal_mass, counts in ((False, "width"), (True, "mass")):
        curve = reliability(*data, bins=bins, equal_mass=equal_mass)
        assert [b.images for b in curve] == expected[counts]


@exactly
@given(logits_and_labels())
def test_nll_and_brier_score_match_scikit_learn(data: tuple[Tensor, Tensor]) -> None:
    logits, labels = data
    probabilities = logits.softmax(dim=1).numpy()
    classes = range(logits.shape[1])
    assert nll(logits, labels) == pytest.approx(sklearn.metrics.log_loss(labels, probabilities, labels=classes))
    one_against_the_rest = [
        sklearn.metrics.brier_score_loss((labels == k).numpy(), probabilities[:, k], pos_label=True) for k in classes
    ]
    assert brier_score(logits, labels) == pytest.approx(sum(one_against_the_rest))


def test_a_case_worked_by_hand() -> None:
    """Confidences are 0.6, 0.8, 0.9, 0.9; the second and the last prediction are wrong."""
    logits, labels = make_logits([0.6, 0.8, 0.9, 0.9], [True, False, True, False])
    result = calibration(logits, labels, bins=5)
    assert result.nll == pytest.approx(-(math.log(0.6) + math.log(0.2) + math.log(0.9) + math.log(0.1)) / 4)
    assert result.brier == pytest.approx(2 * (0.4**2 + 0.8**2 + 0.1**2 + 0.9**2) / 4)
    assert (result.confidence, result.accuracy) == pytest.approx((0.8, 0.5))
    # Rounding may put 0.6 and 0.8 on either side of an edge of five bins, so four bins are counted here. Edges have
    # a separate test.
    curve = reliability(logits, labels, bins=4)
    assert [b.images for b in curve] == [0, 0, 1, 3]
    assert curve[:2] == (Bin(0, None, None),) * 2
    assert curve[2][1:] == pytest.approx((0.6, 1.0))
    assert curve[3][1:] == pytest.approx((2.6 / 3, 1 / 3))
    assert calibration_error(curve) == pytest.approx((0.4 + 3 * (2.6 / 3 - 1 / 3)) / 4)
    # Ranks 0, 1, 2, 2 of 4 in 2 bins.
    halves = reliability(logits, labels, bins=2, equal_mass=True)
    assert [b.images for b in halves] == [2, 2]
    assert calibration_error(halves) == pytest.approx((2 * abs(0.5 - 0.7) + 2 * abs(0.5 - 0.9)) / 4)


# --- invariants


@exactly
@given(logits_and_labels(), st.integers(0, 2**31))
def test_metrics_do_not_depend_on_the_order_of_the_images(data: tuple[Tensor, Tensor], seed: int) -> None:
    logits, labels = data
    logits = torch.cat([logits, logits[: len(logits) // 2]])  # with ties
    labels = torch.cat([labels, (labels[: len(labels) // 2] + 1) % logits.shape[1]])
    order = torch.randperm(len(labels), generator=generator(seed))
    assert calibration(logits[order], labels[order]) == pytest.approx(calibration(logits, labels), rel=1e-9, abs=1e-12)
    assert fit_temperature(logits[order], labels[order]).value == pytest.approx(
        fit_temperature(logits, labels).value, rel=1e-6
    )


@exactly
@given(logits_and_labels(), st.floats(-50, 50))
def test_a_constant_added_to_a_row_changes_no_metric(data: tuple[Tensor, Tensor], constant: float) -> None:
    logits, labels = data
    shifted = logits + constant * torch.arange(len(logits), dtype=torch.float64)[:, None] / len(logits)
    assert calibration(shifted, labels) == pytest.approx(calibration(logits, labels), rel=1e-6, abs=1e-9)
    assert fit_temperature(shifted, labels).value == pytest.approx(fit_temperature(logits, labels).value, rel=1e-6)


@exactly
@given(logits_and_labels())
def test_metrics_stay_within_their_ranges(data: tuple[Tensor, Tensor]) -> None:
    result = calibration(*data)
    assert result.nll >= 0
    assert 0 <= result.brier <= 2
    assert 0 <= result.ece <= 1
    assert 0 <= result.adaptive_ece <= 1
    assert (
        abs(result.confidence - result.accuracy) <= min(result.ece, result.adaptive_ece) + 1e-12
    )  # triangle inequality


@exactly
@given(logits_and_labels(smallest=2), st.integers(1, 80))
def test_bins_of_equal_mass_differ_by_one_image_at_most(data: tuple[Tensor, Tensor], bins: int) -> None:
    assume(len(data[0].softmax(dim=1).amax(dim=1).unique()) == len(data[0]))
    counts = [b.images for b in reliability(*data, bins=bins, equal_mass=True)]
    assert len(counts) == bins
    assert sum(counts) == len(data[0])
    assert max(counts) - min(counts) <= 1


def test_equal_confidences_share_a_bin() -> None:
    logits, labels = make_logits([0.9] * 8 + [0.6, 0.7], [True, False] * 5)
    curve = reliability(logits, labels, bins=5, equal_mass=True)
    assert [b.images for b in curve] == [2, 8, 0, 0, 0]
    assert curve[2] == Bin(0, None, None)


@pytest.mark.parametrize(("classes", "position"), [(3, 4), (5, 2), (15, 0)])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(classes: int, position: int) -> None:
    curve = reliability(torch.zeros(1, classes), torch.tensor([0]))
    assert [b.images for b in curve] == [int(b == position) for b in range(15)]


def test_the_error_of_empty_bins_is_undefined() -> None:
    with pytest.raises(ValueError, match="images in bins must be at least 1"):
        calibration_error([Bin(0, None, None)])


# --- simulations with known truth


@pytest.mark.parametrize(("images", "classes"), [(200, 10), (2000, 10), (2000, 2)])
def test_the_ece_of_perfect_calibration_matches_the_error_by_chance(images: int, classes: int) -> None:
    """By the normal approximation, |accuracy − c| of n images of confidence c is √(2 c (1 − c) / (π n)) on average."""
    errors, expected, simulated = [], [], []
    for seed in range(20):
        logits, labels = sample_calibrated(images, classes, seed=seed)
        curve = reliability(logits, labels)
        errors.append(calibration_error(curve))
        terms = [(n, c) for n, c, _ in curve if c is not None]
        expected.append(sum(n / images * math.sqrt(2 * c * (1 - c) / (math.pi * n)) for n, c in terms))
        simulated.append(error_by_chance(logits, draws=100, seed=seed).mean)
    assert sum(errors) == pytest.approx(sum(expected), rel=0.2)
    assert sum(simulated) == pytest.approx(sum(errors), rel=0.15)


def test_the_ece_of_perfect_calibration_exceeds_high_in_one_case_of_twenty() -> None:
    cases = [sample_calibrated(300, seed=seed) for seed in range(200)]
    above = sum(calibration(*case).ece > error_by_chance(case[0], draws=200, seed=7).high for case in cases)
    assert 2 <= above <= 20  # 10 expected


def test_the_error_by_chance_is_deterministic_and_shrinks_with_more_images() -> None:
    logits, _ = sample_calibrated(4000)
    assert error_by_chance(logits, draws=50) == error_by_chance(logits, draws=50)
    assert error_by_chance(logits, draws=50) != error_by_chance(logits, draws=50, seed=1)
    ratio = error_by_chance(logits[:1000], draws=200).mean / error_by_chance(logits, draws=200).mean
    assert ratio == pytest.approx(2, rel=0.25)
    assert error_by_chance(logits, draws=50).mean < error_by_chance(logits, draws=50).high


def test_every_metric_detects_overconfidence_and_temperature_scaling_corrects_it() -> None:
    logits, labels = sample_calibrated(20_000)
    good, bad = calibration(logits, labels), calibration(3 * logits, labels)
    assert bad.ece > 0.1 > 0.02 > good.ece
    assert bad.adaptive_ece > 0.1 > 0.02 > good.adaptive_ece
    assert bad.nll > good.nll
    assert bad.brier > good.brier
    assert bad.confidence - bad.accuracy > 0.1
    assert fit_temperature(3 * logits, labels).value == pytest.approx(3, rel=0.05)
    assert calibration(3 * logits, labels, temperature=3) == pytest.approx(good, rel=1e-9)


def test_the_example_in_the_docs_prints_the_documented_output(capsys: pytest.CaptureFixture[str]) -> None:
    document = Path(main.__file__).parent / "docs" / "calibration_and_fidelity.md"
    text = document.read_text(encoding="utf-8")
    (program,), (expected,) = (re.findall(f"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "text"))
    exec(program, {})
    output, number = capsys.readouterr().out, r"\d+\.\d"
    assert re.sub(number, "", output) == re.sub(number, "", expected)
    values, documented = ([float(value) for value in re.findall(number, text)] for text in (output, expected))
    assert values == pytest.approx(documented, abs=0.2)  # the last digit may differ on another processor


# --- extremes


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_gaps_of_ten_thousand_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]]).to(dtype)
    result = calibration(logits, torch.tensor([2, 1]))
    assert result == pytest.approx(Calibration(nll=1e4, brier=1, ece=0.5, adaptive_ece=0.5, confidence=1, accuracy=0.5))
    assert all(math.isfinite(value) for value in error_by_chance(logits, draws=5))
    fitted = fit_temperature(logits, torch.tensor([2, 1]))
    assert fitted == Temperature(100.0, at_bound=True)


def test_the_worst_brier_score_is_two_and_the_best_nll_is_positive_zero() -> None:
    sure = torch.tensor([[1e4, 0.0]])
    assert brier_score(sure, torch.tensor([1])) == 2
    assert math.copysign(1, nll(sure, torch.tensor([0]))) == 1
    assert nll(sure, torch.tensor([0])) == 0


def test_a_single_image_is_enough() -> None:
    logits, labels = make_logits([0.75], [True])
    assert calibration(logits, labels) == pytest.approx(
        Calibration(-math.log(0.75), 2 * 0.25**2, 0.25, 0.25, 0.75, 1.0)
    )


@pytest.mark.parametrize("classes", [2, 7])
def test_constant_logits_are_uniform_at_any_temperature(classes: int) -> None:
    labels = torch.arange(classes)
    logits = labels[:, None].double().expand(classes, classes)  # another constant in each row
    result = calibration(logits, labels)
    assert result.nll == pytest.approx(math.log(classes))
    assert result.brier == pytest.approx(1 - 1 / classes)
    assert result.ece == pytest.approx(0, abs=1e-12)
    assert result.accuracy == pytest.approx(1 / classes)  # the first class is predicted
    assert fit_temperature(logits, labels) == Temperature(1.0, at_bound=False)
    assert calibration(logits, labels, temperature=10) == pytest.approx(result)


def test_arguments_are_not_modified() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    copy, labels = logits.detach().clone(), torch.tensor([0, 1, 2, 0, 1], dtype=torch.uint8)
    temperature_scaling(logits, labels, logits, labels)
    assert torch.equal(logits, copy)
    assert logits.grad is None


# --- invalid arguments

LOGITS, LABELS = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
METRICS: list[Callable[..., Any]] = [calibration, nll, brier_score, reliability, fit_temperature]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4), LABELS, r"logits must be of shape \[images, classes\] .*Got \[4\] instead"),
        (torch.zeros(4, 3, 1), LABELS, r"Got \[4, 3, 1\] instead"),
        (torch.zeros(0, 3), LABELS[:0], r"at least 1 image and 2 classes. Got \[0, 3\]"),
        (torch.zeros(4, 1), LABELS, r"at least 1 image and 2 classes. Got \[4, 1\]"),
        (LOGITS.index_fill(0, torch.tensor(2), math.nan), LABELS, r"logits must be finite.*in 1 of 4 rows"),
        (LOGITS - math.inf, LABELS, r"logits must be finite.*in 4 of 4 rows"),
        (LOGITS, LABELS[:3], r"labels must be of shape \[4\], one per row of logits. Got \[3\] instead"),
        (LOGITS, torch.eye(3)[LABELS], r"labels must be of shape \[4\]"),
        (LOGITS, LABELS.float(), "labels must be integers. Got torch.float32"),
        (LOGITS, LABELS.bool(), "labels must be integers. Got torch.bool"),
        (LOGITS, LABELS + 1, "labels must be within 0 … 2, the .*Got '1 … 3'"),
        (LOGITS, LABELS - 1, "labels must be within 0 … 2, the .*Got '-1 … 1'"),
    ],
)
def test_invalid_logits_and_labels_raise(
    metric: Callable[..., Any], logits: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(logits, labels)


@pytest.mark.parametrize("metric", [calibration, nll, brier_score, reliability])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_an_invalid_temperature_raises(metric: Callable[..., Any], temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        metric(LOGITS, LABELS, temperature=temperature)


def test_invalid_bins_draws_and_classes_raise() -> None:
    for equal_mass in (False, True):
        with pytest.raises(ValueError, match="bins must be an integer of at least 1"):
            reliability(LOGITS, LABELS, bins=0, equal_mass=equal_mass)
    with pytest.raises(ValueError, match="draws must be an integer of at least 1"):
        error_by_chance(LOGITS, draws=0)
    with pytest.raises(ValueError, match=r"val_logits must be of shape \[images, 3\].*Got \[4, 5\]"):
        temperature_scaling(torch.zeros(4, 5), LABELS, LOGITS, LABELS)


def test_chance_is_simulated_with_one_thread_and_the_number_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, threads, rand = torch.randn(50, 4), [], torch.rand
    with using_threads(2):
        expected = error_by_chance(logits, draws=3)
        monkeypatch.setattr(torch, "rand", lambda *a, **k: [threads.append(torch.get_num_threads()), rand(*a, **k)][1])
        assert error_by_chance(logits, draws=3) == expected
        assert torch.get_num_threads() == 2
    assert threads == [1, 1, 1]
