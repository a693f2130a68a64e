"""Arrays from files: whatever shape, layout and labels they have, and nothing that runs code or fills the memory."""

from __future__ import annotations

import io
import os
import pickle
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
from hypothesis.extra import numpy as numpy_strategies

from kd.checks import DamagedDataError
from kd.data.datasets import ArrayDataset
from kd.data.sources import open_source, split_source
from kd.data.sources.arrays import from_arrays, to_inputs
from kd.storage import tables

exactly = settings(max_examples=60)
Array = np.ndarray[Any, Any]
PARTS = ("train", "val", "test")
X, Y = np.arange(24, dtype=np.float32).reshape(12, 2), np.arange(12) % 3


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return path


def stored(part: Any) -> ArrayDataset:
    assert isinstance(part, ArrayDataset)
    return part


# --- npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_gives_its_parts(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    save(path, x_train=X, y_train=Y, x_val=X + 100, y_val=Y, x_test=X + 200, y_test=Y, classes=["a", "b", "c"])
    source = open_source(str(path))
    assert (source.name, source.classes, list(source.parts)) == ("own", ("a", "b", "c"), ["train", "val", "test"])
    assert torch.equal(stored(source.test).inputs, torch.from_numpy(X + 200))
    assert stored(source.val).labels.tolist() == Y.tolist()
    assert open_source(path, classes="xyz").classes == ("x", "y", "z")


def test_names_of_numbered_labels_are_replaced_but_not_put_in_another_order(tmp_path: Path) -> None:
    path = saved(tmp_path, x=X, y=Y, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"order of the labels, .*\['a', 'b', 'c'\]\. Got \['b', 'a', 'c'\] instead"):
        open_source(path, classes="bac")
    assert open_source(path, classes="abc").classes == ("a", "b", "c")
    named = saved(tmp_path, x=X, y=np.array(["a", "b", "c"])[Y], classes=["a", "b", "c"])
    source = open_source(named, classes="bac")
    assert [source.classes[label] for label in stored(source.train).labels.tolist()] == ["a", "b", "c"] * 4


def test_x_and_y_alone_are_the_training_data(tmp_path: Path) -> None:
    source = open_source(saved(tmp_path, x=X, y=Y))
    assert (list(source.parts), source.classes) == (["train"], ("0", "1", "2"))


def test_arrays_that_are_not_used_are_told_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"own\.npz has arrays that are not used: x_valid, y_valid\."):
        assert list(open_source(saved(tmp_path, x=X, y=Y, x_valid=X, y_valid=Y)).parts) == ["train"]


def test_a_link_to_an_npz_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(saved(tmp_path, x=X, y=Y))
    assert len(stored(open_source(tmp_path / "link.npz").train)) == 12


@pytest.mark.parametrize(
    "names",
    [("x",), ("y",), ("x_train",), ("x_test", "y_test"), ("x", "y", "x_test"), ("x", "y", "x_train", "y_train")],
)
def test_arrays_that_are_missing_are_named(names: tuple[str, ...], tmp_path: Path) -> None:
    path = saved(tmp_path, **{name: X if name[0] == "x" else Y for name in names})
    with pytest.raises(ValueError, match=r"own.npz must hold x_train and y_train \(or x and y\).*numpy.savez"):
        open_source(path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_a_pickle_in_an_npz_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "trap.npz", x=np.array([Trap()] * 12, dtype=object), y=Y)
    with pytest.raises(
        DamagedDataError,
        match=r"its array x cannot be used: its values are Python objects, which are not read: .*numpy.savez",
    ):
        open_source("trap.npz")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DamagedDataError, match=r"cannot read the data file bare.npz: File is not a zip file"):
        open_source("bare.npz")
    assert not (tmp_path / "trapped").exists()


