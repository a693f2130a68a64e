"""Each check over the parts: what it refuses, what it tells of, and what it lets pass in silence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from kd.data.datasets import ArrayDataset
from kd.data.sources import validation
from kd.data.sources.scan import ScannedItems, scan

exactly = settings(max_examples=60)
CLASSES = ("cat", "dog", "owl")


def facts(start: float = 0, rows: int = 6, width: int = 2) -> ScannedItems:
    values = torch.arange(start, start + rows * width).reshape(rows, width)
    return scan(ArrayDataset(values.float(), torch.arange(rows) % len(CLASSES)))


def test_good_parts_pass_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validation.check_parts({"train": facts(), "val": facts(100), "test": facts(200)}, CLASSES)


@pytest.mark.parametrize(
    ("labels", "got"),
    [([0, 1, 3], "3 at index 2 and 1 such"), ([-1, 3, 9], "-1 at index 0 and 3 such"), ([0, 300], "300 at index 1")],
)
def test_a_label_that_is_no_class_is_refused(labels: list[int], got: str) -> None:
    message = rf"labels of val must be within 0 … 2, the 3 classes .* Got {got}.*Number the classes from 0"
    with pytest.raises(ValueError, match=message):
        validation.require_label_range(torch.tensor(labels), CLASSES, "val")


@pytest.mark.parametrize(("part", "items", "least"), [("train", 0, 2), ("train", 1, 2), ("val", 0, 1)])
def test_too_few_items_are_refused(part: str, items: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"{part} must have at least {least} items. Got {items} instead"):
        validation.check_count(torch.zeros(items).long(), part)


def test_a_single_item_to_test_with_is_told_of() -> None:
    with pytest.warns(UserWarning, match="test has 1 item: no number about it means anything"):
        validation.check_count(torch.zeros(1).long(), "test")


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        ([0, 0, 2], r"2 of 3 classes, none of 'dog'"),
        ([1, 1, 1], r"1 of 3 classes, none of 'cat', 'owl'"),
        ([1, 2, 1], r"2 of 3 classes, none of 'cat'"),  # as where labels count from 1
    ],
)
def test_a_class_without_items_to_learn_from_is_refused(labels: list[int], got: str) -> None:
    with pytest.raises(ValueError, match=f"train must have items of every class.*Got {got}.*labels count from 0"):
        validation.require_classes(torch.tensor(labels), CLASSES)


def test_a_single_class_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of two classes at least\. Got 1 of 1 classes"):
        validation.require_classes(torch.zeros(5).long(), CLASSES[:1])


@pytest.mark.parametrize(
    ("part", "labels", "message"),
    [
        ("val", [0, 0, 2, 2], "val has no item of 'dog'"),
        ("test", [1, 1], "test has items of one class only: 'dog'"),
        ("train", [0, 0, 1, 2, 2], "train has a single item of 'dog': too few to learn from"),
    ],
)
def test_what_is_missing_elsewhere_or_rare_is_told_of(part: str, labels: list[int], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        validation.check_classes(torch.tensor(labels), CLASSES, part)


def test_many_missing_classes_are_counted() -> None:
    with pytest.warns(UserWarning, match="no item of '2', '3', '4', '5', '6' and 93 more"):
        validation.check_classes(torch.tensor([0, 1]), [str(number) for number in range(100)], "val")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused_with_their_rows(bad: float) -> None:
    values = torch.zeros(9, 2, 3)
    values[[2, 7], 1, 1] = bad
    found = scan(ArrayDataset(values, torch.arange(9) % 3))
    with pytest.raises(ValueError, match=r"inputs of test must be finite. .* in 2 of 9 items: index 2, 7\. Fill in"):
        validation.require_finite(found.broken, "test")


def test_parts_of_different_shapes_or_types_are_refused() -> None:
    message = r"same shape and type in all parts. Got \[2\] of torch.float32 in train, \[3\] of .*Convert test as"
    with pytest.raises(ValueError, match=message):
        validation.require_equal_shapes({"train": facts(), "test": facts(width=3)})
    other = facts()._replace(dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"\[2\] of torch.uint8 in val instead. Convert val"):
        validation.require_equal_shapes({"train": facts(), "val": other})


@pytest.mark.parametrize(
    ("test", "got"),
    [
        (["cat", "owl", "dog"], "'dog' in train and 'owl' in test for label 1"),
        (["cat", "dog"], "'owl' in train and None in test for label 2"),
        (["cat", "dog", "owl", "yak"], "None in train and 'yak' in test for label 3"),
    ],
)
def test_another_order_or_number_of_classes_is_refused(test: list[str], got: str) -> None:
    with pytest.raises(ValueError, match=rf"same order, in all parts\. Got {got}.*Number the labels of test as"):
        validation.require_equal_classes({"train": CLASSES, "val": None, "test": test})


def test_classes_that_are_the_same_or_have_no_names_pass() -> None:
    validation.require_equal_classes({"train": CLASSES, "val": None, "test": list(CLASSES)})
    validation.require_equal_classes({"train": None, "test": list(CLASSES)})


def test_an_input_in_two_parts_is_told_of_with_its_index() -> None:
    message = r"1 of 6 inputs of test are also in train, at index 0: they say nothing about new data"
    with pytest.warns(UserWarning, match=message):  # rows 0-1, 2-3, …: the last of train is the first of test
        validation.check_duplicates({"train": facts().digests, "test": facts(10).digests})


def test_a_part_that_is_wholly_in_another_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 3 inputs of val are also in train: it would be judged by what it has"):
        validation.check_duplicates({"train": facts().digests, "val": facts(rows=3).digests})


@exactly
@given(st.lists(st.integers(0, 30), min_size=1), st.lists(st.integers(0, 30), min_size=1))
def test_duplicates_are_those_that_comparing_all_with_all_finds(train: list[int], test: list[int]) -> None:
    digests = {
        part: scan(ArrayDataset(torch.tensor(values)[:, None].float(), torch.zeros(len(values)).long())).digests
        for part, values in (("train", train), ("test", test))
    }
    shared = [row for row, value in enumerate(test) if value in train]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if len(shared) == len(test):
            with pytest.raises(ValueError, match=f"{len(test)} of {len(test)} inputs of test"):
                validation.check_duplicates(digests)
            return
        validation.check_duplicates(digests)
    assert [str(warning.message).split(" of ")[0] for warning in told] == ([str(len(shared))] if shared else [])


class Listed(Dataset[object]):
    """What a user may write: whatever is given, item by item."""

    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def pair(shape: tuple[int, ...] = (2,), label: object = 0) -> tuple[Tensor, object]:
    return torch.zeros(shape), label


def test_the_facts_of_a_users_dataset_are_those_of_its_items() -> None:
    values, labels = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    own = Listed(*((value, int(label)) for value, label in zip(values, labels, strict=True)))
    ours, theirs = scan(ArrayDataset(values, labels)), scan(own)
    assert theirs.digests == ours.digests
    assert torch.equal(theirs.labels, ours.labels)
    assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
    nested = Subset(Subset(own, [5, 3, 1]), [2, 0])
    assert scan(nested).digests == ours.of([1, 5]).digests
    assert scan(nested).labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([pair(), pair((3,))], r"items 0 to 1 of Listed must be \(input, label\) .* cannot be put into one batch"),
        ([("text", 0)], r"items 0 to 0 of Listed must be .*: they are no tensors and no numbers"),
        ([pair(label="dog")], "they are no tensors and no numbers"),
        ([(object(), 0)], r"items 0 to 0 of Listed must be .* tensors of one shape"),
        ([torch.zeros(2)[0]], "items 0 to 0 of Listed"),
        ([pair(label=0.5)], r"labels of Listed must be whole numbers from 0, one per item. Got \[1\] of torch.float"),
        ([pair(label=torch.zeros(3).long())], r"one per item. Got \[1, 3\] of torch.int64 for a batch"),
        ([], "a part must have items. Got none instead"),
    ],
)
def test_items_that_are_no_inputs_with_labels_are_refused(items: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan(Listed(*items))


def test_a_stream_is_refused() -> None:
    class Stream(IterableDataset[object]):
        def __iter__(self) -> Iterator[object]:
            yield pair()

    with pytest.raises(ValueError, match=r"must have a length and items by index\. Got a Stream instead\. Give it"):
        scan(Stream())


def test_reading_a_users_items_leaves_the_random_state_alone() -> None:
    class Noisy(Listed):
        def __getitem__(self, index: int) -> object:
            return torch.rand(2), 0

    before = torch.get_rng_state()
    scan(Noisy(1, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)
