"""Hugging Face datasets: splits, columns and class names; the network is used only with ``download=True``.

The fast tests replace the package with a stand-in; the slow ones use the package itself.
"""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from kd.checks import DamagedDataError
from kd.data.datasets import ArrayDataset
from kd.data.sources import open_source, split_source
from kd.data.sources.huggingface import ImageColumn
from kd.data.sources.image_decoding import survey_images

IMAGES = [Pillow.new("L", (5, 6), value) for value in range(12)]


class Image:
    """Stand-in for the feature of the same name; only the class name matters."""


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Rows:
    def __init__(self, features: dict[str, Any], **columns: list[Any]) -> None:
        self.features, self.columns = features, columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}

    def with_format(self, _: str, *, columns: list[str] | None = None, dtype: Any = None) -> Rows:
        """Return arrays, by default of float32 and int64, as the package does."""
        arrays = {name: np.asarray(self.columns[name]) for name in columns or self.columns}
        defaults = {"f": np.float32, "i": np.int64, "u": np.int64}
        types = {name: dtype or defaults.get(array.dtype.kind, array.dtype) for name, array in arrays.items()}
        return Rows(self.features, **{name: array.astype(types[name]) for name, array in arrays.items()})  # type: ignore[arg-type]


def image_rows(start: int = 0) -> Rows:
    images = [image.point(lambda value: value + start) for image in IMAGES]
    return Rows({"image": Image(), "label": ClassLabel(["ant", "bee"])}, image=images, label=[0, 1] * 6)


def table(**names: list[Any]) -> Rows:
    return Rows(dict.fromkeys(names), **names)


class StandIn(ModuleType):
    """Stand-in for the package that returns ``loaded`` and records each call and whether it was offline."""

    def __init__(self, loaded: Any) -> None:
        super().__init__("datasets")
        self.loaded, self.calls, self.config = loaded, [], SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(self, where: str) -> Any:
        self.calls.append((where, "offline" if self.config.HF_HUB_OFFLINE else "online"))
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded

    def load_from_disk(self, where: str) -> Any:
        self.calls.append((where, "disk"))
        return self.loaded


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn({"train": image_rows(), "validation": image_rows(50), "test": image_rows(100)})
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    return stand_in


def as_array_dataset(dataset: Any) -> ArrayDataset:
    assert isinstance(dataset, ArrayDataset)
    return dataset


def test_images_and_class_names_are_read(package: StandIn) -> None:
    source = open_source("hf:someone/insects")
    assert (source.name, source.classes, list(source.parts)) == ("insects", ("ant", "bee"), ["train", "val", "test"])
    assert as_array_dataset(source.val).inputs.shape == (12, 1, 6, 5)
    assert as_array_dataset(source.val).inputs[3].unique().tolist() == [53]
    assert as_array_dataset(source.test).labels.tolist() == [0, 1] * 6
    assert as_array_dataset(open_source("hf:insects", size=3).train).inputs.shape == (12, 1, 3, 3)


def test_reordered_class_names_raise(package: StandIn) -> None:
    with pytest.raises(ValueError, match=r"classes .*must keep the label order .*\['ant', 'bee'\]"):
        open_source("hf:someone/insects", classes=["bee", "ant"])
    assert open_source("hf:someone/insects", classes=["x", "y"]).classes == ("x", "y")


@pytest.mark.parametrize(("download", "mode"), [(False, "offline"), (True, "online")])
def test_the_network_is_used_only_with_download(package: StandIn, download: bool, mode: str) -> None:
    open_source("hf:insects", download=download)
    assert package.calls == [("insects", mode)]
    assert package.config.HF_HUB_OFFLINE is False