def archive(folder: Path, content: bytes, *, name: str = "x.npy", times: int = 1) -> Path:
    path = folder / "made.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for _ in range(times):
            made.writestr(name, content)
    return path


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            header("(1000000000000, 2)") + bytes(8),
            r"its array x cannot be used: a shape \[1000000000000, 2\] of float32 does not go with 8 bytes",
        ),
        (header("(-1, 2)") + bytes(8), r"a shape \[-1, 2\] of float32 does not go with 8 bytes"),
        (header("(2, 2)") + bytes(15), r"a shape \[2, 2\] of float32 does not go with 15 bytes of values"),
        (header("(2, 2)") + bytes(17), r"a shape \[2, 2\] of float32 does not go with 17 bytes of values"),
        (header("(2,", "|O"), "cannot read the data file"),
        (
            b"\x93NUMPY\x09\x00" + bytes(50),
            r"its array x cannot be used: it is damaged or not an array that numpy has saved",
        ),
        (b"no array", "magic string is not correct"),
        (b"", "cannot read the data file"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedDataError, match=reason):
        open_source(archive(tmp_path, content))


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path, header("(1000000, 2)", "|u1") + bytes(2_000_000))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(tables, "NPZ_LIMIT", 1_000_000)
    with pytest.raises(DamagedDataError, match=r"it unpacks to more than 1,000,000 bytes. Got 2,000,0\d\d\. Write"):
        open_source(path)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "NPZ_LIMIT", 100)
    with pytest.raises(DamagedDataError, match=r"is larger than 100 bytes"):
        open_source(saved(tmp_path, x=X, y=Y))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedDataError, match="two of its arrays have one name"):
        open_source(archive(tmp_path, header("(1,)"), times=2))


@exactly
@given(st.data())
def test_a_damaged_npz_is_refused_or_gives_what_was_stored(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=X, y=Y)
    content = bytearray(buffer.getvalue())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    content = content[: data.draw(st.sampled_from([len(content), at]))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.npz"
        path.write_bytes(content)
        try:
            source = open_source(path)
        except (DamagedDataError, ValueError):
            return
    assert torch.equal(stored(source.train).inputs, torch.from_numpy(X))
    assert stored(source.train).labels.tolist() == Y.tolist()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_nothing_in_place_of_an_npz_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DamagedDataError, match=r"pipe\.npz is not a regular file"):
        open_source(tmp_path / "pipe.npz")
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*none\.npz: .*No such file"):
        open_source(tmp_path / "none.npz")


# --- inputs


@exactly
@given(
    numpy_strategies.arrays(
        st.sampled_from(["u1", "<i8", ">i4", "<f4", ">f8", "f2", "?"]),
        numpy_strategies.array_shapes(min_dims=2, max_dims=5, max_side=6),
    )
)
def test_inputs_keep_their_values_and_only_images_change_their_axes(values: Array) -> None:
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
def test_inputs_that_are_no_rows_of_numbers_are_refused(values: Array, got: str) -> None:
    with pytest.raises(ValueError, match=rf"inputs of test must be numbers \[N, ...\], .* Got {got} instead\. Give a"):
        to_inputs("test", values)


def test_a_number_too_large_for_float32_is_refused_as_infinite() -> None:
    values = X.astype(np.float64)
    values[4, 1] = 1e300
    source = from_arrays("own", {"train": values, "val": X + 50, "test": X + 99}, dict.fromkeys(PARTS, Y))
    with pytest.raises(ValueError, match=r"inputs of train must be finite\. Got NaN or infinity in 1 of 12 items"):
        split_source(source)


@pytest.mark.parametrize(("rows", "message"), [(0, "own, train: a part must have items"), (1, "Got 1 of 1 classes")])
def test_no_or_a_single_item_is_refused(rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_source(from_arrays("own", {"train": X[:rows]}, {"train": Y[:rows]}))


def test_another_number_of_labels_than_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"own must have one label for each input\. Got 12 inputs and 11 labels in"):
        from_arrays("own", {"train": X}, {"train": Y[:11]})


def test_tokens_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    from_arrays("text", {"train": X.astype(np.int32)}, {"train": Y})
    assert (
        "text: whole numbers are taken for tokens and stay as they are; store quantities as" in capsys.readouterr().out
    )
