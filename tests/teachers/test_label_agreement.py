"""Answers held against labels: chance level as random order has it, and a wrong order of the classes found."""

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

some = settings(max_examples=60)


def predictions(given: Tensor, labels: Tensor, classes: int) -> kd.Predictions:
    """Logits whose largest is as given."""
    return kd.Predictions(torch.eye(classes)[given] * 3, labels)


def teacher(right: float, n: int = 500, classes: int = 5, seed: int = 0) -> kd.Predictions:
    """A teacher that is right on this share, at random, and otherwise answers anything."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    guessed = np.where(rng.random(n) < right, labels, rng.integers(0, classes, n))
    return predictions(torch.from_numpy(guessed), torch.from_numpy(labels), classes)


@some
@given(data=st.data(), classes=st.integers(2, 4), n=st.integers(1, 6))
def test_chance_and_spread_are_those_of_all_orders_of_the_rows(data: st.DataObject, classes: int, n: int) -> None:
    row = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    given_, labels = data.draw(row), data.draw(row)
    found = measure_agreement(predictions(torch.tensor(given_), torch.tensor(labels), classes))
    every = [np.mean([a == b for a, b in zip(order, labels, strict=True)]) for order in itertools.permutations(given_)]
    assert found.accuracy == pytest.approx(np.mean([a == b for a, b in zip(given_, labels, strict=True)]))
    assert found.chance == pytest.approx(np.mean(every))
    # The source's variance is that of large samples; without replacement it is n / (n − 1) of it.
    assert found.spread**2 * n == pytest.approx(np.var(every) * (n - 1), abs=1e-9)


@some
@given(data=st.data(), classes=st.integers(2, 4), n=st.integers(1, 12))
def test_the_best_order_of_the_classes_is_the_best_of_all(data: st.DataObject, classes: int, n: int) -> None:
    row = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    cached = predictions(torch.tensor(data.draw(row)), torch.tensor(data.draw(row)), classes)
    found = measure_agreement(cached)
    shares = {
        columns: float((cached.logits[:, columns].argmax(dim=1) == cached.labels).float().mean())
        for columns in itertools.permutations(range(classes))
    }
    assert shares[tuple(found.columns)] == pytest.approx(max(shares.values()))


@pytest.mark.parametrize("right", [0.2, 0.3, 0.6])
@pytest.mark.parametrize("of_each", [1, 2])
def test_few_items_fit_some_order_by_chance_and_that_speaks_against_nobody(right: float, of_each: int) -> None:
    labels = torch.arange(100).repeat(of_each)
    guesses = torch.randint(100, labels.shape, generator=torch.Generator().manual_seed(0))
    known = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < right
    assert explain_doubt(measure_agreement(predictions(torch.where(known, labels, guesses), labels, 100))) is None


@pytest.mark.parametrize("labels", [torch.arange(40) % 10, torch.arange(40) // 4, torch.arange(20) % 10])
def test_two_items_of_each_class_are_enough_to_see_another_order_of_the_classes(labels: Tensor) -> None:
    found = measure_agreement(predictions((labels + 1) % 10, labels, 10))
    assert (found.accuracy, found.best) == (0, 1)
    assert str(explain_doubt(found)).startswith("its classes are probably in another order")


@pytest.mark.parametrize("right", [0.3, 0.6, 1.0])
def test_nothing_speaks_against_a_teacher_that_is_better_than_chance(right: float) -> None:
    assert explain_doubt(measure_agreement(teacher(right))) is None


def test_constant_answers_are_chance_however_often_they_are_right() -> None:
    found = measure_agreement(predictions(torch.zeros(100, dtype=torch.long), (torch.arange(100) >= 95).long(), 2))
    assert (found.accuracy, found.chance, found.spread) == pytest.approx((0.95, 0.95, 0.0), abs=1e-8)
    assert found.at_chance


@pytest.mark.parametrize("seed", range(5))
def test_rows_in_another_order_are_at_chance(seed: int) -> None:
    cached = teacher(0.98, seed=seed)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))
    with pytest.raises(
        ValueError, match=r"^given: \d\d\.\d% right on 500 items, and that is chance level \(2\d\.\d% ± "
    ):
        verify_without_teacher(cached._replace(logits=cached.logits[order]), name="given")


def test_classes_sorted_as_text_are_noticed_although_above_chance() -> None:
    """0, 1, 10, 11, 2, …: two of twelve stay where they were."""
    cached = teacher(0.97, n=2000, classes=12)
    order = sorted(range(12), key=str)
    wrong = cached._replace(logits=cached.logits[:, order])
    assert not measure_agreement(wrong).at_chance
    message = (
        r"right on 2,000 items, and its classes are probably in another order than the data's: taking output 4 for "
        r"class 2, 5 for class 3, 6 for class 4 and so on would make it 97\.\d%\. Give label_order, the names"
    )
    with pytest.raises(ValueError, match=message):
        verify_without_teacher(wrong, name="given")
    assert [order[column] for column in measure_agreement(wrong).columns] == list(range(12))


def test_what_was_found_is_said_with_what_cannot_be_verified(capsys: pytest.CaptureFixture[str]) -> None:
    cached = teacher(1.0)
    found = verify_without_teacher(cached, name="given")
    assert found.accuracy == 1
    said = " ".join(capsys.readouterr().out.split())
    assert said == f"given: 100.0% right on 500 items, measured now; in random order it would be 20.3%. {NOT_VERIFIED}."


def test_a_few_items_all_answered_rightly_are_no_chance() -> None:
    assert explain_doubt(measure_agreement(predictions(torch.tensor([0, 1]), torch.tensor([0, 1]), 2))) is None


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 2), torch.tensor([0, 2]), r"labels must be within 0 … 1, the columns of logits\. Got '0 … 2'"),
        (torch.zeros(2, 2), torch.tensor([-1, 0]), r"Got '-1 … 0'"),
        (torch.zeros(2, 2), torch.tensor([0]), r"labels must be \[2\], one per row"),
        (torch.tensor([[0.0, float("nan")]]), torch.tensor([0]), r"teacher logits must be finite\. Got NaN or inf"),
        (torch.zeros(3), torch.zeros(3).long(), r"teacher logits must be \[images, classes\]"),
    ],
)
def test_labels_outside_the_classes_and_logits_that_are_none_are_refused(
    logits: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_agreement(kd.Predictions(logits, labels))


# --- names


@some
@given(names=st.lists(st.text(max_size=4), min_size=2, max_size=8, unique=True), seed=st.integers(0, 99))
def test_each_class_gets_the_output_of_its_own_name(names: list[str], seed: int) -> None:
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    columns = find_columns(order, names, classes=len(names))
    assert columns is not None
    assert [order[column] for column in columns] == names


@pytest.mark.parametrize(
    ("order", "names", "message"),
    [
        (["cat", "dog", "cow"], None, r"label_order needs class_names.*Got none"),
        (["cat", "dog", "cow"], ["cat", "dog"], r"class_names must be one name for each of 3 classes\. Got 2 instead"),
        (["cat", "dog", "dog"], ["cat", "dog", "cow"], r"label_order must name each class once\. Got 'dog' more than"),
        (["cat", "dog"], ["cat", "dog", "cow"], r"Not the data's: none; missing: 'cow'\. Name every class"),
        (
            ["cat", "dog", "caw"],
            ["cat", "dog", "cow"],
            r"must hold the data's 3 class names in the teacher's order\. Not the data's: 'caw'; missing: 'cow'\. Did "
            r"you mean cow\?",
        ),
    ],
)
def test_names_that_do_not_match_are_refused(order: list[str], names: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_columns(order, names, classes=3)


def test_without_an_order_there_is_nothing_to_do() -> None:
    assert find_columns(None, None, classes=3) is None
