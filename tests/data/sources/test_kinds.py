"""``open_source``: IDX folders, scikit-learn's tables, MNIST, and errors for anything else."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.checks import DamagedDataError
from kd.data.sources import Source, open_source, split_source
from tests.data.sources.test_arrays import as_array_dataset
from tests.data.test_mnist import encode_idx


def write_idx_folder(folder: Path, *, pack: Callable[[bytes], bytes] = gzip.compress, suffix: str = ".gz") -> Path:
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 4), dtype=np.uint8)
    labels = (np.arange(40) % 2).astype(np.uint8)
    for prefix, rows in (("train", slice(0, 30)), ("t10k", slice(30, 40))):
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(encode_idx(images[rows])))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(encode_idx(labels[rows])))
    return folder


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (bytes, "")])
@pytest.mark.parametrize("has_dots", [False, True])
def test_a_folder_of_idx_files_is_read(
    pack: Callable[[bytes], bytes], suffix: str, has_dots: bool, tmp_path: Path
) -> None:
    write_idx_folder(tmp_path, pack=pack, suffix=suffix)
    for path in list(tmp_path.iterdir()) if has_dots else ():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    source = open_source(tmp_path, classes=["even", "odd"])
    assert (list(source.parts), source.classes) == (["train", "test"], ("even", "odd"))
    assert as_array_dataset(source.train).inputs.shape == (30, 1, 5, 4)
    assert as_array_dataset(source.test).labels.tolist() == [0, 1] * 5


def test_a_missing_or_damaged_idx_file_raises(tmp_path: Path) -> None:
    labels = write_idx_folder(tmp_path) / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-9])
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*t10k-labels-idx1-ubyte\.gz.*Download"):
        open_source(tmp_path)
    labels.unlink()
    with pytest.raises(DamagedDataError, match=r"no file .*t10k-labels-idx1-ubyte or .*gz"):
        open_source(tmp_path)


@pytest.mark.filterwarnings("ignore:. of .* inputs of .* are also in")  # iris contains a duplicate
@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("iris", (4,), 3), ("wine", (13,), 3), ("breast_cancer", (30,), 2), ("digits", (1, 8, 8), 10)],
)
def test_scikit_learns_tables_are_opened_and_split(name: str, shape: tuple[int, ...], classes: int) -> None:
    source = open_source(f"sklearn:{name}")
    splits = split_source(source)
    assert (source.name, len(source.classes), list(source.parts)) == (name, classes, ["train"])
    assert splits.train[0][0].shape == shape


@pytest.mark.parametrize("name", ["", "boston", "iris.csv", "__class__"])
def test_an_unknown_scikit_learn_dataset_raises(name: str) -> None:
    message = f"sklearn:NAME must name one of breast_cancer, digits, iris, wine. Got {name!r} instead"
    with pytest.raises(ValueError, match=message):
        open_source(f"sklearn:{name}")


@pytest.mark.whole_mnist
def test_the_embedded_mnist_is_a_source() -> None:
    source = open_source("mnist")
    assert isinstance(source, Source)
    assert [len(as_array_dataset(part)) for part in source.parts.values()] == [60_000, 10_000]


@pytest.mark.parametrize("where", ["", "Mnist", "own.txt", "https://example.org/x.npz2"])
def test_an_unknown_kind_raises_and_lists_the_allowed_ones(where: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot open a dataset from '{where}'.* mnist, torchvision:NAME"):
        open_source(where)


@pytest.mark.parametrize(
    ("where", "arguments", "argument", "flag"),
    [
        ("mnist", {"classes": "abc"}, "classes", "--class-names"),
        ("sklearn:iris", {"size": 8}, "size", "--image-size"),
        ("own.npz", {"size": 8, "classes": "ab"}, "size", "--image-size"),
        ("own.py", {"download": True}, "download", "--download"),
        ("torchvision:KMNIST", {"root": "data", "columns": ("x", "y")}, "columns", "--columns"),
    ],
)
def test_an_argument_that_does_not_apply_raises(
    where: str, arguments: dict[str, Any], argument: str, flag: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{argument} \({flag}\) does not apply to '{where}'"):
        open_source(where, **arguments)


@pytest.mark.parametrize("name", ["own.npz", "own.csv", "train-images-idx3-ubyte"])
def test_a_pointer_of_git_lfs_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    where = tmp_path if name.startswith("train") else tmp_path / name
    with pytest.raises(
        DamagedDataError, match=f"{name} is a pointer of Git LFS, not the file itself. Run git lfs pull"
    ):
        open_source(where, target="label" if name.endswith("csv") else None)
