"""The statistics and metrics of ``kd`` against other libraries' implementations: statsmodels, scikit-learn, scipy."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.descriptivestats import sign_test as statsmodels_sign_test
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW
from torch import Tensor

import kd
from kd.evaluation.calibration import brier_score, calibration_error, fit_temperature, nll, reliability
from kd.evaluation.contrast import Contrast
from kd.evaluation.fidelity import agreement, mean_kl
from kd.evaluation.paired_seeds import Pairs, pair_errors, sign_test, t_interval, t_test
from kd.evaluation.power import detectable, power, seeds_needed
from kd.evaluation.two_models import mcnemar, proportion_interval
from kd.evaluation.verdict import holm, judge_counts
from kd.teachers.label_agreement import measure_agreement

examples = settings(max_examples=60)
IMAGES = 10_000
COUNTS = st.integers(0, 200)
LEVELS, TARGETS = st.sampled_from([0.01, 0.05, 0.1]), st.sampled_from([0.8, 0.9])
DIFFERENCES = st.lists(st.integers(-40, 40), min_size=2, max_size=12)
SPREAD = DIFFERENCES.filter(lambda differences: len(set(differences)) > 1)


def pairs_of(differences: list[int]) -> Pairs:
    return pair_errors([200] * len(differences), [200 + d for d in differences], IMAGES)


@st.composite
def logits_and_labels(draw: st.DrawFn, smallest: int = 1) -> tuple[Tensor, Tensor]:
    """[N, K] logits in float64 and [N] labels, about half of which are the predictions."""
    rows, classes = draw(st.integers(smallest, 60)), draw(st.integers(3, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = draw(st.sampled_from([0.5, 2.0, 5.0])) * torch.randn(rows, classes, generator=random, dtype=torch.float64)
    other = torch.randint(0, classes, (rows,), generator=random)
    return logits, torch.where(torch.rand(rows, generator=random) < 0.5, logits.argmax(dim=1), other)


# --- two models on one test set


@examples
@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_mcnemars_test(both: int, only_first: int, only_second: int, neither: int) -> None:
    counts = torch.tensor([both, only_first, only_second, neither])
    first, second = (torch.tensor(wrong).repeat_interleave(counts) for wrong in ([1, 1, 0, 0], [1, 0, 1, 0]))
    expected = statsmodels_mcnemar([[both, only_first], [only_second, neither]], exact=True).pvalue
    assert mcnemar(first.bool(), second.bool()).p_value == pytest.approx(expected, rel=1e-9)


@examples
@given(st.integers(1, 20_000), st.floats(0, 1), LEVELS)
def test_wilsons_interval(n: int, share: float, level: float) -> None:
    expected = proportion_confint(round(share * n), n, alpha=level, method="wilson")
    assert proportion_interval(round(share * n), n, confidence=1 - level) == pytest.approx(expected, abs=1e-12)


# --- paired seeds


@examples
@given(SPREAD, LEVELS)
def test_the_paired_t_test_and_its_interval(differences: list[int], level: float) -> None:
    expected = DescrStatsW(differences)
    assert t_test(differences) == pytest.approx(expected.ttest_mean(0)[1], rel=1e-9)
    assert t_interval(differences, level) == pytest.approx(expected.tconfint_mean(level), abs=1e-9)


@examples
@given(DIFFERENCES.filter(any))
def test_the_sign_test(differences: list[int]) -> None:
    assert sign_test(differences) == pytest.approx(statsmodels_sign_test(differences)[1], rel=1e-9)


def statsmodels_power(pairs: int, effect: float, level: float) -> float:
    result = float(TTestPower().power(effect, pairs, level, alternative="two-sided"))
    assume(not math.isnan(result))  # as scipy's lower tail of the noncentral t is for large effects
    return result


@examples
@given(st.integers(2, 200), st.floats(0, 2), LEVELS)
def test_the_power_of_a_paired_t_test(pairs: int, effect: float, level: float) -> None:
    assert power(pairs, effect, level=level) == pytest.approx(statsmodels_power(pairs, effect, level), abs=1e-7)


@examples
@given(st.floats(0.1, 1.2), TARGETS, LEVELS)
def test_the_number_of_seeds_needed_for_an_effect(effect: float, target: float, level: float) -> None:
    pairs = seeds_needed(effect, 1.0, target=target, level=level)
    assert statsmodels_power(pairs - 1, effect, level) < target + 1e-7
    assert statsmodels_power(pairs, effect, level) > target - 1e-7


@examples
@given(st.integers(2, 200), st.floats(0.5, 50), TARGETS, LEVELS)
def test_the_difference_detected_by_a_number_of_seeds(pairs: int, sd: float, target: float, level: float) -> None:
    difference = detectable(pairs, sd, target=target, level=level)
    assert statsmodels_power(pairs, difference / sd, level) == pytest.approx(target, abs=1e-7)


# --- verdicts


def statsmodels_holm(p_values: list[float], level: float = 0.05) -> tuple[Any, Any]:
    """Return which hypotheses are rejected, and the adjusted p-values."""
    with mock.patch("gc.collect"):  # multipletests collects garbage at each call, which takes longer than the rest
        rejected, adjusted, *_ = multipletests(p_values, alpha=level, method="holm")
    return rejected, adjusted


@examples
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_adjusted_p_values(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(statsmodels_holm(p_values)[1], rel=1e-9, abs=1e-15)


@examples
@given(st.lists(SPREAD, min_size=1, max_size=4), LEVELS)
def test_verdicts_on_several_methods(several: list[list[int]], level: float) -> None:
    """Holm's procedure on t tests finds the differences; two one-sided tests at level / M find that there is none."""
    statistics = [DescrStatsW(differences) for differences in several]
    rejected, _ = statsmodels_holm([row.ttest_mean(0)[1] for row in statistics], level)
    margin = 10  # errors: 0.1 percentage points of the images
    judgements = judge_counts(
        {str(k): pairs_of(d) for k, d in enumerate(several)}, margin=100 * margin / IMAGES, level=level
    )
    for judgement, row, differs in zip(judgements.values(), statistics, rejected, strict=True):
        equivalent = row.ttost_mean(-margin, margin)[0] < level / len(several)
        significant = "better than the labels alone" if row.mean < 0 else "hurts"
        same = "no difference larger than d" if equivalent else "inconclusive"
        assert judgement.verdict == (significant if differs else same)


