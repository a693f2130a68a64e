"""Samples have names: rows of precomputed outputs are matched by them, and predictions show them."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.commands.data import load_data
from kd.commands.models import new_teachers
from kd.commands.run.command import run
from kd.commands.settings import RunSettings
from kd.data.sources import open_source
from kd.models.inference import predict

CLASSES = 3


def write_npz(path: Path, *, names: bool = True) -> Path:
    """Write a table whose classes are three well separated clusters, with a name for each row."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, size in (("train", 200), ("test", 60)):
        labels = np.arange(size) % CLASSES
        arrays[f"x_{split}"] = rng.normal(size=(size, 4)).astype(np.float32) + 4 * labels[:, None]
        arrays[f"y_{split}"] = labels
        if names:
            arrays[f"ids_{split}"] = np.array([f"{split}-{row}" for row in range(size)])
    np.savez(path, **arrays)
    return path


def write_logits(path: Path, order: Callable[[int], np.ndarray], *, column: str = "name") -> Path:
    """Write logits of all 260 rows in another order, each with its name; the value at the label is the row's number."""
    names = [f"{split}-{row}" for split, size in (("train", 200), ("test", 60)) for row in range(size)]
    labels = [int(name.rpartition("-")[2]) % CLASSES for name in names]
    lines = []
    for row in order(len(names)).tolist():
        values = np.full(CLASSES, -1.0)
        values[labels[row]] = 1 + row
        lines.append(",".join([names[row], *map(str, values)]))
    path.write_text("\n".join([f"{column},0,1,2", *lines]) + "\n")
    return path


def shuffled(count: int) -> np.ndarray:
    return np.random.default_rng(1).permutation(count)


def settings(tmp_path: Path, **changes: object) -> RunSettings:
    logits = write_logits(tmp_path / "t.csv", shuffled)
    given = {"data": str(write_npz(tmp_path / "d.npz")), "teacher": (f"logits={logits}",), "ids": "name"}
    return RunSettings(**given | {"student": "mlp:4", "epochs": 1, "out": tmp_path / "run"} | changes)  # type: ignore[arg-type]


def test_rows_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    data = load_data(chosen)
    (teacher,) = new_teachers(chosen, data)
    for split, dataset in (("train", data.train_set), ("val", data.val_set), ("test", data.test_set)):
        found = predict(teacher.model, [(torch.stack([dataset[i][0] for i in range(20)]), torch.zeros(20).long())])
        assert (found.logits.amax(dim=1) - 1).tolist() == list(data.rows[split][:20])


def test_predictions_name_the_test_samples(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few samples
        run(settings(tmp_path))
    with (tmp_path / "run/results/predictions/test_predictions.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [f"test-{row}" for row in range(60)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": "file"}, r"should have a header with a column 'file'. Got the columns name, 0, 1, 2 instead"),
        ({"ids": "name", "teacher": ("mlp:4",)}, "--ids must be omitted without a teacher of precomputed outputs"),
        ({"ids": "name", "data": "sklearn:wine"}, "--ids name needs data with a name for each sample.*wine has none"),
    ],
)
def test_names_that_cannot_be_matched_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    chosen = settings(tmp_path, **changes)

    def open_teachers() -> None:
        chosen.check()
        new_teachers(chosen, load_data(chosen))

    with pytest.raises(ValueError, match=message):
        open_teachers()


def test_missing_and_repeated_names_are_refused(tmp_path: Path) -> None:
    missing = write_logits(tmp_path / "m.csv", lambda count: np.arange(count - 1))
    chosen = settings(tmp_path, teacher=(f"logits={missing}",))
    with pytest.raises(ValueError, match=r"1 ids are missing, such as 'test-59'"):
        new_teachers(chosen, load_data(chosen))
    arrays = dict(np.load(tmp_path / "d.npz"))
    arrays["ids_test"][1] = arrays["ids_test"][0]
    np.savez(tmp_path / "twice.npz", **arrays)
    chosen = settings(tmp_path, data=str(tmp_path / "twice.npz"))
    with pytest.raises(ValueError, match=r"needs a different name for each sample. Got 'test-0' 2 times"):
        new_teachers(chosen, load_data(chosen))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids_test": None}, r"must hold ids for all of its splits \(train, test\), or none. Got ids for train"),
        ({"ids_test": np.array(["a"])}, r"ids_test must have one id for each of 60 samples. Got shape \[1\]"),
    ],
)
def test_a_file_with_some_names_only_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    arrays = dict(np.load(write_npz(tmp_path / "d.npz"))) | change
    np.savez(tmp_path / "changed.npz", **{name: values for name, values in arrays.items() if values is not None})
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "changed.npz")


def test_images_are_named_by_their_path_within_the_folder(tmp_path: Path) -> None:
    from PIL import Image

    for split, count in (("train", 2), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("L", (8, 8), 40 * number).save(tmp_path / split / name / f"{number}.png")
    source = open_source(tmp_path)
    assert source.ids == {
        "train": ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"],
        "test": ["test/cat/0.png", "test/dog/0.png"],
    }
