"""A teacher's answers from a file: row i is item i's, whatever the file's format and order, or there is an error."""

from __future__ import annotations

import io
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kd
from kd.storage import tables
from kd.teachers.label_agreement import NOT_VERIFIED
from kd.teachers.logit_files import FLOOR, read_logits
from tests.teachers.test_cache import good_teacher

some = settings(max_examples=30)
N, K = 60, 3
LABELS = torch.arange(N) % K
NAMES = ["ant", "bee", "cat"]
IDS = [f"item-{i:02}.png" for i in range(N)]
Array = np.ndarray[Any, np.dtype[Any]]


def good(seed: int = 0) -> Array:
    """Logits [N, K] in float32 of a teacher that is always right."""
    values = np.random.default_rng(seed).normal(size=(N, K)).astype(np.float32)
    values[np.arange(N), LABELS] = values.max(axis=1) + 1
    return values


def softmax(values: Array) -> Array:
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def npy(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def npz(compressed: bool = False, **values: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **values)
    return buffer.getvalue()


def table(values: Array, heading: str = "", ids: list[str] | None = None) -> bytes:
    lines = [",".join(map(repr, row)) for row in values.tolist()]
    if ids is not None:
        lines = [f'"{one}",{line}' for one, line in zip(ids, lines, strict=True)]
    return "\n".join([heading] * bool(heading) + lines).encode()


def read(name: str, content: bytes, **options: Any) -> kd.Predictions:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return read_logits(path, **{"labels": LABELS, "classes": K, **options})


# --- what is read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.npy", npy(good())),
        ("t.npy", npy(good().astype(np.float64))),
        ("t.npy", npy(good().astype(">f4"))),
        ("t.npy", npy(np.asfortranarray(good()))),
        ("t.npz", npz(anything=good())),
        ("t.npz", npz(logits=good(), features=np.zeros((N, 9)))),
        ("t.npz", npz(compressed=True, logits=good())),
        ("t.csv", table(good())),
        ("t.csv", table(good(), "a,b,c")),
        ("t.csv", b"\xef\xbb\xbf" + table(good(), "a,b,c").replace(b"\n", b"\r\n") + b"\r\n\r\n"),
    ],
)
def test_every_format_gives_the_same_rows_and_what_distilldataset_takes(name: str, content: bytes) -> None:
    predictions = read(name, content)
    assert predictions.logits.dtype == torch.float32
    assert torch.equal(predictions.logits, torch.from_numpy(good()))
    assert predictions.labels is LABELS
    images = kd.ImageDataset(torch.zeros(N, 1, 2, 2, dtype=torch.uint8), LABELS, mean=0.0, std=1.0)
    assert torch.equal(kd.DistillDataset(images, predictions.logits)[7][2], torch.from_numpy(good()[7]))