@examples
@given(st.lists(SPREAD, min_size=2, max_size=5), LEVELS)
def test_the_interval_over_several_teachers(teachers: list[list[int]], level: float) -> None:
    means = [sum(differences) / len(differences) for differences in teachers]
    assume(max(means) - min(means) > 1e-6)
    assert Contrast(tuple(means)).interval(level) == pytest.approx(DescrStatsW(means).tconfint_mean(level), abs=1e-9)


# --- probabilities


@examples
@given(logits_and_labels(), st.floats(0.5, 8))
def test_log_loss_and_brier_score_at_any_temperature(data: tuple[Tensor, Tensor], temperature: float) -> None:
    logits, labels = data
    probabilities, classes = (logits / temperature).softmax(dim=1).numpy(), range(logits.shape[1])
    expected = sklearn.metrics.log_loss(labels.tolist(), probabilities, labels=classes)
    assert nll(logits, labels, temperature=temperature) == pytest.approx(expected)
    one_hot = np.eye(len(classes))[labels.numpy()]
    squared_error = sklearn.metrics.mean_squared_error(one_hot, probabilities) * len(classes)
    assert brier_score(logits, labels, temperature=temperature) == pytest.approx(squared_error)


@examples
@given(logits_and_labels(), st.integers(1, 20))
def test_the_reliability_diagram_with_bins_of_equal_width(data: tuple[Tensor, Tensor], bins: int) -> None:
    check_reliability(data, bins, equal_mass=False)


