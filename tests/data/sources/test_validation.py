"""Checks of splits: unusable data raises an error, suspicious data a warning, good data neither."""

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

examples = settings(max_examples=60)
CLASSES = ("cat", "dog", "owl")


def scan_rows(start: float = 0, rows: int = 6, width: int = 2) -> ScannedItems:
    values = torch.arange(start, start + rows * width).reshape(rows, width)
    return scan(ArrayDataset(values.float(), torch.arange(rows) % len(CLASSES)))


def test_good_splits_pass_silently() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validation.check_splits({"train": scan_rows(), "val": scan_rows(100), "test": scan_rows(200)}, CLASSES)


@pytest.mark.parametrize(
    ("labels", "got"),
    [([0, 1, 3], "3 at index 2 and 1 such"), ([-1, 3, 9], "-1 at index 0 and 3 such"), ([0, 300], "300 at index 1")],
)
def test_a_label_out_of_range_raises(labels: list[int], got: str) -> None:
    message = rf"labels of val must be within 0 … 2, the 3 training classes\. Got {got}.*Number the classes from 0"
    with pytest.raises(ValueError, match=message):
        validation.require_label_range(torch.tensor(labels), CLASSES, "val")


@pytest.mark.parametrize(("split", "samples", "least"), [("train", 0, 2), ("train", 1, 2), ("val", 0, 1)])
def test_too_few_samples_raise(split: str, samples: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"{split} must have at least {least} samples. Got {samples} instead"):
        validation.check_count(torch.zeros(samples).long(), split)


def test_a_single_test_sample_warns() -> None:
    with pytest.warns(UserWarning, match="test has only 1 sample"):
        validation.check_count(torch.zeros(1).long(), "test")


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        ([0, 0, 2], r"2 of 3 classes, none of 'dog'"),
        ([1, 1, 1], r"1 of 3 classes, none of 'cat', 'owl'"),
        ([1, 2, 1], r"2 of 3 classes, none of 'cat'"),  # as if labels started at 1
    ],
)
def test_a_class_without_training_samples_raises(labels: list[int], got: str) -> None:
    with pytest.raises(ValueError, match=f"train must have samples of every class.*Got {got}.*labels start at 0"):
        validation.require_classes(torch.tensor(labels), CLASSES)


def test_a_single_class_raises() -> None:
    with pytest.raises(ValueError, match=r"at least two classes\. Got 1 of 1 classes"):
        validation.require_classes(torch.zeros(5).long(), CLASSES[:1])


