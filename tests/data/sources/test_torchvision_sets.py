"""torchvision's data sets by name: from this disk alone, with the pixels, labels and names that torchvision has."""

from __future__ import annotations

import hashlib
import pickle
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
from tests.data.sources.test_image_dataset import picture
from tests.data.test_mnist import idx


def stored(part: Any) -> ArrayDataset:
    assert isinstance(part, ArrayDataset)
    return part


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)


def fashion(root: Path, name: str = "FashionMNIST") -> Path:
    raw, random = root / name / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for start, count in (("train", 100), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{start}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{start}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    return root


@pytest.mark.parametrize("name", ["FashionMNIST", "KMNIST"])
def test_a_data_set_in_mnists_format(name: str, tmp_path: Path) -> None:
    source = open_source(f"torchvision:{name}", root=fashion(tmp_path, name))
    theirs = getattr(datasets, name)(tmp_path, train=False)
    assert source.classes == tuple(theirs.classes)
    assert torch.equal(stored(source.test).inputs[:, 0], theirs.data)
    assert stored(source.test).labels.tolist() == theirs.targets.tolist()
    parts = split_source(source, held_back=0.2)
    assert [len(part) for part in parts[:3]] == [80, 20, 20]  # type: ignore[arg-type]


def test_cifar_with_colours_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, random = tmp_path / datasets.CIFAR10.base_folder, np.random.default_rng(0)
    folder.mkdir()

    def written(name: str, content: dict[str, Any]) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(name: str) -> tuple[str, str]:
        data = random.integers(0, 256, (20, 3072), dtype=np.uint8)
        return written(name, {"data": data, "labels": [number % 10 for number in range(20)]})

    names = [f"kind {number}" for number in range(10)]
    file, md5 = written("batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": file, "key": "label_names", "md5": md5})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch("data_batch_1"), batch("data_batch_2")])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch")])
    source = open_source("torchvision:CIFAR10", root=str(tmp_path))
    assert source.classes == tuple(names)
    assert stored(source.train).inputs.shape == (40, 3, 32, 32)
    assert np.array_equal(
        stored(source.test).inputs[3].permute(1, 2, 0), datasets.CIFAR10(tmp_path, train=False).data[3]
    )
    (folder / "data_batch_2").write_bytes(b"another pickle")  # torchvision reads none but those whose MD5 it knows
    with pytest.raises(DamagedDataError, match=r"torchvision cannot open CIFAR10 in .*corrupted.*Nothing is down"):
        open_source("torchvision:CIFAR10", root=tmp_path)


def test_a_size_for_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"torchvision's KMNIST consists of arrays, which keep their size\. Leave"):
        open_source("torchvision:KMNIST", root=fashion(tmp_path, "KMNIST"), size=14)


def eurosat(root: Path, count: int = 5) -> Path:
    for name in ("Forest", "River"):
        for number in range(count):
            picture(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", size=(8, 8), seed=number)
    return root


def test_a_data_set_of_files_is_decoded_once(tmp_path: Path) -> None:
    source = open_source("torchvision:EuroSAT", root=eurosat(tmp_path))
    assert (source.classes, list(source.parts)) == (("Forest", "River"), ["train"])
    train = stored(source.train)
    assert train.labels.tolist() == [0] * 5 + [1] * 5
    theirs = datasets.EuroSAT(tmp_path)
    assert np.array_equal(train.inputs[7].permute(1, 2, 0), np.asarray(theirs[7][0]))
    assert stored(open_source("torchvision:EuroSAT", root=tmp_path, size=4).train).inputs.shape == (10, 3, 4, 4)


def test_one_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_dataset, "IN_MEMORY", 1000)
    message = "these images take 1,920 bytes, and at most 1,000 are held in memory. Give a smaller size, or store them"
    with pytest.raises(ValueError, match=message):
        open_source("torchvision:EuroSAT", root=eurosat(tmp_path))


class Textures(datasets.VisionDataset):
    """Stands for those with ``split=``, of which each knows other names."""

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


def known(monkeypatch: pytest.MonkeyPatch, *made: type) -> None:
    for cls in made:
        monkeypatch.setattr(datasets, cls.__name__, cls, raising=False)
    monkeypatch.setattr(datasets, "__all__", [*datasets.__all__, *(cls.__name__ for cls in made)])


def test_splits_by_name_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, Textures)
    source = open_source("torchvision:Textures", root=tmp_path)
    assert list(source.parts) == ["train", "val", "test"]
    assert stored(source.val).inputs.flatten(1)[:, 0].tolist() == [50, 51, 52, 53]
    assert stored(source.val).labels.tolist() == [0, 1, 0, 1]


class Words(Textures):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        return "word", 0


class Choosy(datasets.VisionDataset):
    def __init__(self, root: Path, what: str) -> None:
        super().__init__(root)


class Nothing(datasets.VisionDataset):
    def __init__(self, root: Path, split: str = "all") -> None:
        raise ValueError("unknown split")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Words", DamagedDataError, r"4 of 4 images cannot be read: train item 0 \(it is no image but a str\)"),
        (
            "Choosy",
            ValueError,
            r"Choosy needs more than a folder: .*what.*\.py file with a function load",
        ),
        ("Nothing", ValueError, "torchvision's Nothing has no part to train on. Open it in a .py file"),
        ("FashionMnist", ValueError, r"followed by the name of one of its .* Got 'FashionMnist'. Did you mean Fashion"),
        ("wrap_dataset_for_transforms_v2", ValueError, "followed by the name of one of its data sets"),
        ("os", ValueError, "followed by the name of one of its data sets. Got 'os'."),
        (
            "KMNIST",
            DamagedDataError,
            r"cannot open KMNIST in .*: Dataset not found.*Fetch it once with torch",
        ),
    ],
)
def test_what_cannot_be_opened_is_refused_with_the_way_out(
    name: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, Words, Choosy, Nothing)
    with pytest.raises(error, match=message):
        open_source(f"torchvision:{name}", root=tmp_path)


def test_the_folder_must_be_named() -> None:
    with pytest.raises(ValueError, match=r"root must be the folder in which torchvision's KMNIST lies\. Got None"):
        open_source("torchvision:KMNIST")