@some
@given(seed=st.integers(0, 999), spare=st.integers(0, 5), kind=st.sampled_from(["csv", "npz"]))
def test_rows_are_found_by_their_ids_in_any_order_and_among_others(seed: int, spare: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([good(), rng.normal(size=(spare, K)).astype(np.float32)])
    ids = IDS + [f"other {i}, of which nobody asked" for i in range(spare)]
    order = rng.permutation(len(ids))
    mixed = [ids[i] for i in order]
    content = (
        table(values[order], "id,a,b,c", mixed) if kind == "csv" else npz(logits=values[order], id=np.array(mixed))
    )
    assert torch.equal(read(f"t.{kind}", content, ids=IDS).logits, torch.from_numpy(good()))


def test_ids_may_be_numbers_and_their_column_anywhere() -> None:
    content = npz(scores=good()[::-1], number=np.arange(N)[::-1])
    ids = [str(i) for i in range(N)]
    assert torch.equal(read("t.npz", content, ids=ids, id_column="number").logits, torch.from_numpy(good()))
    lines = [f"{a},{i},{b},{c}" for i, (a, b, c) in enumerate(good().tolist())]
    content = "\n".join(["a,number,b,c", *lines[::-1]]).encode()
    assert torch.equal(read("t.csv", content, ids=ids, id_column="number").logits, torch.from_numpy(good()))


def test_other_rows_are_said_to_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    content = npz(logits=np.concatenate([good(), good()]), id=np.array(IDS + [f"x{i}" for i in range(N)]))
    read("t.npz", content, ids=IDS)
    assert "60 of its 120 rows are of other items, and left out" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probabilities_soften_as_the_logits_that_they_came_from(temperature: float) -> None:
    predictions = read("t.npy", npy(softmax(good())), kind="probabilities")
    expected = softmax(good() / temperature)
    np.testing.assert_allclose(softmax(predictions.logits.numpy() / temperature), expected, rtol=1e-5)


def test_probabilities_of_0_are_raised_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    predictions = read("t.npy", npy(np.eye(K)[LABELS]), kind="probabilities")
    assert predictions.logits.min() == pytest.approx(np.log(FLOOR))
    said = " ".join(capsys.readouterr().out.split())
    assert "the logarithm of its probabilities is taken, 120 of 180 values below 1e-06 raised to it" in said


def test_names_put_the_columns_in_order() -> None:
    order = ["cat", "ant", "bee"]
    mixed = good()[:, [2, 0, 1]]
    by_argument = read("t.npy", npy(mixed), label_order=order, class_names=NAMES)
    by_heading = read("t.csv", table(mixed, ",".join(order)), class_names=NAMES)
    by_both = read("t.csv", table(mixed, "id,cat,ant,bee", IDS), class_names=NAMES, ids=IDS)
    for predictions in (by_argument, by_heading, by_both):
        assert torch.equal(predictions.logits, torch.from_numpy(good()))


def test_what_was_measured_is_said_and_what_cannot_be_verified(capsys: pytest.CaptureFixture[str]) -> None:
    read("t.npy", npy(good()))
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(
        f"t.npy: 100.0% right on 60 items, measured now; in random order it would be 33.3%. {NOT_VERIFIED}."
    )


def test_a_student_learns_from_a_file_as_from_the_teacher(digits: kd.ImageDataset, tmp_path: Path) -> None:
    cached = kd.collect_logits(good_teacher(), digits)
    np.save(tmp_path / "teacher.npy", cached.logits.numpy())
    predictions = read_logits(tmp_path / "teacher.npy", labels=digits.labels, classes=4)
    assert torch.equal(predictions.logits, cached.logits)
    kd.verify_logits(good_teacher(), digits, predictions)


# --- what is refused


@pytest.mark.parametrize("seed", range(3))
def test_rows_in_another_order_are_refused_with_the_figure(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(N)
    with pytest.raises(
        ValueError, match=r"t.npy: \d\d\.\d% right on 60 items, and that is chance level \(33\.3% ± 6\.1%\)"
    ):
        read("t.npy", npy(good()[order]))


def test_columns_in_another_order_are_refused_with_the_order_that_fits() -> None:
    expected = (
        r"0\.0% right.*taking output 1 for class 0, 2 for class 1, 0 for class 2 would make it 100\.0%\. Give label_o"
    )
    with pytest.raises(ValueError, match=expected):
        read("t.npy", npy(good()[:, [2, 0, 1]]))


def with_value(value: float) -> Array:
    values = good()
    values[3, 1] = value
    return values


ids = {"ids": IDS}
REFUSED: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "too few rows": (
        "t.npy",
        npy(good()[:-1]),
        {},
        r"should hold 60 rows, one for each item in the order of the dataset\. Got 59\..*give ids",
    ),
    "other classes": (
        "t.npy",
        npy(good()[:, :2]),
        {},
        r"rows of 3 values, one for each class of the data\. Got \[60, 2\]",
    ),
    "one dimension": ("t.npy", npy(good().ravel()), {}, r"rows of 3 values.*Got \[180\]"),
    "NaN": ("t.npy", npy(with_value(np.nan)), {}, r"logits must be finite\. Got NaN or infinity in 1 of 60 rows"),
    "too large for float32": (
        "t.npy",
        npy(good().astype(float) * 1e300),
        {},
        r"logits must be finite\. Got NaN or infinity in 60 of 60",
    ),
    "inf as text": ("t.csv", table(with_value(np.inf)), {}, r"must be finite"),
    "probabilities as logits": (
        "t.npy",
        npy(softmax(good())),
        {},
        r"all rows are probabilities.*Give kind='prob",
    ),
    "logits as probabilities": (
        "t.npy",
        npy(good()),
        {"kind": "probabilities"},
        r"each row should be at least 0 and have a sum of 1\. Got values from -.* Scores before the softmax are kind=",
    ),
    "percentages": ("t.npy", npy(100 * softmax(good())), {"kind": "probabilities"}, r"sums from 100 to 100"),
    "another kind": ("t.npy", b"", {"kind": "scores"}, r"kind must be 'logits' or 'probabilities'\. Got 'scores'"),
    "another file": ("t.pt", b"", {}, r"it should be an \.npy, \.npz or \.csv file\. Got '\.pt'"),
    "without ending": ("t", b"", {}, r"Got 'no ending'"),
    "ids for npy": ("t.npy", npy(good()), ids, r"an \.npy file has no ids: use \.npz with an array 'id', or \.csv"),
    "no ids in npz": ("t.npz", npz(logits=good()), ids, r"should hold an array 'id'\. Got logits instead"),
    "no id column": (
        "t.csv",
        table(good(), "a,b,c"),
        ids,
        r"should have a column 'id'.* Got the columns a, b, c instead",
    ),
    "no heading": ("t.csv", table(good()), ids, r"should have a column 'id'.*Got no heading instead"),
    "an id twice": (
        "t.npz",
        npz(logits=good(), id=np.array([*IDS[:-1], IDS[0]])),
        ids,
        r"each id should be there once\. Got 'item-00.png' more than once",
    ),
    "an id missing": (
        "t.npz",
        npz(logits=good(), id=np.array([*IDS[:-1], "item-59.jpg"])),
        ids,
        r"a row for each of the 60 items\. Got none for 1 of them, such as 'item-59.png'; its own ids are like 'item",
    ),
    "fewer ids than rows": (
        "t.npz",
        npz(logits=good(), id=np.array(IDS[1:])),
        ids,
        r"one id for each of its 60 rows\. Got 59",
    ),
    "ids in two columns": (
        "t.npz",
        npz(logits=good(), id=np.array([IDS])),
        ids,
        r"ids should be one per row\. Got .*\[1, 60\]",
    ),
    "fewer ids than labels": ("t.npy", b"", {"ids": IDS[1:]}, r"ids must be one for each of 60 labels\. Got 59"),
    "several arrays": ("t.npz", npz(a=good(), b=good()), {}, r"should hold an array 'logits'\. Got a, b instead"),
    "names in part": (
        "t.csv",
        table(good(), "ant,bee,cow"),
        {"class_names": NAMES},
        r"Not the data's: 'cow'; missing: 'cat'",
    ),
    "order without names": ("t.npy", npy(good()), {"label_order": NAMES}, r"label_order needs class_names"),
    "a text among numbers": ("t.csv", table(good()) + b"\n1,2,three", {}, r"line 61 should hold numbers\. Got 'three'"),
    "1_000": ("t.csv", table(good()) + b"\n1,2,1_000", {}, r"line 61 should hold numbers\. Got '1_000'"),
    "a short line": (
        "t.csv",
        table(good()) + b"\n1,2",
        {},
        r"line 61 should hold 3 numbers, as the first line\. Got 2",
    ),
    "semicolons": ("t.csv", table(good()).replace(b",", b";"), {}, r"line 2 should hold numbers\. Got '.*;"),
    "an empty table": ("t.csv", b"", {}, r"it has no rows"),
    "a heading alone": ("t.csv", b"a,b,c\n", {}, r"it has no rows"),
    "no text": ("t.csv", b"\xff\xfe\x00", {}, r"is not a table of text in UTF-8 with commas \("),
    "an open quote": ("t.csv", b'"a,b\n1,2', {}, r"is not a table of text in UTF-8 with commas \("),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_says_why_and_what_to_do(case: str) -> None:
    name, content, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        read(name, content, **options)


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    raw = text.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(raw)) + raw


def shaped(shape: str, dtype: str = "<f4") -> bytes:
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n")


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", npy(np.zeros((10_000_000, 3))))
    return buffer.getvalue()


def doubled() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("logits.npy", npy(good()))
        archive.writestr("logits", npy(good()))
    return buffer.getvalue()


def flipped() -> bytes:
    content = bytearray(npz(logits=good()))
    content[300] ^= 1
    return bytes(content)


def damaged_compression() -> bytes:
    content = bytearray(npz(compressed=True, logits=good()))
    content[100:140] = bytes(40)
    return bytes(content)


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a pickle": (
        "t.npy",
        lambda: npy(np.array([[{}]], dtype=object)),
        r"values are Python objects, which are not read",
    ),
    "10^15 values": ("t.npy", lambda: shaped("(1000000000000000, 3)"), r"does not go with 0 bytes of values"),
    "a negative shape": ("t.npy", lambda: shaped("(-1, -3)") + bytes(12), r"does not go with 12 bytes"),
    "no shape": ("t.npy", lambda: shaped("()") + bytes(4), r"Got \[\]"),
    "values left over": (
        "t.npy",
        lambda: npy(good()) + bytes(4),
        r"a shape \[60, 3\] of float32 does not go with 724 bytes",
    ),
    "a record": ("t.npy", lambda: shaped("(1,)", "V8") + bytes(8), r"type \|V8"),
    "texts": ("t.npy", lambda: npy(np.array([["a"]])), r"type <U1"),
    "another version": ("t.npy", lambda: header("{}", b"\x09\x09"), r"damaged or not an array"),
    "code for a header": ("t.npy", lambda: header("__import__('os').abort()"), r"damaged or not an array"),
    "a header in itself": ("t.npy", lambda: header("(" * 5000), r"damaged or not an array"),
    "nothing": ("t.npy", lambda: b"", r"damaged or not an array"),
    "text for npz": ("t.npz", lambda: b"hello", r"damaged or not an \.npz file \(BadZipFile"),
    "a bomb": ("t.npz", bomb, r"would unpack to 240,000,128 bytes, more than 64 times its size\. Save it uncompressed"),
    "two of one name": ("t.npz", doubled, r"two of its arrays have one name"),
    "a flipped bit": ("t.npz", flipped, r"Bad CRC-32"),
    "damaged compression": ("t.npz", damaged_compression, r"is damaged or not an array .*\(error: Error -3"),
    "an empty archive": ("t.npz", lambda: npz(), r"should hold an array 'logits'\. Got none instead"),
    "a cell of 200 kB": ("t.csv", lambda: b"1," + b"1" * 200_000 + b",1", r"field larger than field limit"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(case: str) -> None:
    name, make, message = HOSTILE[case]
    with pytest.raises(ValueError, match=rf"{name} cannot be used as the teacher's logits: .*{message}"):
        read(name, make())


@settings(some, max_examples=300)
@given(data=st.data(), name=st.sampled_from(["t.npy", "t.npz", "t.csv"]))
def test_a_file_with_other_bytes_is_refused_or_gives_finite_logits_of_the_right_shape(
    data: st.DataObject, name: str
) -> None:
    content = bytearray({"t.npy": npy(good()), "t.npz": npz(logits=good()), "t.csv": table(good())}[name])
    # Half of the places in the first 150 bytes, where the headers are.
    place = st.integers(0, 149) | st.integers(0, len(content) - 1)
    for at in data.draw(st.lists(place, min_size=1, max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    try:
        predictions = read(name, bytes(content))
    except ValueError:
        return
    assert predictions.logits.shape == (N, K)
    assert predictions.logits.isfinite().all()


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.csv"])
def test_a_file_cut_off_anywhere_never_passes(name: str) -> None:
    content = {"t.npy": npy(good()), "t.npz": npz(logits=good()), "t.csv": table(good())}[name]
    for end in range(0, len(content) - 30, 41):
        with pytest.raises(ValueError, match=r"cannot be used as the teacher's logits"):
            read(name, content[:end])


def test_a_large_table_of_text_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate(tables.CSV_LIMIT + 1)
    with pytest.raises(ValueError, match=r"larger than 268,435,456 bytes; save a table of this size as \.npy\. Got"):
        read_logits(tmp_path / "t.csv", labels=LABELS, classes=K)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"cannot read the teacher's logits in .*none\.npy: No such file.* Give an \.npy"
    ):
        read_logits(tmp_path / "none.npy", labels=LABELS, classes=K)
