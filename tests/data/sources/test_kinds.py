"""What one string opens: folders of IDX files, scikit-learn's tables, MNIST; and what is none of them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.checks import DamagedDataError
from kd.data.sources import Source, open_source, split_source
from tests.data.sources.test_arrays import stored
from tests.data.test_mnist import idx


def idx_folder(folder: Path, *, pack: Callable[[bytes], bytes] = gzip.compress, suffix: str = ".gz") -> Path:
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 4), dtype=np.uint8)
    labels = (np.arange(40) % 2).astype(np.uint8)
    for start, rows in (("train", slice(0, 30)), ("t10k", slice(30, 40))):
        (folder / f"{start}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images[rows])))
        (folder / f"{start}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels[rows])))
    return folder


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (bytes, "")])
def test_a_folder_of_idx_files_gives_its_parts(pack: Callable[[bytes], bytes], suffix: str, tmp_path: Path) -> None:
    source = open_source(idx_folder(tmp_path, pack=pack, suffix=suffix), classes=["even", "odd"])
    assert (list(source.parts), source.classes) == (["train", "test"], ("even", "odd"))
    assert stored(source.train).inputs.shape == (30, 1, 5, 4)
    assert stored(source.test).labels.tolist() == [0, 1] * 5


def test_a_missing_or_damaged_idx_file_is_named(tmp_path: Path) -> None:
    labels = idx_folder(tmp_path) / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-9])
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*t10k-labels-idx1-ubyte\.gz.*Fetch"):
        open_source(tmp_path)
    labels.unlink()
    with pytest.raises(DamagedDataError, match=r"there is no .*t10k-labels-idx1-ubyte and no .*gz beside it"):
        open_source(tmp_path)


@pytest.mark.filterwarnings("ignore:. of .* inputs of .* are also in")  # iris has one flower twice
@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("iris", (4,), 3), ("wine", (13,), 3), ("breast_cancer", (30,), 2), ("digits", (1, 8, 8), 10)],
)
def test_scikit_learns_tables_become_parts(name: str, shape: tuple[int, ...], classes: int) -> None:
    source = open_source(f"sklearn:{name}")
    parts = split_source(source)
    assert (source.name, len(source.classes), list(source.parts)) == (name, classes, ["train"])
    assert parts.train[0][0].shape == shape


@pytest.mark.parametrize("name", ["", "boston", "iris.csv", "__class__"])
def test_another_name_of_scikit_learn_is_refused(name: str) -> None:
    message = f"sklearn: must be followed by one of breast_cancer, digits, iris, wine. Got {name!r} instead"
    with pytest.raises(ValueError, match=message):
        open_source(f"sklearn:{name}")


@pytest.mark.whole_mnist
def test_the_embedded_mnist_is_a_source() -> None:
    source = open_source("mnist")
    assert isinstance(source, Source)
    assert [len(stored(part)) for part in source.parts.values()] == [60_000, 10_000]


@pytest.mark.parametrize("where", ["", "Mnist", "own.csv", "https://example.org/x.npz2"])
def test_what_names_nothing_is_refused_with_what_may_be_named(where: str) -> None:
    with pytest.raises(
        ValueError, match=r"no data set can be opened from .* Name one of these: mnist, torchvision:NAME"
    ):
        open_source(where)


@pytest.mark.parametrize(
    ("where", "arguments", "unused"),
    [
        ("mnist", {"classes": "abc"}, "classes"),
        ("sklearn:iris", {"size": 8}, "size"),
        ("own.npz", {"size": 8, "classes": "ab"}, "size"),
        ("own.py", {"download": True}, "download"),
        ("torchvision:KMNIST", {"root": "data", "columns": ("x", "y")}, "columns"),
    ],
)
def test_an_argument_that_would_be_overlooked_is_refused(where: str, arguments: dict[str, Any], unused: str) -> None:
    with pytest.raises(ValueError, match=f"{unused} says nothing about '{where}'. Leave it away"):
        open_source(where, **arguments)
