"""Labels of every supported kind are encoded as integers in one class order; other labels raise an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.data.sources.labels import _sort_names, encode_labels

examples = settings(max_examples=60)
Array = np.ndarray[Any, Any]


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (np.array(["owl", "cat", "owl"]), ("cat", "owl"), [1, 0, 1]),
        (np.array([b"owl", b"cat", b"owl"]), ("cat", "owl"), [1, 0, 1]),
        (np.array(["é".encode(), b"cat", "é".encode()]), ("cat", "é"), [1, 0, 1]),
        (np.array(["10", "9", "10"]), ("9", "10"), [1, 0, 1]),
        (np.array([True, False, True]), ("False", "True"), [1, 0, 1]),
        (np.array([1.0, 0.0, 1.0]), ("0", "1"), [1, 0, 1]),
        (np.array([[1], [0], [1]], dtype=np.uint8), ("0", "1"), [1, 0, 1]),
    ],
)
def test_labels_of_every_kind_are_encoded(labels: Array, classes: tuple[str, ...], numbers: list[int]) -> None:
    encoded, names = encode_labels({"train": labels, "test": labels[:1]})
    assert (encoded["train"].tolist(), encoded["test"].tolist(), names) == (numbers, numbers[:1], classes)
    assert encoded["train"].dtype == torch.int64


@examples
@given(st.lists(st.text("abcé", min_size=1), min_size=1, max_size=30))
def test_each_number_indexes_its_class_name(names: list[str]) -> None:
    encoded, classes = encode_labels({"train": np.array(names)})
    assert [classes[number] for number in encoded["train"].tolist()] == names
    assert list(classes) == sorted(set(names))


def test_encoded_names_and_floats_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    encode_labels({"train": np.array(["b", "a"])})
    encode_labels({"train": np.array([0.0, 1.0])})
    out = capsys.readouterr().out
    assert "labels: 2 class names, numbered from 0 in this order: 'a', 'b'" in out
    assert "labels of train: integers stored as float64" in out


def test_classes_set_the_label_order() -> None:
    assert encode_labels({"train": np.array(["b", "a"])}, ["b", "a"])[0]["train"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ({"train": np.array([0, 2**40, 1])}, None, r"Got 3 different ones, the largest 1,099,511,627,776, for 3 tr"),
        (
            {"train": np.array([0, 2**63 + 5], dtype=np.uint64)},
            None,
            "Got 9223372036854775813 at index 1. Number the cl",
        ),
        ({"train": np.array([0, -1e300])}, None, r"must number the classes from 0\. Got -1e\+300 at index 1"),
        ({"train": np.array([b"a", b"\xff"])}, None, r"labels of train must be readable text.* Got b'\\xff'"),
        ({"train": np.eye(3)}, None, r"labels of train must have shape \[N\], .* Got \[3, 3\] .*argmax\(axis=1\)"),
        ({"train": np.array([0.5, 1])}, None, r"Got 0.5 at index 0 and 1 such labels in all."),
        ({"train": np.array([0, np.nan])}, None, "Got nan at index 1"),
        (
            {"train": np.array(["a", "b", "nan"])},
            None,
            r"labels of train must hold a class .* Got 'nan' at index 2 and 1",
        ),
        (
            {"train": np.array(["a", "b"]), "test": np.array([b"a", b" "])},
            None,
            r"labels of test must .* Got ' ' at in",
        ),
        ({"train": np.array(["a", "<NA>", "NaT"])}, ["a", "b"], r"Got '<NA>' at index 1 and 2 such .*--class-names"),
        ({"train": np.array([1j])}, None, r"non-negative integers or strings. Got an array of complex128 .*astype"),
        ({"train": np.array([0, -1])}, None, "labels of train must be within 0 … 0, .* Got -1 at index 1"),
        ({"train": np.array([0, 1]), "val": np.array([2])}, None, "labels of val must be within 0 … 1"),
        (
            {"train": np.array(["a"]), "val": np.array(["b"])},
            None,
            "val must be among the 1 classes 'a'. Got 'b'",
        ),
        (
            {"train": np.array([0, 1]), "val": np.array(["0"])},
            None,
            "same kind .* numbers in train, names in val",
        ),
        ({"train": np.array([0, 1, 2])}, ["a", "b"], "labels of train must be within 0 … 1, the 2 training classes"),
        ({"train": np.array([0])}, ["a", "a"], r"class names .*must be unique. Got \['a', 'a'\]"),
    ],
)
def test_invalid_labels_raise(labels: Any, classes: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_labels(labels, classes)


def test_names_like_missing_values_are_classes_if_they_are_listed_or_ambiguous() -> None:
    for names, classes in ((["none", "null", "na"], None), (["nan", "", "bread"], ["nan", "", "bread"])):
        encoded, found = encode_labels({"train": np.array(names)}, classes)
        assert [found[number] for number in encoded["train"].tolist()] == names


def test_names_with_the_same_number_are_sorted_as_text() -> None:
    assert _sort_names({"1", "01", "001", "2"}) == ["001", "01", "1", "2"]
    assert _sort_names({"10", "9"}) == ["9", "10"]
    assert _sort_names({"10", "9", "a"}) == ["10", "9", "a"]
