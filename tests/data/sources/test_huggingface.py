"""Hugging Face data sets: their splits, columns and class names; no server is asked unless that is wished.

The fast tests have a stand-in for the package, of what is used of it; the slow ones the package itself.
"""

from __future__ import annotations

import io
import logging
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

IMAGES = [Pillow.new("L", (5, 6), value) for value in range(12)]


class Image:
    """Stands for the feature of that name; its class name is what is looked at."""


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

    def with_format(self, _: str) -> Rows:
        return Rows(self.features, **{name: np.asarray(values) for name, values in self.columns.items()})  # type: ignore[arg-type]


def pictures(start: int = 0) -> Rows:
    images = [image.point(lambda value: value + start) for image in IMAGES]
    return Rows({"image": Image(), "label": ClassLabel(["ant", "bee"])}, image=images, label=[0, 1] * 6)


def table(**names: list[Any]) -> Rows:
    return Rows(dict.fromkeys(names), **names)


class StandIn(ModuleType):
    """The package: what it would load, and whether it was told to stay offline."""

    def __init__(self, loaded: Any) -> None:
        super().__init__("datasets")
        self.loaded, self.asked, self.config = loaded, [], SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(self, where: str) -> Any:
        self.asked.append((where, "offline" if self.config.HF_HUB_OFFLINE else "online"))
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded

    def load_from_disk(self, where: str) -> Any:
        self.asked.append((where, "disk"))
        return self.loaded


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn({"train": pictures(), "validation": pictures(50), "test": pictures(100)})
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    return stand_in


def stored(part: Any) -> ArrayDataset:
    assert isinstance(part, ArrayDataset)
    return part


def test_images_and_class_names_are_found(package: StandIn) -> None:
    source = open_source("hf:someone/insects")
    assert (source.name, source.classes, list(source.parts)) == ("insects", ("ant", "bee"), ["train", "val", "test"])
    assert stored(source.val).inputs.shape == (12, 1, 6, 5)
    assert stored(source.val).inputs[3].unique().tolist() == [53]
    assert stored(source.test).labels.tolist() == [0, 1] * 6
    assert stored(open_source("hf:insects", size=3).train).inputs.shape == (12, 1, 3, 3)


def test_names_in_another_order_than_the_columns_are_refused(package: StandIn) -> None:
    with pytest.raises(ValueError, match=r"classes must be in the order of the labels, .*\['ant', 'bee'\]"):
        open_source("hf:someone/insects", classes=["bee", "ant"])
    assert open_source("hf:someone/insects", classes=["x", "y"]).classes == ("x", "y")


@pytest.mark.parametrize(("download", "how"), [(False, "offline"), (True, "online")])
def test_no_server_is_asked_unless_that_is_wished(package: StandIn, download: bool, how: str) -> None:
    open_source("hf:insects", download=download)
    assert package.asked == [("insects", how)]
    assert package.config.HF_HUB_OFFLINE is False


def test_a_folder_that_was_saved_is_loaded_from_disk(package: StandIn, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").touch()
    open_source(f"hf:{tmp_path}")
    assert package.asked == [(str(tmp_path), "disk")]


def test_numbers_and_names_in_columns_that_are_named(package: StandIn) -> None:
    package.loaded = table(width=[[1.0, 2.0], [3.0, 4.0]], sort=["b", "a"], note=["", ""])
    source = open_source("hf:plants", columns=("width", "sort"))
    assert source.classes == ("a", "b")
    assert stored(source.train).inputs.tolist() == [[1, 2], [3, 4]]
    assert stored(source.train).labels.tolist() == [1, 0]


def test_usual_names_of_columns_are_found(package: StandIn) -> None:
    package.loaded = {"train": table(x=[[1.0], [2.0]], y=[0, 1])}
    assert stored(open_source("hf:lines").train).inputs.tolist() == [[1], [2]]
    with pytest.raises(ValueError, match=r"hf:lines has numbers in 'x', which have no size\. Leave size away"):
        open_source("hf:lines", size=8)


@pytest.mark.parametrize(
    ("loaded", "columns", "error", "message"),
    [
        (table(a=[[1.0]], b=[0]), None, ValueError, r"cannot be told from \['a', 'b'\]\. Name both: columns=\(inputs"),
        (table(x=[[1.0]], image=[[1.0]], y=[0]), None, ValueError, r"cannot be told from \['x', 'image', 'y'\]"),
        (table(a=[[1.0]], b=[0]), ("a", "c"), ValueError, r"columns must be among \['a', 'b'\]\. Got 'c' instead"),
        ({"all": pictures()}, None, ValueError, r"must have a split 'train'\. Got \['all'\] instead\. Open it in a"),
        (table(x=["text"], y=[0]), None, ValueError, r"inputs of train must be numbers \[N, ...\]"),
        (
            OSError("no such thing."),
            None,
            DamagedDataError,
            r"cannot open mine: no such thing\. Nothing was downloaded",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    package: StandIn, loaded: Any, columns: tuple[str, str] | None, error: type[Exception], message: str
) -> None:
    package.loaded = loaded
    with pytest.raises(error, match=message):
        open_source("hf:mine", columns=columns)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"hf:mine needs Hugging Face datasets, .*'paired-distillation\[hf\]'"):
        open_source("hf:mine")


# --- the package itself


def encoded(image: Pillow.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.slow
def test_a_saved_data_set_of_images_is_the_same_by_the_package_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    rows = [{"image": encoded(image), "label": number % 2} for number, image in enumerate(IMAGES)]
    made = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": made, "test": made.select(range(3))}).save_to_disk(tmp_path / "insects")
    source = open_source(f"hf:{tmp_path / 'insects'}")
    assert (source.name, source.classes, list(source.parts)) == ("insects", ("ant", "bee"), ["train", "test"])
    assert stored(source.train).inputs[:, 0, 0, 0].tolist() == list(range(12))
    assert stored(source.test).labels.tolist() == [0, 1, 0]


@pytest.mark.slow
def test_a_folder_of_tables_is_the_same_by_the_package_itself(
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
