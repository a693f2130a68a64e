"""Inputs for prediction: the same values whatever file they are in, and a reason for every file that is no input."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from kd.data.sources.table_encoding import Encoding
from kd.deploy.inputs import InputReader, Item
from kd.deploy.rows import InputForm, read_rows

GRAY, COLOUR = InputForm((1, 6, 5), "uint8", "L"), InputForm((3, 6, 5), "uint8", "RGB")
TABLE, TOKENS = InputForm((4,), "float32"), InputForm((7,), "int64")
FORMS = st.sampled_from([GRAY, COLOUR, TABLE, TOKENS])
# The folder of a test is the same for all examples, which overwrite each other's files.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def values_of(form: InputForm) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    limits: dict[str, Any] = {"float32": st.floats(-1e6, 1e6, width=32), "int64": st.integers(-99, 99), "uint8": None}
    shapes = st.integers(1, 4).map(lambda rows: (rows, *form.shape))
    return arrays.arrays(np.dtype(form.dtype), shapes, elements=limits[form.dtype])


@pytest.mark.parametrize("name", ["rows.npz", "rows.npy"])
def test_arrays_have_no_columns_for_a_model_of_a_table(name: str, tmp_path: Path) -> None:
    """Their numbers would be taken for encoded columns."""
    values = np.zeros((2, 4), np.float32)
    np.save(tmp_path / name, values) if name.endswith(".npy") else np.savez(tmp_path / name, x=values)
    form = InputForm((4,), "float32", table=Encoding("class", ()))
    with pytest.raises(ValueError, match=r"an array has no columns\. Save the rows as \.csv"):
        read_rows(tmp_path / name, form)


@same_folder
@given(data=st.data(), form=FORMS)
def test_a_row_is_the_same_in_every_kind_of_file(data: st.DataObject, form: InputForm, tmp_path: Path) -> None:
    values = data.draw(values_of(form))
    np.savez(tmp_path / "rows.npz", x=values)
    np.save(tmp_path / "rows.npy", values)
    text = "\n".join(",".join(map(repr, row)) for row in values.reshape(len(values), -1).tolist())
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    header = ",".join(f"column {number}" for number in range(values[0].size))
    (tmp_path / "header.csv").write_text(f"{header}\n{text}", encoding="utf-8")
    for name in ("rows.npz", "rows.npy", "rows.csv", "header.csv"):
        inputs, names = read_rows(tmp_path / name, form)
        assert inputs.dtype == getattr(torch, form.dtype), name
        assert np.array_equal(inputs.numpy(), values), name
        assert names == [f"row {number}" for number in range(1, len(values) + 1)]


def check(item: Item, form: InputForm) -> None:
    """An item has values of the form, or a reason."""
    if item.values is None:
        assert item.reason
    else:
        assert not item.reason
        assert (tuple(item.values.shape), item.values.dtype) == (form.shape, getattr(torch, form.dtype))


def valid_content(ending: str) -> bytes:
    buffer = io.BytesIO()
    match ending:
        case ".npz":
            np.savez(buffer, x=np.zeros((2, 6, 5), np.uint8))
        case ".npy":
            np.save(buffer, np.zeros((2, 6, 5), np.uint8))
        case ".csv":
            return ("1," * 29 + "1\n").encode() * 2
        case _:
            Image.new("L", (5, 6)).save(buffer, {".jpg": "JPEG", ".gif": "GIF", ".tif": "TIFF"}.get(ending, "PNG"))
    return buffer.getvalue()


ENDINGS = st.sampled_from([".npz", ".npy", ".csv", ".png", ".jpg", ".gif", ".tif"])


@same_folder
@given(
    ending=ENDINGS,
    form=FORMS,
    cut=st.floats(0, 1),
    change=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
)
@pytest.mark.filterwarnings("ignore")  # of Pillow, about damaged files
def test_no_content_of_a_file_ends_the_command(
    ending: str, form: InputForm, cut: float, change: list[tuple[float, int]], tmp_path: Path
) -> None:
    content = bytearray(valid_content(ending))
    for place, value in change:
        content[int(place * len(content))] = value
    path = tmp_path / f"input{ending}"
    path.write_bytes(content[: int(cut * len(content))])
    items = list(InputReader(form).read([str(path), "missing"]))
    assert len(items) >= 2
    for item in items:
        check(item, form)
    assert items[-1].reason.startswith("there is no such file.")


@same_folder
@given(content=st.binary(max_size=200), ending=ENDINGS, form=FORMS)
def test_arbitrary_bytes_are_no_input(content: bytes, ending: str, form: InputForm, tmp_path: Path) -> None:
    path = tmp_path / f"input{ending}"
    path.write_bytes(content)
    for item in InputReader(form).read([str(path)]):
        check(item, form)
        assert str(path) in item.name


@pytest.mark.parametrize("ending", [".npz", ".npy", ".csv", ".png", ".jpg", ".gif"])
def test_standard_input_is_read_like_a_file(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, path = valid_content(ending), tmp_path / f"input{ending}"
    path.write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    reader = InputReader(GRAY)
    from_file, from_stdin = list(reader.read([str(path)])), list(reader.read(["-"]))
    assert len(from_file) == len(from_stdin) > 0
    for one, other in zip(from_file, from_stdin, strict=True):
        assert one.values is not None
        assert other.values is not None
        assert torch.equal(one.values, other.values)
        assert other.name == one.name.replace(str(path), "standard input")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x93NUMPY", b"1,2\n"])
def test_other_standard_input_has_a_reason_without_the_path_of_a_temporary_file(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    (item,) = InputReader(GRAY).read(["-"])
    assert item.values is None
    assert item.reason
    assert "/tmp" not in item.reason
    assert item.name == "standard input"


def test_a_folder_is_read_in_order_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    for number, name in enumerate(["b/2.png", "a/9.png", "a/1.PNG", "c.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        Image.new("L", (5, 6), number).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").touch()
    with pytest.warns(UserWarning, match=r"not read: 1 × \.txt"):
        items = list(InputReader(GRAY).read([str(tmp_path)]))
    assert [Path(item.name).relative_to(tmp_path).as_posix() for item in items] == [
        *("a/1.PNG", "a/9.png", "b/2.png", "c.png")
    ]


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    Image.new("L", (5, 6)).save(tmp_path / "outside.png")
    (tmp_path / "inside" / "link.png").symlink_to(tmp_path / "outside.png")
    (item,) = InputReader(GRAY).read([str(tmp_path / "inside")])
    assert "symbolic links that point outside" in item.reason


@pytest.mark.parametrize(
    ("form", "values", "reason"),
    [
        (GRAY, np.zeros((2, 1, 6, 5)), "should be uint8, as in training. Got float32 from 0 to 0"),
        (GRAY, np.full((2, 1, 6, 5), 256), "should be uint8, as in training. Got int64 from 256 to 256"),
        (TABLE, np.zeros((2, 4), np.uint8), "should be float32, as in training. Got uint8"),
        (TOKENS, np.full((2, 7), 0.5), "should be int64, as in training. Got float32"),
        (TABLE, np.zeros((2, 5)), "should be [4] of float32. Got an array [2, 5] of"),
        (TABLE, np.zeros((0, 4)), "it has no rows"),
        (TABLE, np.array([["a"] * 4]), "must be numbers"),
    ],
)
def test_arrays_on_another_scale_are_refused(
    form: InputForm, values: np.ndarray[Any, Any], reason: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", x=values)
    (item,) = InputReader(form).read([str(tmp_path / "rows.npz")])
    assert reason in item.reason


@pytest.mark.parametrize("shape", [(1, 6, 5), (6, 5), (1, 1, 6, 5)])
def test_a_single_input_needs_no_batch_dimension(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.arange(30, dtype=np.uint8).reshape(shape))
    inputs, _ = read_rows(tmp_path / "one.npy", GRAY)
    assert inputs.flatten().tolist() == list(range(30))


def test_a_single_image_may_have_its_channels_last(tmp_path: Path) -> None:
    form, image = InputForm((3, 6, 5), "uint8", mode="RGB"), np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
    np.save(tmp_path / "one.npy", image)
    inputs, _ = read_rows(tmp_path / "one.npy", form)
    assert np.array_equal(inputs.numpy(), image.transpose(2, 0, 1)[None])
    np.save(tmp_path / "one.npy", image[1:])
    with pytest.raises(ValueError, match=r"should be \[3, 6, 5\] of uint8\. Got an array \[5, 5, 3\] of uint8"):
        read_rows(tmp_path / "one.npy", form)


def test_ids_name_the_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name,a,b,c,d\nx,1,2,3,4\ny,5,6,7,8.5\n", encoding="utf-8")
    inputs, names = read_rows(tmp_path / "rows.csv", TABLE, ids="name")
    assert (inputs.tolist(), names) == ([[1, 2, 3, 4], [5, 6, 7, 8.5]], ["x", "y"])
    np.savez(tmp_path / "rows.npz", x=inputs.numpy(), ids=np.array(["x"]))
    with pytest.raises(ValueError, match=r"an id for each of 2 rows\. Got 1"):
        read_rows(tmp_path / "rows.npz", TABLE, ids="ids")
