"""Arrays from files: any shape, layout and labels are read; files that run code or exhaust memory raise an error."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from kd.checks import DamagedDataError
from kd.data.datasets import ArrayDataset
from kd.data.sources import open_source, split_source
from kd.data.sources.arrays import from_arrays, to_inputs
from kd.storage import tables

examples = settings(max_examples=60)
Array = np.ndarray[Any, Any]
SPLITS = ("train", "val", "test")
X, Y = np.arange(24, dtype=np.float32).reshape(12, 2), np.arange(12) % 3


def save_npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return path


def as_array_dataset(dataset: Any) -> ArrayDataset:
    assert isinstance(dataset, ArrayDataset)
    return dataset


# --- npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_splits_of_an_npz_are_read(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    save(path, x_train=X, y_train=Y, x_val=X + 100, y_val=Y, x_test=X + 200, y_test=Y, classes=["a", "b", "c"])
    source = open_source(str(path))
    assert (source.name, source.classes, list(source.parts)) == ("own", ("a", "b", "c"), ["train", "val", "test"])
    assert torch.equal(as_array_dataset(source.test).inputs, torch.from_numpy(X + 200))
    assert as_array_dataset(source.val).labels.tolist() == Y.tolist()
    assert open_source(path, classes="xyz").classes == ("x", "y", "z")


def test_names_of_numeric_labels_can_be_replaced_but_not_reordered(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x=X, y=Y, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"label order .*\['a', 'b', 'c'\]\. Got \['b', 'a', 'c'\] instead"):
        open_source(path, classes="bac")
    assert open_source(path, classes="abc").classes == ("a", "b", "c")
    named = save_npz(tmp_path, x=X, y=np.array(["a", "b", "c"])[Y], classes=["a", "b", "c"])
    source = open_source(named, classes="bac")
    assert [source.classes[label] for label in as_array_dataset(source.train).labels.tolist()] == ["a", "b", "c"] * 4


def test_x_and_y_are_the_training_data(tmp_path: Path) -> None:
    source = open_source(save_npz(tmp_path, x=X, y=Y))
    assert (list(source.parts), source.classes) == (["train"], ("0", "1", "2"))


def test_unused_arrays_warn(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"own\.npz has arrays that are not used: x_valid, y_valid\."):
        assert list(open_source(save_npz(tmp_path, x=X, y=Y, x_valid=X, y_valid=Y)).parts) == ["train"]


def test_a_link_to_an_npz_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(save_npz(tmp_path, x=X, y=Y))
    assert len(as_array_dataset(open_source(tmp_path / "link.npz").train)) == 12


@pytest.mark.parametrize(
    "names",
    [("x",), ("y",), ("x_train",), ("x_test", "y_test"), ("x", "y", "x_test"), ("x", "y", "x_train", "y_train")],
)
def test_missing_arrays_raise(names: tuple[str, ...], tmp_path: Path) -> None:
    path = save_npz(tmp_path, **{name: X if name[0] == "x" else Y for name in names})
    with pytest.raises(ValueError, match=r"own.npz must hold x_train and y_train \(or x and y\).*numpy.savez"):
        open_source(path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_a_pickle_in_an_npz_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "trap.npz", x=np.array([Trap()] * 12, dtype=object), y=Y)
    with pytest.raises(
        DamagedDataError,
        match=r"its array x cannot be used: its values are Python objects, which could run code .*numpy.savez",
    ):
        open_source("trap.npz")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DamagedDataError, match=r"cannot read the data file bare.npz: File is not a zip file"):
        open_source("bare.npz")
    assert not (tmp_path / "trapped").exists()


def write_archive(folder: Path, content: bytes, *, name: str = "x.npy", times: int = 1) -> Path:
    path = folder / "made.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(times):
            archive.writestr(name, content)
    return path


def encode_header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            encode_header("(1000000000000, 2)") + bytes(8),
            r"its array x cannot be used: shape \[1000000000000, 2\] of float32 does not match 8 bytes",
        ),
        (encode_header("(-1, 2)") + bytes(8), r"shape \[-1, 2\] of float32 does not match 8 bytes"),
        (encode_header("(2, 2)") + bytes(15), r"shape \[2, 2\] of float32 does not match 15 bytes"),
        (encode_header("(2, 2)") + bytes(17), r"shape \[2, 2\] of float32 does not match 17 bytes"),
        (
            encode_header("(1000000000,)", "|S0"),
            r"its array x cannot be used: its values are of type \|S0, which has no bytes",
        ),
        (encode_header("(1000000000,)", "<U0"), "its values are of type <U0, which has no bytes"),
        (encode_header("(1000000000,)", "|V0"), r"its values are of type \|V0, which has no bytes"),
        (encode_header("(2,", "|O"), "cannot read the data file"),
        (
            b"\x93NUMPY\x09\x00" + bytes(50),
            r"its array x cannot be used: it is damaged or not an array saved by numpy",
        ),
        (b"no array", "magic string is not correct"),
        (b"", "cannot read the data file"),
    ],
)
def test_a_false_header_raises_before_memory_is_allocated(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedDataError, match=reason):
        open_source(write_archive(tmp_path, content))


def test_an_archive_that_unpacks_to_too_much_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path, encode_header("(1000000, 2)", "|u1") + bytes(2_000_000))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(tables, "NPZ_LIMIT", 1_000_000)
    with pytest.raises(DamagedDataError, match=r"it unpacks to more than 1,000,000 bytes. Got 2,000,0\d\d\. Write"):
        open_source(path)


def test_a_file_that_is_too_large_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "NPZ_LIMIT", 100)
    with pytest.raises(DamagedDataError, match=r"is larger than 100 bytes"):
        open_source(save_npz(tmp_path, x=X, y=Y))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_array_names_raise(tmp_path: Path) -> None:
    with pytest.raises(DamagedDataError, match="two of its arrays have the same name"):
        open_source(write_archive(tmp_path, encode_header("(1,)"), times=2))


@examples
@given(st.data())
def test_a_damaged_npz_raises_or_yields_the_stored_arrays(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=X, y=Y)
    content = bytearray(buffer.getvalue())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    content = content[: data.draw(st.sampled_from([len(content), position]))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.npz"
        path.write_bytes(content)
        try:
            source = open_source(path)
        except (DamagedDataError, ValueError):
            return
    assert torch.equal(as_array_dataset(source.train).inputs, torch.from_numpy(X))
    assert as_array_dataset(source.train).labels.tolist() == Y.tolist()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_or_missing_npz_raises(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DamagedDataError, match=r"pipe\.npz is not a regular file"):
        open_source(tmp_path / "pipe.npz")
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*none\.npz: .*No such file"):
        open_source(tmp_path / "none.npz")


# --- inputs


@pytest.mark.filterwarnings("ignore:feature .* (too small for|as) float32:UserWarning")
@examples
@given(
    numpy_strategies.arrays(
        st.sampled_from(["u1", "<i8", ">i4", "<f4", ">f8", "f2", "?"]),
        numpy_strategies.array_shapes(min_dims=2, max_dims=5, max_side=6),
    )
)
def test_inputs_keep_their_values_and_only_images_are_transposed(values: Array) -> None:
    inputs = to_inputs("train", values)
    kinds = {"u": torch.uint8 if values.dtype == np.uint8 else torch.int64, "i": torch.int64}
    assert inputs.dtype == kinds.get(values.dtype.kind, torch.float32)
    assert inputs.is_contiguous()
    expected = values
    if values.ndim == 4 and values.shape[3] in (1, 3, 4) and values.shape[1] not in (1, 3, 4):
        expected = values.transpose(0, 3, 1, 2)
    if values.ndim == 3 and values.dtype == np.uint8:
        expected = values[:, None]
    assert tuple(inputs.shape) == expected.shape
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(inputs.numpy(), expected.astype(inputs.numpy().dtype))


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (np.zeros(5), r"\[5\] of float64"),
        (np.zeros((5, 0)), r"\[5, 0\] of float64"),
        (np.array([["a", "b"]]), r"\[1, 2\] of <U1"),
        (np.zeros((5, 2), dtype=complex), r"\[5, 2\] of complex128"),
    ],
)
def test_inputs_that_are_not_numeric_rows_raise(values: Array, got: str) -> None:
    with pytest.raises(ValueError, match=rf"inputs of test must be numbers \[N, ...\], .* Got {got} instead\."):
        to_inputs("test", values)


def test_a_number_too_large_for_float32_raises_as_infinite() -> None:
    values = X.astype(np.float64)
    values[4, 1] = 1e300
    source = from_arrays("own", {"train": values, "val": X + 50, "test": X + 99}, dict.fromkeys(SPLITS, Y))
    with pytest.raises(ValueError, match=r"inputs of train must be finite\. Got NaN or infinity in 1 of 12 samples"):
        split_source(source)


@pytest.mark.parametrize(("rows", "message"), [(0, "own, train: a split must not be empty"), (1, "Got 1 of 1 classes")])
def test_empty_or_single_sample_data_raise(rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_source(from_arrays("own", {"train": X[:rows]}, {"train": Y[:rows]}))


def test_different_numbers_of_inputs_and_labels_raise() -> None:
    with pytest.raises(ValueError, match=r"own must have one label per input\. Got 12 inputs and 11 labels in train"):
        from_arrays("own", {"train": X}, {"train": Y[:11]})


def test_integer_inputs_are_reported_as_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    from_arrays("text", {"train": X.astype(np.int32)}, {"train": Y})
    assert "text: integer inputs are treated as tokens" in capsys.readouterr().out


def test_a_last_axis_that_may_hold_two_or_many_channels_is_mentioned() -> None:
    def read(*shape: int) -> None:
        from_arrays("scans", {"train": np.zeros((12, *shape), np.uint8)}, {"train": Y})

    with pytest.warns(
        UserWarning, match=r"scans: inputs are read as images of 8 channels with 8 × 2 pixels.*save them"
    ):
        read(8, 8, 2)
    for shape in ((8, 8, 3), (2, 8, 8), (8, 16, 16), (8, 8)):
        read(*shape)


def test_values_that_float32_cannot_tell_apart_are_counted() -> None:
    random = np.random.default_rng(0)
    stamps = 1.7e9 + 60 * np.arange(300) + random.random(300)
    with pytest.warns(UserWarning, match="feature 1 of train has 300 different values, but [0-9]+ as float32.*mean"):
        to_inputs("train", np.c_[random.normal(size=300), stamps])
    to_inputs("train", np.c_[random.normal(size=300), stamps - stamps.mean(), np.full(300, 1e9)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda stamps: np.stack([stamps, stamps % 7], axis=1)[:, None].repeat(5, axis=1), "feature 0 .* their mean"),
        (lambda stamps: stamps[:, None, None, None].repeat(4, axis=3), "feature 0 .* their mean"),
        (lambda stamps: stamps[:, None].astype(np.longdouble), "feature 0 .* their mean"),
        (lambda stamps: 1e-43 * (stamps[:, None] - stamps.mean()), "feature 0 .* too small for float32. Mul"),
        (lambda stamps: 1e-51 * stamps[:, None], "feature 0 .* too small for float32. Mul"),
    ],
)
def test_lost_values_are_counted_in_series_and_images_too(values: Callable[[Array], Array], message: str) -> None:
    stamps = 1.7e9 + 60 * np.arange(300) + np.random.default_rng(0).random(300)
    with pytest.warns(UserWarning, match=message):
        to_inputs("train", values(stamps))


STAMPS = 1.7e9 + 60 * (np.arange(300) % 3) + 10 * np.random.default_rng(0).random(300)


@pytest.mark.parametrize(
    "column",
    [
        np.where(np.arange(300) == 5, 0, STAMPS),  # 0 for a missing value
        np.where(np.arange(300) % 50 == 5, -999, STAMPS),
        np.where(np.arange(300) % 2, 0, 1.7e9) + STAMPS - 1e9,  # two sessions
        np.where(np.arange(300) == 5, 0, STAMPS).repeat(40),
        np.where(np.arange(300) == 5, 1e30, STAMPS),
    ],
)
def test_lost_values_are_counted_beside_markers_and_in_groups(column: Array) -> None:
    count = len(np.unique(column))
    with pytest.warns(UserWarning, match=f"feature 0 of train has {count} different values, but [0-9]+ as float32"):
        to_inputs("train", np.c_[column, np.arange(len(column)) / 7])


def test_values_that_float32_keeps_apart_or_rounding_errors_are_not_reported() -> None:
    random = np.random.default_rng(0)
    tenths = random.integers(0, 10, 3000) * 0.1
    columns = [
        *(
            random.random(3000),
            random.standard_normal(3000),
            random.lognormal(0, 9, 3000),
            random.standard_cauchy(3000),
        ),
        *(10.0 ** -random.integers(0, 99, 3000), np.where(tenths > 0.3, random.random(3000) * 1e-50, tenths)),
        *(tenths * 3, 1e6 + tenths * (1 + 2e-16 * random.integers(-3, 4, 3000)), np.where(tenths > 0.3, -999, tenths)),
        *(1.7e9 + 86400 * random.integers(0, 365, 3000), np.full(3000, 1.7e9), random.integers(0, 2**31, 3000) / 1.0),
    ]
    with warnings.catch_warnings(action="error"):
        to_inputs("train", np.stack(columns, axis=1))
        to_inputs("train", random.random((2, 500, 500, 3)))
