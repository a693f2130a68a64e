"""torchvision's datasets by name: no network, and the same pixels, labels and names as torchvision."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from kd.checks import DamagedDataError
from kd.data.datasets import ArrayDataset
from kd.data.sources import image_dataset, open_source, split_source
from tests.data.sources.image_trees import save_image
from tests.data.test_mnist import encode_idx


def as_array_dataset(dataset: Any) -> ArrayDataset:
    assert isinstance(dataset, ArrayDataset)
    return dataset


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)


def write_fashion(root: Path, name: str = "FashionMNIST") -> Path:
    raw, random = root / name / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for prefix, count in (("train", 100), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(encode_idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(encode_idx((np.arange(count) % 10).astype(np.uint8)))
    return root


@pytest.mark.parametrize("name", ["FashionMNIST", "KMNIST"])
def test_a_dataset_in_mnists_format(name: str, tmp_path: Path) -> None:
    source = open_source(f"torchvision:{name}", root=write_fashion(tmp_path, name))
    expected = getattr(datasets, name)(tmp_path, train=False)
    assert source.classes == tuple(expected.classes)
    assert torch.equal(as_array_dataset(source.test).inputs[:, 0], expected.data)
    assert as_array_dataset(source.test).labels.tolist() == expected.targets.tolist()
    splits = split_source(source, held_back=0.2)
    assert [len(split) for split in splits[:3]] == [80, 20, 20]  # type: ignore[arg-type]


def test_cifar_keeps_colours_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, random = tmp_path / datasets.CIFAR10.base_folder, np.random.default_rng(0)
    folder.mkdir()

    def write_pickle(name: str, content: dict[str, Any]) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(name: str) -> tuple[str, str]:
        data = random.integers(0, 256, (20, 3072), dtype=np.uint8)
        return write_pickle(name, {"data": data, "labels": [number % 10 for number in range(20)]})

    names = [f"kind {number}" for number in range(10)]
    file, md5 = write_pickle("batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": file, "key": "label_names", "md5": md5})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch("data_batch_1"), batch("data_batch_2")])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch")])
    source = open_source("torchvision:CIFAR10", root=str(tmp_path))
    assert source.classes == tuple(names)
    assert as_array_dataset(source.train).inputs.shape == (40, 3, 32, 32)
    assert np.array_equal(
        as_array_dataset(source.test).inputs[3].permute(1, 2, 0), datasets.CIFAR10(tmp_path, train=False).data[3]
    )
    (folder / "data_batch_2").write_bytes(b"another pickle")  # torchvision checks the MD5 of its files
    with pytest.raises(DamagedDataError, match=r"torchvision cannot open CIFAR10 in .*corrupted.*Nothing was down"):
        open_source("torchvision:CIFAR10", root=tmp_path)


def test_size_for_arrays_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^size \(--image-size\) does not apply to torchvision's KMNIST"):
        open_source("torchvision:KMNIST", root=write_fashion(tmp_path, "KMNIST"), size=14)


def write_eurosat(root: Path, count: int = 5) -> Path:
    for name in ("Forest", "River"):
        for number in range(count):
            save_image(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", size=(8, 8), seed=number)
    return root


def test_a_dataset_of_files_is_decoded_once(tmp_path: Path) -> None:
    source = open_source("torchvision:EuroSAT", root=write_eurosat(tmp_path))
    assert (source.classes, list(source.parts)) == (("Forest", "River"), ["train"])
    train = as_array_dataset(source.train)
    assert train.labels.tolist() == [0] * 5 + [1] * 5
    expected = datasets.EuroSAT(tmp_path)
    assert np.array_equal(train.inputs[7].permute(1, 2, 0), np.asarray(expected[7][0]))
    assert as_array_dataset(open_source("torchvision:EuroSAT", root=tmp_path, size=4).train).inputs.shape == (
        10,
        3,
        4,
        4,
    )


def test_an_eps_file_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"started {arguments}")

    path = write_eurosat(tmp_path) / "eurosat" / "2750" / "River" / "River_1.jpg"
    Image.new("RGB", (8, 8)).save(path, "eps")
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(DamagedDataError, match=r"1 of 10 images cannot be read: train sample 6 \(its content is EPS"):
        open_source("torchvision:EuroSAT", root=tmp_path, size=4)


def test_a_dataset_that_does_not_fit_in_memory_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_dataset, "IN_MEMORY", 1000)
    message = "these images need 1,920 bytes of memory; the limit is 1,000"
    with pytest.raises(ValueError, match=message):
        open_source("torchvision:EuroSAT", root=write_eurosat(tmp_path))


class Textures(datasets.VisionDataset):
    """Stand-in for a dataset with an argument ``split``."""

    def __init__(self, root: Path, split: str = "train") -> None:
        super().__init__(root)
        if split not in {"train", "val", "test"}:
            raise ValueError(f"unknown split {split}")
        self.classes, self.split = ["bark", "silk"], split

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        value = {"train": 0, "val": 50, "test": 100}[self.split] + index
        return Image.new("L", (6, 5), value), index % 2


def register(monkeypatch: pytest.MonkeyPatch, *classes: type) -> None:
    for cls in classes:
        monkeypatch.setattr(datasets, cls.__name__, cls, raising=False)
    monkeypatch.setattr(datasets, "__all__", [*datasets.__all__, *(cls.__name__ for cls in classes)])


def test_splits_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Textures)
    source = open_source("torchvision:Textures", root=tmp_path)
    assert list(source.parts) == ["train", "val", "test"]
    assert as_array_dataset(source.val).inputs.flatten(1)[:, 0].tolist() == [50, 51, 52, 53]
    assert as_array_dataset(source.val).labels.tolist() == [0, 1, 0, 1]


class Words(Textures):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        return "word", 0


class NeedsArgument(datasets.VisionDataset):
    def __init__(self, root: Path, variant: str) -> None:
        super().__init__(root)


class NoKnownSplit(datasets.VisionDataset):
    def __init__(self, root: Path, split: str = "all") -> None:
        raise ValueError("unknown split")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Words", DamagedDataError, r"4 of 4 images cannot be read: train sample 0 \(not an image but a str\)"),
        (
            "NeedsArgument",
            ValueError,
            r"NeedsArgument needs more than a folder: .*variant.*\.py file with a function load",
        ),
        ("NoKnownSplit", ValueError, "torchvision's NoKnownSplit has no training split"),
        ("FashionMnist", ValueError, r"torchvision:NAME .* Got 'FashionMnist'. Did you mean FashionMNIST"),
        ("wrap_dataset_for_transforms_v2", ValueError, "torchvision:NAME must name one of torchvision's datasets"),
        ("os", ValueError, "torchvision:NAME must name one of torchvision's datasets. Got 'os'."),
        (
            "KMNIST",
            DamagedDataError,
            r"cannot open KMNIST in .*: Dataset not found.*Download it once with torch",
        ),
    ],
)
def test_datasets_that_cannot_be_opened_raise_with_a_remedy(
    name: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, Words, NeedsArgument, NoKnownSplit)
    with pytest.raises(error, match=message):
        open_source(f"torchvision:{name}", root=tmp_path)


def test_root_is_required() -> None:
    with pytest.raises(ValueError, match=r"root \(--data-dir\) must be .*KMNIST.*Got None"):
        open_source("torchvision:KMNIST")