@pytest.mark.parametrize(
    ("split", "labels", "message"),
    [
        ("val", [0, 0, 2, 2], "val has no samples of 'dog'"),
        ("test", [1, 1], "test has samples of one class only: 'dog'"),
        ("train", [0, 0, 1, 2, 2], "train has only one sample of 'dog'"),
    ],
)
def test_missing_or_rare_classes_warn(split: str, labels: list[int], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        validation.check_classes(torch.tensor(labels), CLASSES, split)


def test_many_missing_classes_are_counted() -> None:
    with pytest.warns(UserWarning, match="no samples of '2', '3', '4', '5', '6' and 93 more"):
        validation.check_classes(torch.tensor([0, 1]), [str(number) for number in range(100)], "val")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_inputs_raise_with_their_rows(value: float) -> None:
    values = torch.zeros(9, 2, 3)
    values[[2, 7], 1, 1] = value
    scanned = scan(ArrayDataset(values, torch.arange(9) % 3))
    with pytest.raises(ValueError, match=r"inputs of test must be finite. .* in 2 of 9 samples: index 2, 7\."):
        validation.require_finite(scanned.non_finite, "test")


def test_splits_of_different_shapes_or_types_raise() -> None:
    message = r"same shape and type in all splits. Got \[2\] of torch.float32 in train, \[3\] of .*Convert test"
    with pytest.raises(ValueError, match=message):
        validation.require_equal_shapes({"train": scan_rows(), "test": scan_rows(width=3)})
    other_type = scan_rows()._replace(dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"\[2\] of torch.uint8 in val instead. Convert val"):
        validation.require_equal_shapes({"train": scan_rows(), "val": other_type})


@pytest.mark.parametrize(
    ("test", "got"),
    [
        (["cat", "owl", "dog"], "'dog' in train and 'owl' in test for label 1"),
        (["cat", "dog"], "'owl' in train and None in test for label 2"),
        (["cat", "dog", "owl", "yak"], "None in train and 'yak' in test for label 3"),
    ],
)
def test_another_order_or_number_of_classes_raises(test: list[str], got: str) -> None:
    with pytest.raises(ValueError, match=rf"same order, in all splits\. Got {got}.*label numbers in test"):
        validation.require_equal_classes({"train": CLASSES, "val": None, "test": test})


def test_equal_or_unnamed_classes_pass() -> None:
    validation.require_equal_classes({"train": CLASSES, "val": None, "test": list(CLASSES)})
    validation.require_equal_classes({"train": None, "test": list(CLASSES)})


def test_an_input_in_two_splits_warns_with_its_index() -> None:
    message = r"1 of 6 inputs of test are also in train, at index 0"
    with pytest.warns(UserWarning, match=message):  # the last row of train is the first row of test
        validation.check_duplicates({"train": scan_rows().digests, "test": scan_rows(10).digests})


def test_copies_within_the_test_split_warn() -> None:
    """Five copies of each test item once made intervals for new items half as long, in silence."""
    rows = list(scan_rows(rows=300).digests)
    with pytest.warns(UserWarning, match=r"4 of 304 inputs of test are copies of others in it: .* too narrow"):
        validation.check_copies([*rows, *rows[:4]])
    validation.check_copies([*rows, *rows[:3]])  # 1 %, as in some public datasets
    validation.check_copies([rows[0]] * 3)  # too few to tell


def test_a_split_that_is_wholly_in_another_raises() -> None:
    with pytest.raises(ValueError, match="3 of 3 inputs of val are also in train"):
        validation.check_duplicates({"train": scan_rows().digests, "val": scan_rows(rows=3).digests})


@examples
@given(st.lists(st.integers(0, 30), min_size=1), st.lists(st.integers(0, 30), min_size=1))
def test_duplicates_match_a_pairwise_comparison(train: list[int], test: list[int]) -> None:
    digests = {
        split: scan(ArrayDataset(torch.tensor(values)[:, None].float(), torch.zeros(len(values)).long())).digests
        for split, values in (("train", train), ("test", test))
    }
    shared = [row for row, value in enumerate(test) if value in train]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if len(shared) == len(test):
            with pytest.raises(ValueError, match=f"{len(test)} of {len(test)} inputs of test"):
                validation.check_duplicates(digests)
            return
        validation.check_duplicates(digests)
    assert [str(warning.message).split(" of ")[0] for warning in caught] == ([str(len(shared))] if shared else [])


class Listed(Dataset[object]):
    """A dataset as a user might write it: returns the given items one by one."""

    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def pair(shape: tuple[int, ...] = (2,), label: object = 0) -> tuple[Tensor, object]:
    return torch.zeros(shape), label


def test_scanning_a_users_dataset_matches_scanning_arrays() -> None:
    values, labels = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    listed = Listed(*((value, int(label)) for value, label in zip(values, labels, strict=True)))
    expected, scanned = scan(ArrayDataset(values, labels)), scan(listed)
    assert scanned.digests == expected.digests
    assert torch.equal(scanned.labels, expected.labels)
    assert (scanned.shape, scanned.dtype) == (expected.shape, expected.dtype)
    nested = Subset(Subset(listed, [5, 3, 1]), [2, 0])
    assert scan(nested).digests == expected.take([1, 5]).digests
    assert scan(nested).labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([(*pair(), 1), (*pair(), 2)], r"samples 0 to 1 of Listed must be \(input, label\)"),
        ([pair(), pair((3,))], r"samples 0 to 1 of Listed must be \(input, label\).* cannot be collated"),
        ([("text", 0)], r"samples 0 to 0 of Listed must be .*: they contain values other than tensors and numbers"),
        ([pair(label="dog")], "they contain values other than tensors and numbers"),
        ([(object(), 0)], r"samples 0 to 0 of Listed must be .* of the same shape"),
        ([torch.zeros(2)[0]], "samples 0 to 0 of Listed"),
        (
            [pair(label=0.5)],
            r"labels of Listed must be non-negative integers, one per sample. Got \[1\] of ",
        ),
        ([pair(label=torch.zeros(3).long())], r"one per sample. Got \[1, 3\] of torch.int64 for a batch"),
        ([], "a split must not be empty"),
    ],
)
def test_items_that_are_not_input_and_label_raise(items: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan(Listed(*items))


def test_an_iterable_dataset_raises() -> None:
    class Stream(IterableDataset[object]):
        def __iter__(self) -> Iterator[object]:
            yield pair()

    with pytest.raises(ValueError, match=r"must have a length and samples by index\. Got a Stream instead\. Give it"):
        scan(Stream())


def test_scanning_a_users_dataset_restores_the_random_state() -> None:
    class Noisy(Listed):
        def __getitem__(self, index: int) -> object:
            return torch.rand(2), 0

    before = torch.get_rng_state()
    scan(Noisy(1, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)
