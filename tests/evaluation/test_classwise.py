"""Scores by class against scikit-learn; what is said of models that learned nothing."""

from __future__ import annotations

import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.evaluation.classwise import ClassScores, majority_of, score_classes
from kd.evaluation.failures import describe_failures, describe_gap, find_collapsed
from kd.evaluation.metrics import confusion_matrix
from kd.evaluation.two_models import proportion_interval


def matrix_of(predicted: torch.Tensor, labels: torch.Tensor, classes: int = 3) -> torch.Tensor:
    return confusion_matrix(torch.nn.functional.one_hot(predicted, classes).float(), labels)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_match_scikit_learn(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels, predicted = (torch.randint(3, (30,), generator=generator) for _ in range(2))
    scores = score_classes(matrix_of(predicted, labels))
    assert scores.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))
    present = sorted(set(labels.tolist()))
    f1 = sklearn.metrics.f1_score(labels, predicted, average="macro", labels=present, zero_division=0)
    assert scores.macro_f1 == pytest.approx(f1)
    for label in present:
        row = scores.recalls[label]
        assert row.images == int((labels == label).sum())
        assert (row.low_95, row.high_95) == proportion_interval(row.correct, row.images)
    assert set(scores.never_predicted) == set(present) - set(predicted.tolist())


def test_the_majority_baseline_by_hand() -> None:
    assert majority_of(torch.tensor([0, 2, 2, 2])) == (2, 1, 0.75)


def test_a_model_that_always_predicts_the_majority_is_named_first() -> None:
    labels = torch.tensor([0] * 95 + [1] * 5)
    constant, useful = matrix_of(torch.zeros(100, dtype=torch.long), labels, 2), matrix_of(labels, labels, 2)
    first, second = describe_failures({"control": [constant, constant, useful]}, labels, ["common", "rare"])
    assert first == (
        "No better than always predicting common, which makes 5 errors on 100 test images: control (2 of 3)."
    )
    assert second == "Models that never predict rare: control (2 of 3)."
    arms = {"teacher": [constant], "control": [useful], "distilled": [constant, useful]}
    assert describe_failures(arms, labels, ["common", "rare"])[1] == (
        "Models that never predict rare: teacher, distilled (1 of 2)."
    )
    assert describe_failures({"teacher": [useful]}, labels, ["common", "rare"]) == []


def scores_of(*balanced: float) -> list[ClassScores]:
    recalls = score_classes(torch.eye(4) * 10).recalls
    return [ClassScores(value, value, recalls, ()) for value in balanced]


def test_a_student_far_below_its_arm_has_collapsed() -> None:
    """Chance is 0.25 for four classes; the median of the first arm leads by 0.65."""
    arms = {"control": scores_of(0.9, 0.9, 0.25, 0.92), "distilled": scores_of(0.9, 0.6, 0.93)}
    assert find_collapsed(arms) == {"control": [2]}
    assert find_collapsed({"control": scores_of(0.9, 0.57, 0.9)}) == {"control": [1]}
    assert find_collapsed({"control": scores_of(0.9, 0.58, 0.9)}) == {}


def test_where_the_whole_arm_learned_little_nobody_is_named() -> None:
    assert find_collapsed({"control": scores_of(0.3, 0.25, 0.31)}) == {}


def test_a_test_set_with_permuted_labels_is_noticed() -> None:
    text = describe_gap("control", 0.98, 1_000, 0.1, 1_000)
    assert text is not None
    assert "The control is right for 98.0% of the validation samples, but only for 10.0% of the test samples" in text
    assert describe_gap("control", 0.98, 1_000, 0.95, 1_000) is None
    assert describe_gap("control", 0.9, 20, 0.75, 1_000) is None  # few validation samples
    assert describe_gap("control", 0.5, 1_000, 0.9, 1_000) is None
