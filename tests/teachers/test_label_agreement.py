"""Agreement of logits and labels: chance level under permutation, and detection of a wrong class order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kd
from kd.teachers.class_order import find_columns
from kd.teachers.label_agreement import NOT_VERIFIED, explain_doubt, measure_agreement, verify_without_teacher

some = settings(max_examples=30)


def make_one_hot(given: Tensor, labels: Tensor, classes: int) -> kd.Predictions:
    """Return logits that predict these classes."""
    return kd.Predictions(torch.eye(classes)[given] * 3, labels)


def make_predictions(right: float, n: int = 500, classes: int = 5, seed: int = 0) -> kd.Predictions:
    """Return predictions that are correct for this fraction of samples and random for the others."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    guessed = np.where(rng.random(n) < right, labels, rng.integers(0, classes, n))
    return make_one_hot(torch.from_numpy(guessed), torch.from_numpy(labels), classes)


@some
@given(data=st.data(), classes=st.integers(2, 4), n=st.integers(1, 6))
def test_chance_and_spread_match_all_permutations_of_the_rows(data: st.DataObject, classes: int, n: int) -> None:
    row = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    predicted, labels = data.draw(row), data.draw(row)
    agreement = measure_agreement(make_one_hot(torch.tensor(predicted), torch.tensor(labels), classes))
    permuted = [
        np.mean([a == b for a, b in zip(order, labels, strict=True)]) for order in itertools.permutations(predicted)
    ]
    assert agreement.accuracy == pytest.approx(np.mean([a == b for a, b in zip(predicted, labels, strict=True)]))
    assert agreement.chance == pytest.approx(np.mean(permuted))
    # The source gives the large-sample variance; the variance under permutation is n / (n − 1) times larger.
    assert agreement.spread**2 * n == pytest.approx(np.var(permuted) * (n - 1), abs=1e-9)


@some
@given(data=st.data(), classes=st.integers(2, 4), n=st.integers(1, 12))
def test_the_best_class_order_matches_all_permutations(data: st.DataObject, classes: int, n: int) -> None:
    row = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    cached = make_one_hot(torch.tensor(data.draw(row)), torch.tensor(data.draw(row)), classes)
    agreement = measure_agreement(cached)
    shares = {
        columns: float((cached.logits[:, columns].argmax(dim=1) == cached.labels).float().mean())
        for columns in itertools.permutations(range(classes))
    }
    assert shares[tuple(agreement.columns)] == pytest.approx(max(shares.values()))


@pytest.mark.parametrize("right", [0.2, 0.3, 0.6])
@pytest.mark.parametrize("of_each", [1, 2])
def test_few_samples_that_fit_some_class_order_raise_no_doubt(right: float, of_each: int) -> None:
    labels = torch.arange(100).repeat(of_each)
    guesses = torch.randint(100, labels.shape, generator=torch.Generator().manual_seed(0))
    known = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < right
    assert explain_doubt(measure_agreement(make_one_hot(torch.where(known, labels, guesses), labels, 100))) is None


@pytest.mark.parametrize("labels", [torch.arange(40) % 10, torch.arange(40) // 4, torch.arange(20) % 10])
def test_two_samples_per_class_reveal_another_class_order(labels: Tensor) -> None:
    agreement = measure_agreement(make_one_hot((labels + 1) % 10, labels, 10))
    assert (agreement.accuracy, agreement.best) == (0, 1)
    assert str(explain_doubt(agreement)).startswith("its class order probably differs")


@pytest.mark.parametrize("right", [0.3, 0.6, 1.0])
def test_a_teacher_better_than_chance_raises_no_doubt(right: float) -> None:
    assert explain_doubt(measure_agreement(make_predictions(right))) is None


def test_constant_predictions_are_at_chance_at_any_accuracy() -> None:
    agreement = measure_agreement(make_one_hot(torch.zeros(100, dtype=torch.long), (torch.arange(100) >= 95).long(), 2))
    assert (agreement.accuracy, agreement.chance, agreement.spread) == pytest.approx((0.95, 0.95, 0.0), abs=1e-8)
    assert agreement.at_chance


@pytest.mark.parametrize("seed", range(5))
def test_rows_in_another_order_are_at_chance(seed: int) -> None:
    cached = make_predictions(0.98, seed=seed)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))
    with pytest.raises(
        ValueError, match=r"^given: accuracy \d\d\.\d% on 500 samples; that is chance level \(2\d\.\d% ± "
    ):
        verify_without_teacher(cached._replace(logits=cached.logits[order]), name="given")


