"""Raw columns of a table inside a graph: the features of the rows of text, and the answers of the whole model."""

from __future__ import annotations

import csv
import io
import json
import random
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd import cli
from kd.commands.data import load_data
from kd.commands.export.settings import ExportSettings
from kd.commands.export.subject import load_candidate
from kd.data.datasets import unwrap_subsets
from kd.data.sources.table_columns import Column
from kd.data.sources.table_encoding import Encoding
from kd.deploy.columns import ColumnEncoder
from kd.deploy.deployed import deploy
from kd.models.build import build

Array = np.ndarray[Any, Any]
CELLS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.sampled_from(
        ["", "NA", "?", "inf", "1e400", "-1e308", "12 kg", "red", "blue", "TRUE", "true", "-1", "0", "1_0"]
    ),
)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    """Return a column of any kind, with any combination of a feature for other levels and for missing values."""
    has_missing = draw(st.booleans())
    if draw(st.booleans()):
        moments = {key: draw(st.floats(-1e12, 1e12)) for key in ("median", "mean")}
        return Column(name, "number", std=draw(st.floats(1e-9, 1e12)), has_missing=has_missing, **moments)
    levels = tuple(sorted(draw(st.sets(st.sampled_from(["red", "blue", "true", "0", "1"]), min_size=1))))
    return Column(name, "category", levels=levels, has_other=draw(st.booleans()), has_missing=has_missing)


@settings(max_examples=50)
@given(data=st.data(), count=st.integers(1, 4), rows=st.integers(1, 5))
def test_raw_columns_become_the_features_of_the_text(data: st.DataObject, count: int, rows: int) -> None:
    used = [data.draw(columns(str(number))) for number in range(count)]
    encoding = Encoding("class", (Column("id", "unused", "an identifier"), *used))
    cells = {column.name: data.draw(st.lists(CELLS, min_size=rows, max_size=rows)) for column in used}
    numbers = torch.from_numpy(encoding.to_numbers(cells))
    assert numbers.shape == (rows, count)
    features = ColumnEncoder(encoding)(numbers)
    assert features.dtype == torch.float32
    assert np.array_equal(features.numpy(), encoding.encode(cells))


def test_large_numbers_that_differ_little_stay_different() -> None:
    """As times in seconds; float32 would make them equal."""
    encoding = Encoding("class", (Column("time", "number", mean=1.7e9, std=2.0),))
    features = ColumnEncoder(encoding)(torch.from_numpy(1.7e9 + np.arange(4.0)[:, None]))
    assert features.flatten().tolist() == [0.0, 0.5, 1.0, 1.5]


def make_rows(count: int, *, text: bool) -> list[dict[str, str]]:
    """Return rows of numbers, with missing values and a column of times; with text also colours and names."""
    draw, rows = random.Random(0), []
    for number in range(count):
        tall = draw.random() < 0.5
        row = {"height": f"{draw.gauss(180 if tall else 160, 5):.3f}", "time": f"{1.7e9 + draw.random() * 60:.3f}"}
        if text:
            row["height"] = "" if draw.random() < 0.1 else row["height"]
            row |= {"colour": draw.choice(["red", "blue", "green", "", f"rare {number}"]), "name": f"person {number}"}
        rows.append(row | {"kind": "tall" if tall else "small", "weight": f"{draw.gauss(70, 9):.6f}"})
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.filterwarnings("ignore:model. accuracy")  # of untrained weights
@pytest.mark.parametrize("text", [False, True])
def test_a_deployed_network_takes_the_columns_of_the_file(text: bool, tmp_path: Path) -> None:
    rows = make_rows(120, text=text)
    used = [name for name in rows[0] if name not in ("kind", "name")]
    choices = ExportSettings(data=str(write(tmp_path / "rows.csv", rows)), target="kind", model=f"mlp:4={tmp_path}/m")
    shape = load_data(choices.data_settings).task.input_shape
    torch.save(build("mlp:4", input_shape=shape, classes=2, seed=0).state_dict(), tmp_path / "m")
    candidate, _ = load_candidate(choices)
    table = candidate.manifest.table
    assert table is not None
    assert [column.name for column in table.used] == used
    assert (candidate.manifest.raw_shape, candidate.manifest.raw_dtype) == ((len(used),), "float64")
    assert candidate.columns is not None
    test = unwrap_subsets(candidate.test)[1]
    numbers = candidate.columns[test]
    if not text:
        assert numbers.tolist() == [[float(rows[row][name]) for name in used] for row in test.tolist()]
    with torch.no_grad():
        _, logits = deploy(candidate.network, candidate.manifest)(numbers)
    torch.testing.assert_close(logits, candidate.reference.logits)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* cells of ")  # of kd predict, about rare levels
@pytest.mark.parametrize("text", [False, True])
def test_rows_graph_and_pytorch_give_the_same_answers(text: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the export extra")
    rows, out = make_rows(240, text=text), tmp_path / "run"
    file = write(tmp_path / "rows.csv", rows)
    flags = ("--teacher", "mlp:8", "--student", "mlp:8", "--epochs", "2", "--batch-size", "16", "--device", "cpu")
    assert cli.main(["run", "--data", str(file), "--target", "kind", "--out", str(out), *flags]) == 0
    formats = ("onnx", "int8", "safetensors", "pt2")
    assert cli.main(["export", "--out", str(out), "--margin", "20", "--formats", *formats]) == 0
    export = out / "export"
    manifest = json.loads((export / "manifest.json").read_bytes())
    used = manifest["inputs"]["columns"]
    assert [column["name"] for column in used] == [name for name in rows[0] if name not in ("kind", "name")]
    raw = np.array([[to_number(row[column["name"]], column) for column in used] for row in rows])
    by_graph = runpy.run_path(str(export / "infer.py"))["predict"](raw)
    by_rows = {
        model: predict(tmp_path, path, file)
        for model, path in {"run": out, "onnx": export, "weights": export / "model.safetensors"}.items()
    }
    for answers in by_rows.values():
        np.testing.assert_allclose(answers, by_graph.max(axis=1), atol=1e-5)
    assert np.array_equal(by_rows["run"], by_rows["weights"])
    with pytest.raises(Exception, match="nvalid dimensions"):
        runpy.run_path(str(export / "infer.py"))["predict"](np.zeros((2, len(used) + 1)))


def to_number(cell: str, column: dict[str, Any]) -> float:
    """Return a cell as the model card says."""
    if not cell:
        return float("nan")
    levels = column.get("levels")
    return float(cell) if levels is None else float(levels.index(cell)) if cell in levels else -1.0


def predict(folder: Path, model: Path, file: Path) -> Array:
    """Return the probability of the most probable class of each row of the file."""
    assert cli.main(["predict", "--model", str(model), str(file), "--csv", str(folder / "answers.csv")]) == 0
    answers = csv.DictReader(io.StringIO((folder / "answers.csv").read_text(encoding="utf-8")))
    return np.array([float(row["probability"]) for row in answers])
