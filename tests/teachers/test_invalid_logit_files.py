"""Files of teacher logits in another order, invalid, hostile, damaged or missing."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.storage import tables
from kd.teachers.logit_files import read_logits
from tests.teachers.stored_logits import (
    IDS,
    LABELS,
    NAMES,
    Array,
    K,
    N,
    ids,
    make_logits,
    read,
    softmax,
    some,
    to_csv,
    to_npy,
    to_npz,
)


@pytest.mark.parametrize("seed", range(3))
def test_rows_in_another_order_raise_with_the_accuracy(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(N)
    with pytest.raises(
        ValueError, match=r"t.npy: accuracy \d\d\.\d% on 60 samples; that is chance level \(33\.3% ± 6\.1%\)"
    ):
        read("t.npy", to_npy(make_logits()[order]))


def test_columns_in_another_order_raise_with_the_order_that_fits() -> None:
    expected = (
        r"accuracy 0\.0%.*output 1 for class 0, 2 for class 1, 0 for class 2 would give 100\.0%\. Pass label_order"
    )
    with pytest.raises(ValueError, match=expected):
        read("t.npy", to_npy(make_logits()[:, [2, 0, 1]]))


def with_value(value: float) -> Array:
    values = make_logits()
    values[3, 1] = value
    return values


REFUSED: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "too few rows": (
        "t.npy",
        to_npy(make_logits()[:-1]),
        {},
        r"must have 60 rows, one per sample in the order of the dataset\. Got 59\. Pass ids",
    ),
    "other classes": (
        "t.npy",
        to_npy(make_logits()[:, :2]),
        {},
        r"must have 3 columns, one per class of the data\. Got shape \[60, 2\]",
    ),
    **{
        f"scores of the second class, {name}": (
            "t.npy",
            to_npy(values),
            {"labels": LABELS % 2, "classes": 2},
            r"must have 2 columns.*One output for two classes.*\[0, z\] for a score z",
        )
        for name, values in (("a row", make_logits()[:, 0]), ("a column", make_logits()[:, :1]))
    },
    "one dimension": ("t.npy", to_npy(make_logits().ravel()), {}, r"must have 3 columns.*Got shape \[180\]"),
    "NaN": ("t.npy", to_npy(with_value(np.nan)), {}, r"logits must be finite\. Got NaN or infinity in 1 of 60 rows"),
    "too large for float32": (
        "t.npy",
        to_npy(make_logits().astype(float) * 1e300),
        {},
        r"logits must be finite\. Got NaN or infinity in 60 of 60",
    ),
    "inf as text": ("t.csv", to_csv(with_value(np.inf)), {}, r"must be finite"),
    "probabilities as logits": (
        "t.npy",
        to_npy(softmax(make_logits())),
        {},
        r"sum to 1: probabilities\. .*kind='probabilities'",
    ),
    "logits as probabilities": (
        "t.npy",
        to_npy(make_logits()),
        {"kind": "probabilities"},
        r"at least 0 and with sum 1 .* Got values from -.*kind='logits'",
    ),
    "percentages": ("t.npy", to_npy(100 * softmax(make_logits())), {"kind": "probabilities"}, r"sums from 100 to 100"),
    "another kind": ("t.npy", b"", {"kind": "scores"}, r"kind must be 'logits' or 'probabilities'\. Got 'scores'"),
    "another file": ("t.pt", b"", {}, r"it should be an \.npy, \.npz or \.csv file\. Got '\.pt'"),
    "without ending": ("t", b"", {}, r"Got 'no suffix'"),
    "ids for npy": (
        "t.npy",
        to_npy(make_logits()),
        ids,
        r"an \.npy file has no ids: use \.npz with an array 'id', or \.csv",
    ),
    "no ids in npz": ("t.npz", to_npz(logits=make_logits()), ids, r"should hold an array 'id'\. Got logits instead"),
    "no id column": (
        "t.csv",
        to_csv(make_logits(), "a,b,c"),
        ids,
        r"should have a header with a column 'id'.* Got the columns a, b, c instead",
    ),
    "no heading": ("t.csv", to_csv(make_logits()), ids, r"should have a header with a column 'id'.*Got no header"),
    "an id twice": (
        "t.npz",
        to_npz(logits=make_logits(), id=np.array([*IDS[:-1], IDS[0]])),
        ids,
        r"ids must be unique\. Got 'item-00.png' more than once",
    ),
    "an id missing": (
        "t.npz",
        to_npz(logits=make_logits(), id=np.array([*IDS[:-1], "item-59.jpg"])),
        ids,
        r"each of the 60 samples\. 1 ids are missing, such as 'item-59.png'; the file has ids such as 'item",
    ),
    "fewer ids than rows": (
        "t.npz",
        to_npz(logits=make_logits(), id=np.array(IDS[1:])),
        ids,
        r"one id for each of its 60 rows\. Got 59",
    ),
    "ids in two columns": (
        "t.npz",
        to_npz(logits=make_logits(), id=np.array([IDS])),
        ids,
        r"ids should be one per row\. Got .*\[1, 60\]",
    ),
    "fewer ids than labels": ("t.npy", b"", {"ids": IDS[1:]}, r"ids must be one for each of 60 labels\. Got 59"),
    "several arrays": (
        "t.npz",
        to_npz(a=make_logits(), b=make_logits()),
        {},
        r"should hold an array 'logits'\. Got a, b instead",
    ),
    "names in part": (
        "t.csv",
        to_csv(make_logits(), "ant,bee,cow"),
        {"class_names": NAMES},
        r"Unknown: 'cow'; missing: 'cat'",
    ),
    "order without names": (
        "t.npy",
        to_npy(make_logits()),
        {"label_order": NAMES},
        r"label_order requires class_names",
    ),
    "a text among numbers": (
        "t.csv",
        to_csv(make_logits()) + b"\n1,2,three",
        {},
        r"line 61 should hold numbers\. Got 'three'",
    ),
    "1_000": ("t.csv", to_csv(make_logits()) + b"\n1,2,1_000", {}, r"line 61 should hold numbers\. Got '1_000'"),
    "a short line": (
        "t.csv",
        to_csv(make_logits()) + b"\n1,2",
        {},
        r"line 61 should hold 3 numbers, like the first line\. Got 2",
    ),
    "semicolons": ("t.csv", to_csv(make_logits()).replace(b",", b";"), {}, r"line 2 should hold numbers\. Got '.*;"),
    "an empty table": ("t.csv", b"", {}, r"it has no rows"),
    "a heading alone": ("t.csv", b"a,b,c\n", {}, r"it has no rows"),
    "no text": ("t.csv", b"\xff\xfe\x00", {}, r"is not comma-separated text in UTF-8 \("),
    "an open quote": ("t.csv", b'"a,b\n1,2', {}, r"is not comma-separated text in UTF-8 \("),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_files_raise_with_reason_and_remedy(case: str) -> None:
    name, content, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        read(name, content, **options)


def make_header(text: str, version: bytes = b"\x01\x00") -> bytes:
    raw = text.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(raw)) + raw


def make_header_with_shape(shape: str, dtype: str = "<f4") -> bytes:
    return make_header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n")


def make_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", to_npy(np.zeros((10_000_000, 3))))
    return buffer.getvalue()


def make_duplicates() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("logits.npy", to_npy(make_logits()))
        archive.writestr("logits", to_npy(make_logits()))
    return buffer.getvalue()


def flip_bit() -> bytes:
    content = bytearray(to_npz(logits=make_logits()))
    content[300] ^= 1
    return bytes(content)


def damage_compression() -> bytes:
    content = bytearray(to_npz(compressed=True, logits=make_logits()))
    content[100:140] = bytes(40)
    return bytes(content)


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a pickle": (
        "t.npy",
        lambda: to_npy(np.array([[{}]], dtype=object)),
        r"values are Python objects, which could run code",
    ),
    "10^15 values": (
        "t.npy",
        lambda: make_header_with_shape("(1000000000000000, 3)"),
        r"does not match 0 bytes",
    ),
    "a negative shape": ("t.npy", lambda: make_header_with_shape("(-1, -3)") + bytes(12), r"does not match 12 bytes"),
    "no shape": ("t.npy", lambda: make_header_with_shape("()") + bytes(4), r"Got shape \[\]"),
    "values left over": (
        "t.npy",
        lambda: to_npy(make_logits()) + bytes(4),
        r"shape \[60, 3\] of float32 does not match 724 bytes",
    ),
    "a record": ("t.npy", lambda: make_header_with_shape("(1,)", "V8") + bytes(8), r"type \|V8"),
    "texts": ("t.npy", lambda: to_npy(np.array([["a"]])), r"type <U1"),
    "another version": ("t.npy", lambda: make_header("{}", b"\x09\x09"), r"damaged or not an array"),
    "code for a header": ("t.npy", lambda: make_header("__import__('os').abort()"), r"damaged or not an array"),
    "a header in itself": ("t.npy", lambda: make_header("(" * 5000), r"damaged or not an array"),
    "nothing": ("t.npy", lambda: b"", r"damaged or not an array"),
    "text for npz": ("t.npz", lambda: b"hello", r"damaged or not an \.npz file \(BadZipFile"),
    "a bomb": (
        "t.npz",
        make_bomb,
        r"would unpack to 240,000,128 bytes, more than 64 times its size\. Save it uncompressed",
    ),
    "two of one name": ("t.npz", make_duplicates, r"two of its arrays have the same name"),
    "a flipped bit": ("t.npz", flip_bit, r"Bad CRC-32"),
    "damaged compression": ("t.npz", damage_compression, r"is damaged or not an array .*\(error: Error -3"),
    "an empty archive": ("t.npz", lambda: to_npz(), r"should hold an array 'logits'\. Got none instead"),
    "a cell of 200 kB": ("t.csv", lambda: b"1," + b"1" * 200_000 + b",1", r"field larger than field limit"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_raises(case: str) -> None:
    name, make, message = HOSTILE[case]
    with pytest.raises(ValueError, match=rf"invalid teacher logits in .*{name}: .*{message}"):
        read(name, make())


@settings(some, max_examples=150)
@given(data=st.data(), name=st.sampled_from(["t.npy", "t.npz", "t.csv"]))
def test_a_corrupted_file_raises_or_gives_finite_logits_of_the_right_shape(data: st.DataObject, name: str) -> None:
    content = bytearray(
        {"t.npy": to_npy(make_logits()), "t.npz": to_npz(logits=make_logits()), "t.csv": to_csv(make_logits())}[name]
    )
    # Half of the changed bytes are among the first 150, in the headers.
    place = st.integers(0, 149) | st.integers(0, len(content) - 1)
    for position in data.draw(st.lists(place, min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        predictions = read(name, bytes(content))
    except ValueError:
        return
    assert predictions.logits.shape == (N, K)
    assert predictions.logits.isfinite().all()


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.csv"])
def test_a_truncated_file_raises(name: str) -> None:
    content = {"t.npy": to_npy(make_logits()), "t.npz": to_npz(logits=make_logits()), "t.csv": to_csv(make_logits())}[
        name
    ]
    for end in range(0, len(content) - 30, 41):
        with pytest.raises(ValueError, match="invalid teacher logits"):
            read(name, content[:end])


def test_an_oversized_table_raises_without_being_read(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate(tables.CSV_LIMIT + 1)
    with pytest.raises(ValueError, match=r"larger than 268,435,456 bytes; save a table of this size as \.npy\. Got"):
        read_logits(tmp_path / "t.csv", labels=LABELS, classes=K)


def test_a_missing_file_raises_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"cannot read teacher logits from .*none\.npy: No such file.* Pass an \.npy"
    ):
        read_logits(tmp_path / "none.npy", labels=LABELS, classes=K)