def test_classes_sorted_as_text_are_detected_although_above_chance() -> None:
    """In 0, 1, 10, 11, 2, …, two of twelve classes keep their place."""
    cached = make_predictions(0.97, n=2000, classes=12)
    order = sorted(range(12), key=str)
    wrong = cached._replace(logits=cached.logits[:, order])
    assert not measure_agreement(wrong).at_chance
    message = (
        r"on 2,000 samples; its class order .* output 4 for class 2, 5 for class 3, 6 for class 4 and so on would "
        r"give 97\.\d%\. Pass label_order"
    )
    with pytest.raises(ValueError, match=message):
        verify_without_teacher(wrong, name="given")
    assert [order[column] for column in measure_agreement(wrong).columns] == list(range(12))


def test_accuracy_and_limits_of_the_check_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    cached = make_predictions(1.0)
    agreement = verify_without_teacher(cached, name="given")
    assert agreement.accuracy == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert printed == f"given: accuracy 100.0% on 500 samples (chance 20.3%). {NOT_VERIFIED}."


def test_a_few_correct_predictions_are_not_at_chance() -> None:
    assert explain_doubt(measure_agreement(make_one_hot(torch.tensor([0, 1]), torch.tensor([0, 1]), 2))) is None


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 2), torch.tensor([0, 2]), r"labels must be within 0 … 1, the logits' columns\. Got '0 … 2'"),
        (torch.zeros(2, 2), torch.tensor([-1, 0]), r"Got '-1 … 0'"),
        (torch.zeros(2, 2), torch.tensor([0]), r"labels must be of shape \[2\], one per row"),
        (torch.tensor([[0.0, float("nan")]]), torch.tensor([0]), r"teacher logits must be finite\. Got NaN or inf"),
        (torch.zeros(3), torch.zeros(3).long(), r"teacher logits must be of shape \[images, classes\]"),
    ],
)
def test_invalid_labels_and_logits_raise(logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_agreement(kd.Predictions(logits, labels))


# --- names


@some
@given(names=st.lists(st.text(max_size=4), min_size=2, max_size=8, unique=True), seed=st.integers(0, 99))
def test_each_class_gets_the_output_with_its_name(names: list[str], seed: int) -> None:
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    columns = find_columns(order, names, classes=len(names))
    assert columns is not None
    assert [order[column] for column in columns] == names


@pytest.mark.parametrize(
    ("order", "names", "message"),
    [
        (["cat", "dog", "cow"], None, r"label_order requires class_names.*Got none"),
        (["cat", "dog", "cow"], ["cat", "dog"], r"class_names must be one name for each of 3 classes\. Got 2 instead"),
        (
            ["cat", "dog", "dog"],
            ["cat", "dog", "cow"],
            r"label_order \(--label-order\) must name each class once\. Got 'dog' more than",
        ),
        (["cat", "dog"], ["cat", "dog", "cow"], r"Unknown: none; missing: 'cow'\. Name every class"),
        (
            ["cat", "dog", "caw"],
            ["cat", "dog", "cow"],
            r"the 3 class names .* Unknown: 'caw'; missing: 'cow'\. Did you mean cow\?",
        ),
    ],
)
def test_class_names_that_do_not_match_raise(order: list[str], names: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_columns(order, names, classes=3)


def test_without_label_order_there_is_nothing_to_reorder() -> None:
    assert find_columns(None, None, classes=3) is None
