"""WebDataset shards: read as webdataset itself reads them, by index, without unpacking."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from kd.checks import DamagedDataError
from kd.data.sources import open_source, split_source
from kd.data.sources.image_dataset import DecodedImages


def encode(seed: int, *, size: tuple[int, int] = (6, 5)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def write_shard(path: Path, *samples: dict[str, bytes]) -> Path:
    """Write a tar file of samples, dictionaries of contents by ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for ending, content in sample.items():
                member = tarfile.TarInfo(f"{number:04}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def make_samples(count: int, *, start: int = 0) -> list[dict[str, bytes]]:
    return [{"png": encode(start + number), "cls": str(number % 2).encode()} for number in range(count)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_samples_are_those_that_webdataset_reads(tmp_path: Path) -> None:
    pattern = str(tmp_path / "photos-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=5, verbose=0) as writer:
        for number in range(12):
            extra = {"json": {"note": number}, "seg.png": np.zeros((2, 2, 3), dtype=np.uint8)}
            pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
            writer.write({"__key__": f"photo{number}", "cls": number % 3, "png": pixels, **extra})
    source = open_source(f"wds:{tmp_path}/photos-{{000..002}}.tar")
    shards = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    theirs = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("png", "cls"))
    train = source.train
    assert isinstance(train, DecodedImages)
    assert len(train) == len(theirs) == 12
    for (image, label), pixels, number in zip(theirs, train.inputs, train.labels.tolist(), strict=True):
        assert np.array_equal(image.transpose(2, 0, 1), pixels.numpy())
        assert label == number
    assert source.classes == ("0", "1", "2")
    assert source.ids == {"train": [f"photo{number}" for number in range(12)]}


def test_shards_are_split_by_their_names(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        write_shard(tmp_path / f"photos-{split}-0.tar", *make_samples(count, start=100 * count))
    source = open_source(f"wds:{tmp_path}/*.tar")
    assert {name: len(part) for name, part in source.parts.items()} == {"train": 8, "val": 4, "test": 6}  # type: ignore[arg-type]
    assert len(split_source(source).test) == 6  # type: ignore[arg-type]


def test_shards_without_a_split_are_training_data_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", *make_samples(6))
    write_shard(tmp_path / "b.tar", *make_samples(6, start=50))
    source = open_source(f"wds:{tmp_path}/*.tar", size=4, workers=0)
    assert list(source.parts) == ["train"]
    swapped = open_source(f"wds:{tmp_path}/{{b,a}}.tar", size=4)
    assert isinstance(source.train, DecodedImages)
    assert isinstance(swapped.train, DecodedImages)
    assert torch.equal(source.train.inputs, swapped.train.inputs.roll(6, 0))


@pytest.mark.parametrize(("label", "message"), [(b"-1", "Got -1 at index 0"), (b"", "Got '' at index 0")])
def test_labels_that_are_no_class_raise(label: bytes, message: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"png": encode(9), "cls": label}, *make_samples(4))
    with pytest.raises(ValueError, match=message):
        open_source(f"wds:{tmp_path / 'a.tar'}")


def test_labels_may_be_names(tmp_path: Path) -> None:
    samples = [{"png": encode(number), "cls": name} for number, name in enumerate([b"bee\n", b"ant", b"bee"])]
    source = open_source(f"wds:{write_shard(tmp_path / 'a.tar', *samples)}")
    assert source.classes == ("ant", "bee")
    assert source.train.labels.tolist() == [1, 0, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"png": encode(0)}], r"one image and one label file \.cls\. Got 0000 with \.png, 1 such samples"),
        ([{"cls": b"0"}], r"Got 0000 with \.cls,"),
        ([{"png": encode(0), "jpg": encode(1), "cls": b"0"}], r"with \.cls, \.jpg, \.png,"),
        ([{"v1.0.png": encode(0), "v1.0.cls": b"0"}], r"with \.v1\.0\.cls, .* name of a sample ends at its first dot"),
        ([{"png": encode(0), "cls": b"0" * 2000}], "label of 0000 in .* must be a number or a name. Got 2,000 bytes"),
        ([{"png": encode(0), "cls": b"\xff\xfe0"}], r"label of 0000 in .* must be text in UTF-8\. Got b'\\xff\\xfe0'"),
        ([{"png": encode(0)[:50], "cls": b"0"}, *make_samples(2)], r"1 of 3 images cannot be read: 0000 in .*a\.tar"),
    ],
)
def test_incomplete_samples_raise(samples: list[dict[str, bytes]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedDataError, match=message):
        open_source(f"wds:{write_shard(tmp_path / 'a.tar', *samples)}")


def test_compressed_and_damaged_shards_raise(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", *make_samples(4))
    (tmp_path / "b.tar").write_bytes(b"no tar file" * 100)
    with tarfile.open(tmp_path / "c.tar", "w:gz") as tar:
        tar.add(path, "0.png")
    for name in "bc":
        with pytest.raises(DamagedDataError, match=rf"{name}\.tar is no tar file, or a compressed or damaged one"):
            open_source(f"wds:{tmp_path}/{name}.tar")
    path.write_bytes(path.read_bytes()[:-11_000])
    with pytest.raises(DamagedDataError, match=r"a\.tar"):
        open_source(f"wds:{path}")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("http://example.org/a.tar", "must name files on this disk.*Download the shards first"),
        ("pipe:cat a.tar", "must name files on this disk"),
        ("{folder}/none-*.tar", "must name tar files. Got no file .*none"),
        ("{folder}/none-{{0..3}}.tar", r"must name tar files. Got no file .*none-0\.tar"),
        ("{folder}/mixed/*.tar", r"all must be named. Got .*other\.tar. Name all shards after train, val or test"),
        ("{folder}/only/*.tar", "must include training shards"),
        ("{folder}/both/*.tar", r"must contain one split. Got train and test in .*train-test\.tar"),
    ],
)
def test_patterns_that_name_no_shards_raise(pattern: str, message: str, tmp_path: Path) -> None:
    for name in ("mixed/train.tar", "mixed/other.tar", "only/val.tar", "both/train-test.tar"):
        write_shard(tmp_path / name, *make_samples(2))
    with pytest.raises(ValueError, match=message):
        open_source(f"wds:{pattern.format(folder=tmp_path)}")


def test_a_shard_is_not_unpacked_outside_its_place(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        files = {"../../evil.png": encode(0), "../../evil.cls": b"0", "/b.png": encode(1), "/b.cls": b"1"}
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert len(open_source(f"wds:{tmp_path}/a.tar").train) == 2  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar"]


def test_files_in_folders_of_other_programs_are_not_read(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", *make_samples(12))
    with tarfile.open(path, "a") as tar:
        for name in ("__MACOSX/._0000.png", "@eaDir/0000.png/THUMB.jpg"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.warns(UserWarning, match=r"a\.tar: not read: 2 files in folders that other programs add"):
        assert len(open_source(f"wds:{path}").train) == 12  # type: ignore[arg-type]