@examples
@given(logits_and_labels(), st.integers(1, 9))
def test_the_reliability_diagram_with_bins_of_equal_mass(data: tuple[Tensor, Tensor], bins: int) -> None:
    """If the number of images is a multiple of the number of bins, the quantile bins of scikit-learn are equal."""
    logits, labels = data
    rows = len(labels) // bins * bins
    assume(rows)
    check_reliability((logits[:rows], labels[:rows]), bins, equal_mass=True)


def check_reliability(data: tuple[Tensor, Tensor], bins: int, *, equal_mass: bool) -> None:
    logits, labels = data
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    assume(len(confidence.unique()) == len(confidence))
    strategy = "quantile" if equal_mass else "uniform"
    accuracies, confidences = calibration_curve(predicted == labels, confidence, n_bins=bins, strategy=strategy)
    filled = [row for row in reliability(logits, labels, bins=bins, equal_mass=equal_mass) if row.images]
    assert [row.accuracy for row in filled] == pytest.approx(accuracies.tolist())
    assert [row.confidence for row in filled] == pytest.approx(confidences.tolist())
    weights = np.array([row.images for row in filled]) / len(labels)
    assert calibration_error(filled) == pytest.approx(float(weights @ np.abs(accuracies - confidences)))


class Logits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier whose inputs are its logits."""

    def fit(self, X: Any, y: Any) -> Logits:
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Any) -> Any:
        return X

    def predict(self, X: Any) -> Any:
        return self.classes_[X.argmax(axis=1)]


@pytest.mark.skipif(tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8), reason="needs scikit-learn 1.8")
@settings(max_examples=20)
@given(logits_and_labels(smallest=30))
def test_temperature_scaling(data: tuple[Tensor, Tensor]) -> None:
    logits, labels = data
    assume(len(labels.unique()) == logits.shape[1])
    fitted = fit_temperature(logits, labels)
    assume(not fitted.at_bound)
    inputs, targets, rows = logits.numpy(), labels.numpy(), np.arange(len(labels))
    frozen = FrozenEstimator(Logits().fit(inputs, targets))
    scaled = CalibratedClassifierCV(frozen, method="temperature", cv=[(rows, rows)]).fit(inputs, targets)
    expected = scaled.predict_proba(inputs)
    assert (logits / fitted.value).softmax(dim=1).numpy() == pytest.approx(expected, abs=1e-5)


# --- student and teacher


@examples
@given(logits_and_labels(), st.floats(0.5, 20))
def test_agreement_and_divergence_of_two_networks(data: tuple[Tensor, Tensor], temperature: float) -> None:
    teacher, _ = data
    student = teacher.roll(1, dims=0) + teacher.flip(1)
    same = sklearn.metrics.accuracy_score(teacher.argmax(dim=1), student.argmax(dim=1))
    assert agreement(student, teacher) == pytest.approx(same)
    p, q = ((logits / temperature).softmax(dim=1).numpy() for logits in (teacher, student))
    divergence = mean_kl(student, teacher, temperature=temperature)
    assert divergence == pytest.approx(float(entropy(p, q, axis=1).mean()), rel=1e-6, abs=1e-12)


@examples
@given(logits_and_labels(smallest=2))
def test_accuracy_above_chance_is_cohens_kappa(data: tuple[Tensor, Tensor]) -> None:
    """Kappa is (accuracy − chance) / (1 − chance); its standard error assumes chance agreement."""
    logits, labels = data
    result = measure_agreement(kd.Predictions(logits.float(), labels))
    assume(result.spread > 1e-6)
    kappa = (result.accuracy - result.chance) / (1 - result.chance)
    predicted = logits.float().argmax(dim=1)
    assert kappa == pytest.approx(sklearn.metrics.cohen_kappa_score(labels, predicted), abs=1e-9)
    table = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(logits.shape[1]))
    with np.errstate(invalid="ignore"):  # from another variance that is not compared
        expected = cohens_kappa(table).std_kappa0
    assert result.spread / (1 - result.chance) == pytest.approx(expected, abs=1e-9)
