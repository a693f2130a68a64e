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
from kd.evaluation.quantities import BALANCED, ERRORS, NLL, Quantity, choose_quantity, constant_value, item_losses
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
    recalls = score_classes(torch.eye(4) * 10_000).recalls  # without sampling error
    return [ClassScores(value, value, recalls, ()) for value in balanced]


def test_a_student_far_below_its_arm_has_collapsed() -> None:
    """Chance is 0.25 for four classes; the median of the first arm leads by 0.65."""
    arms = {"control": scores_of(0.9, 0.9, 0.25, 0.92), "distilled": scores_of(0.9, 0.6, 0.93)}
    assert find_collapsed(arms) == {"control": [2]}
    assert find_collapsed({"control": scores_of(0.9, 0.57, 0.9)}) == {"control": [1]}
    assert find_collapsed({"control": scores_of(0.9, 0.58, 0.9)}) == {}


@pytest.mark.parametrize(("items", "classes", "wrong"), [(40, 2, 0.3), (100, 2, 0.3), (100, 10, 0.75)])
def test_sampling_error_is_no_collapse(items: int, classes: int, wrong: float) -> None:
    """Exchangeable students, none of them collapsed; the rule on the leads alone names some in most draws."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(items) % classes

    def draw() -> ClassScores:
        other = (labels + torch.randint(1, classes, (items,), generator=generator)) % classes
        return score_classes(
            matrix_of(torch.where(torch.rand(items, generator=generator) < wrong, other, labels), labels, classes)
        )

    found = [find_collapsed({arm: [draw() for _ in range(10)] for arm in ("control", "distilled")}) for _ in range(20)]
    assert sum(map(bool, found)) <= 1


@pytest.mark.parametrize(("items", "rare"), [(100, 50), (1_000, 500), (1_000, 20)])
def test_a_constant_model_among_good_ones_has_collapsed(items: int, rare: int) -> None:
    labels = (torch.arange(items) < rare).long()
    good = torch.where(torch.arange(items) % 7 == 0, 1 - labels, labels)
    scores = [score_classes(matrix_of(predicted, labels, 2)) for predicted in (good, good, 0 * labels, good)]
    assert find_collapsed({"control": scores}) == {"control": [2]}


def test_no_better_than_the_majority_is_said_of_what_decides() -> None:
    """More errors than the constant prediction, but most of the rare class found."""
    labels = torch.tensor([0] * 95 + [1] * 5)
    useful = matrix_of((torch.arange(100) >= 85).long(), labels, 2)
    constant = matrix_of(torch.zeros(100, dtype=torch.long), labels, 2)
    arms, names = {"control": [useful, constant]}, ["common", "rare"]
    (first,) = describe_failures({"control": [useful]}, labels, names)
    assert "No better than always predicting common" in first
    assert describe_failures({"control": [useful]}, labels, names, quantity=BALANCED) == []
    assert describe_failures(arms, labels, names, quantity=BALANCED)[0] == (
        "No better than always predicting common, which makes 5 errors on 100 test images (balanced error 50.00 %): "
        "control (1 of 2)."
    )
    entropy = constant_value(NLL, labels)
    (text,) = describe_failures(
        {"control": [useful] * 2}, labels, names, quantity=NLL, values={"control": [entropy + 0.1, entropy - 0.1]}
    )
    assert text.startswith("No better than predicting the frequencies of the classes (NLL 0.1985 nats on 100 test")
    recall = choose_quantity("recall:common", labels, names)  # the constant never misses it
    assert describe_failures({"control": [useful]}, labels, names, quantity=recall, values={"control": [10.0]}) == []


def test_models_that_each_lack_some_class_do_not_lack_all_of_them() -> None:
    labels = torch.arange(90) % 3
    lacking = [matrix_of(torch.where(labels == label, (label + 1) % 3, labels), labels, 3) for label in (0, 2)]
    (text,) = describe_failures({"control": lacking}, labels, ["a", "b", "c"])
    assert text == "Models that never predict at least one of a, c: control (2 of 2)."


@pytest.mark.parametrize("quantity", [ERRORS, BALANCED, NLL])
def test_the_value_of_the_constant_prediction_is_that_of_its_logits(quantity: Quantity) -> None:
    labels = torch.tensor([0] * 7 + [2] * 2 + [3])
    logits = torch.tensor([0.7, 1e-12, 0.2, 0.1]).log().expand(10, 4)
    assert constant_value(quantity, labels) == pytest.approx(item_losses(quantity, logits, labels).sum())
    if quantity == BALANCED:
        assert constant_value(quantity, labels) == pytest.approx(100 * (1 - 1 / 3))


def test_where_the_whole_arm_learned_little_nobody_is_named() -> None:
    assert find_collapsed({"control": scores_of(0.3, 0.25, 0.31)}) == {}


def test_a_test_set_with_permuted_labels_is_noticed() -> None:
    text = describe_gap("control", 0.98, 1_000, 0.1, 1_000)
    assert text is not None
    assert "The control is right for 98.0% of the validation samples, but only for 10.0% of the test samples" in text
    assert describe_gap("control", 0.98, 1_000, 0.95, 1_000) is None
    assert describe_gap("control", 0.9, 20, 0.75, 1_000) is None  # few validation samples
    assert describe_gap("control", 0.5, 1_000, 0.9, 1_000) is None