def test_a_saved_folder_is_loaded_from_disk(package: StandIn, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").touch()
    open_source(f"hf:{tmp_path}")
    assert package.calls == [(str(tmp_path), "disk")]


def test_named_columns_of_numbers_and_names_are_read(package: StandIn) -> None:
    package.loaded = table(width=[[1.0, 2.0], [3.0, 4.0]], sort=["b", "a"], note=["", ""])
    source = open_source("hf:plants", columns=("width", "sort"))
    assert source.classes == ("a", "b")
    assert as_array_dataset(source.train).inputs.tolist() == [[1, 2], [3, 4]]
    assert as_array_dataset(source.train).labels.tolist() == [1, 0]


@pytest.mark.parametrize("is_list", [False, True])
def test_numbers_keep_the_type_of_the_column(package: StandIn, is_list: bool) -> None:
    """The package's own types would round time stamps without a word, and turn images into tokens."""

    def rows(dtype: str, values: Any) -> Rows:
        stored: Any = SimpleNamespace(dtype=dtype)
        feature = SimpleNamespace(feature=SimpleNamespace(feature=stored)) if is_list else stored
        return Rows({"x": feature, "y": SimpleNamespace(dtype="int64")}, x=values, y=[0, 1] * 6)

    package.loaded = {"train": rows("uint8", np.arange(12 * 16).reshape(12, 4, 4).tolist())}
    images = open_source("hf:somebody/data").train
    assert isinstance(images, ArrayDataset)
    assert (images.inputs.dtype, images.inputs.shape) == (torch.uint8, (12, 1, 4, 4))
    package.loaded = {"train": rows("float64", [[1.7e9 + row / 1000] for row in range(12)])}
    with pytest.warns(UserWarning, match="feature 0 of train has 12 different values, but 1 as float32"):
        open_source("hf:somebody/data")


def test_common_column_names_are_found(package: StandIn) -> None:
    package.loaded = {"train": table(x=[[1.0], [2.0]], y=[0, 1])}
    assert as_array_dataset(open_source("hf:lines").train).inputs.tolist() == [[1], [2]]
    with pytest.raises(ValueError, match=r"size .*does not apply to hf:lines.*'x'"):
        open_source("hf:lines", size=8)


@pytest.mark.parametrize(
    ("loaded", "columns", "error", "message"),
    [
        (table(a=[[1.0]], b=[0]), None, ValueError, r"columns from \['a', 'b'\]\. .*columns=\(inputs"),
        (table(x=[[1.0]], image=[[1.0]], y=[0]), None, ValueError, r"columns from \['x', 'image', 'y'\]"),
        (
            table(a=[[1.0]], b=[0]),
            ("a", "c"),
            ValueError,
            r"columns \(--columns\) must be among \['a', 'b'\]\. Got 'c' instead",
        ),
        ({"all": image_rows()}, None, ValueError, r"must have a split 'train'\. Got \['all'\] instead\. Open it in a"),
        (table(x=["text"], y=[0]), None, ValueError, r"inputs of train must be numbers \[N, ...\]"),
        (
            OSError("no such thing."),
            None,
            DamagedDataError,
            r"cannot open mine: no such thing\. Nothing was downloaded",
        ),
    ],
)
def test_unsupported_data_or_columns_raise(
    package: StandIn, loaded: Any, columns: tuple[str, str] | None, error: type[Exception], message: str
) -> None:
    package.loaded = loaded
    with pytest.raises(error, match=message):
        open_source("hf:mine", columns=columns)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"hf:mine needs Hugging Face datasets, .*'paired-distillation\[hf\]'"):
        open_source("hf:mine")


# --- with the installed package


def encoded(image: Pillow.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.slow
def test_saved_images_are_read_with_the_installed_package(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    rows = [{"image": encoded(image), "label": number % 2} for number, image in enumerate(IMAGES)]
    dataset = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": dataset, "test": dataset.select(range(3))}).save_to_disk(tmp_path / "insects")
    source = open_source(f"hf:{tmp_path / 'insects'}")
    assert (source.name, source.classes, list(source.parts)) == ("insects", ("ant", "bee"), ["train", "test"])
    assert as_array_dataset(source.train).inputs[:, 0, 0, 0].tolist() == list(range(12))
    assert as_array_dataset(source.test).labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("mode", [None, "L", "RGB"])
def test_images_of_16_bits_are_refused_also_if_the_column_has_a_mode(mode: str | None) -> None:
    deep = encoded(Pillow.fromarray(np.arange(0, 60_000, 2000, dtype=np.uint16).reshape(5, 6)))
    rows = Rows({"image": SimpleNamespace(mode=mode)}, image=[deep])
    column = ImageColumn(["train row 0"], rows, rows, "image")
    _, reasons = survey_images(column, [0])
    assert "not 8" in reasons[0]


@pytest.mark.slow
def test_an_eps_file_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"started {arguments}")

    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    buffer = io.BytesIO()
    Pillow.new("RGB", (5, 6)).save(buffer, "EPS")
    rows = [{"image": {"bytes": buffer.getvalue(), "path": None}, "label": number % 2} for number in range(4)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "insects")
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(
        DamagedDataError, match=r"4 of 4 images cannot be read: train row 0 \(its content is none of JPEG"
    ):
        open_source(f"hf:{tmp_path / 'insects'}", size=4)


@pytest.mark.slow
def test_a_folder_of_tables_is_read_with_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"x": [float(number), 1.0], "y": "abc"[number % 3]} for number in range(30)]
    (tmp_path / "plants").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "plants" / "train.parquet")
    parts = split_source(open_source(f"hf:{tmp_path / 'plants'}"))
    assert parts.classes == ("a", "b", "c")
    assert torch.isfinite(parts.train[0][0]).all()
    with caplog.at_level(logging.WARNING), pytest.raises(DamagedDataError, match="datasets cannot open mnist: "):
        open_source("hf:mnist")
    assert "thrown while requesting" not in caplog.text
