"""Image files: the same items whether decoded once or on demand; mixtures told of, broken ones named, links checked."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

import kd
from kd.checks import DamagedDataError
from kd.data.datasets import ArrayDataset, collate
from kd.data.sources import Source, image_dataset, open_source, split_source
from kd.data.sources.image_dataset import ImageFiles
from kd.storage.fingerprint import describe


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 5), seed: int = 0) -> Path:
    """Random pixels, ``size`` as height × width; stored without loss where the name says ``.png``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def tree(folder: Path, *parts: str, per_class: int = 6, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> Path:
    seed = 0
    for part in parts or ("",):
        for name in ("ant", "bee"):
            for number in range(per_class):
                picture(folder / part / name / f"{number}.png", mode, size, seed := seed + 1)
    return folder


def stored(part: Any) -> ArrayDataset:
    assert isinstance(part, ArrayDataset)
    return part


def lazily(folder: Path, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Source:
    with monkeypatch.context() as patch:
        patch.setattr(image_dataset, "IN_MEMORY", 0)
        return open_source(folder, **arguments)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_gives_its_parts_and_pixels(mode: str, tmp_path: Path) -> None:
    source = open_source(tree(tmp_path, "train", "val", "test", mode=mode))
    assert (source.name, source.classes, list(source.parts)) == (
        tmp_path.name,
        ("ant", "bee"),
        ["train", "val", "test"],
    )
    train = stored(source.train)
    assert train.inputs.shape == (12, 3 if mode == "RGB" else 1, 6, 5)
    assert train.labels.tolist() == [0] * 6 + [1] * 6
    pixels = np.asarray(Image.open(tmp_path / "train" / "bee" / "2.png")).reshape(6, 5, -1)
    assert np.array_equal(train.inputs[8].numpy(), pixels.transpose(2, 0, 1))


def test_classes_alone_are_the_training_data(tmp_path: Path) -> None:
    (tree(tmp_path) / ".thumbnails").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "ant" / "._0.png").write_bytes(b"what a Mac leaves")
    source = open_source(tmp_path)
    assert (list(source.parts), source.classes, len(stored(source.train))) == (["train"], ("ant", "bee"), 12)


def test_another_order_of_classes_is_followed(tmp_path: Path) -> None:
    source = open_source(tree(tmp_path), classes=["bee", "ant"])
    assert source.classes == ("bee", "ant")
    assert torch.equal(stored(source.train).inputs[:6], stored(open_source(tmp_path).train).inputs[6:])


def test_a_class_that_a_part_lacks_moves_no_label(tmp_path: Path) -> None:
    tree(tmp_path, "train", "test")
    for path in (tmp_path / "test" / "ant").iterdir():
        path.unlink()
    (tmp_path / "test" / "ant").rmdir()
    source = open_source(tmp_path)
    assert stored(source.test).labels.tolist() == [1] * 6
    with pytest.warns(UserWarning, match="test has items of one class only: 'bee'"):
        split_source(source, held_back=0.3)


def test_what_is_decoded_on_demand_is_what_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "train", "test")
    once = split_source(open_source(tmp_path), held_back=0.3)
    demand = split_source(lazily(tmp_path, monkeypatch), held_back=0.3)
    assert once.chosen == demand.chosen
    assert isinstance(demand.test, ImageFiles)
    for first, second in zip(once[:3], demand[:3], strict=True):
        for one, other in zip(kd.make_loader(first, batch_size=4), kd.make_loader(second, batch_size=4), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert torch.equal(first[-1][0], second[-1][0])
        assert type(second[0][1]) is int


def test_images_on_demand_go_to_worker_processes_and_stand_beside_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset: Any = lazily(tree(tmp_path), monkeypatch).train
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3][0], dataset[3][0])
    with_logits = kd.DistillDataset(dataset, torch.arange(12.0)[:, None])
    alone = next(iter(DataLoader(with_logits, batch_size=12, collate_fn=collate)))
    helped = next(iter(DataLoader(with_logits, batch_size=12, collate_fn=collate, num_workers=1)))
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))
    with pytest.raises(IndexError):
        dataset[12]


def test_a_steps_key_sees_a_changed_file_and_no_other_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lazily(tree(tmp_path / "one"), monkeypatch).train
    assert describe(first) == describe(lazily(tree(tmp_path / "two"), monkeypatch).train)
    changed = picture(tmp_path / "two" / "ant" / "3.png", seed=99)
    assert describe(first) != describe(lazily(tmp_path / "two", monkeypatch).train)
    assert changed.exists()
    assert describe(first) != describe(first.normalised(torch.tensor(0.5), torch.tensor(0.5)))  # type: ignore[attr-defined]
    assert describe(first) != describe(lazily(tmp_path / "one", monkeypatch, size=4).train)


# --- sizes and modes


@pytest.mark.parametrize(("size", "shape"), [(4, (4, 4)), ((3, 9), (3, 9)), ((6, 5), (6, 5))])
def test_a_size_scales_and_crops(size: Any, shape: tuple[int, int], tmp_path: Path) -> None:
    picture(tree(tmp_path) / "bee" / "wide.png", size=(8, 20))
    assert stored(open_source(tmp_path, size=size).train).inputs.shape == (13, 3, *shape)


def test_proportions_are_kept_and_edges_cropped(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, 2:6] = 200
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    images: Tensor = stored(open_source(tmp_path, size=4).train).inputs
    assert images.unique().tolist() == [200]


def test_several_sizes_without_one_to_take_are_refused(tmp_path: Path) -> None:
    picture(tree(tmp_path) / "bee" / "wide.png", size=(6, 9))
    message = r"one size, or be given one\. Got 2 sizes; 12 of 13 have 6 × 5 pixels \(height × width\)\. Give a size"
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)
    with pytest.raises(ValueError, match=r"size must be at least 1 × 1\. Got 0 × 0"):
        open_source(tmp_path, size=0)


def test_gray_images_among_others_become_rgb_and_are_counted(tmp_path: Path) -> None:
    gray = picture(tree(tmp_path) / "bee" / "gray.png", "L")
    with pytest.warns(UserWarning, match="1 of 13 images are gray: they become RGB, as the others are"):
        train = stored(open_source(tmp_path).train)
    assert np.array_equal(train.inputs[-1].numpy(), np.stack([np.asarray(Image.open(gray))] * 3))


def test_a_mixture_over_two_parts_is_one_too(tmp_path: Path) -> None:
    tree(tree(tmp_path, "train"), "test", mode="L")
    with pytest.warns(UserWarning, match="12 of 24 images are gray"):
        assert stored(open_source(tmp_path).test).inputs.shape[1] == 3


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("P", 3)])
def test_transparency_is_dropped_and_told_of(mode: str, channels: int, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="12 of 12 images have transparency, which is dropped"):
        assert stored(open_source(tree(tmp_path, mode=mode)).train).inputs.shape[1] == channels


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("CMYK", 3)])
def test_other_modes_of_8_bits_are_read(mode: str, channels: int, tmp_path: Path) -> None:
    picture(tmp_path / "ant" / "0.jpg", mode)
    assert stored(open_source(tmp_path).train).inputs.shape == (1, channels, 6, 5)


# --- what is broken


def test_broken_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    tree(tmp_path)
    for number in range(5):
        (tmp_path / "ant" / f"{number}.png").write_bytes(b"no image")
    message = (
        r"5 of 12 images cannot be read: .*0\.png \(.*1\.png \(.*2\.png \(.*\) and 2 more\. Replace or remove them"
    )
    with pytest.raises(DamagedDataError, match=message):
        open_source(tmp_path)


def test_a_truncated_image_is_found_when_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tree(tmp_path, size=(60, 50)) / "bee" / "0.png", size=(60, 50))
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DamagedDataError, match=r"1 of 12 images cannot be read: .*bee.0\.png \(.*truncated"):
        open_source(tmp_path)
    lazy: Any = lazily(tmp_path, monkeypatch).train
    with pytest.raises(DamagedDataError, match=r"bee.0\.png"):
        lazy[6]
    with pytest.raises(DamagedDataError, match=r"bee.0\.png"):
        split_source(Source("own", lazy, None, None, ("ant", "bee")))


def test_more_than_8_bits_per_channel_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 5), dtype=np.uint16)).save(tree(tmp_path) / "bee" / "deep.png")
    with pytest.raises(DamagedDataError, match=r"1 of 13 images .*deep\.png \(mode I;16, not 8 bits per channel\)"):
        open_source(tmp_path)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 25)  # 30 pixels: Pillow would only warn
    with pytest.raises(DamagedDataError, match=r"12 of 12 images cannot be read: .*decompression bomb"):
        open_source(tmp_path)


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret, own = picture(tmp_path / "secret.png"), tree(tmp_path / "own")
    (own / "bee" / "link.png").symlink_to(secret)
    with pytest.raises(DamagedDataError, match=r"1 files are links that lead out of .*own: .*bee.link\.png\. Copy"):
        open_source(own)
    (own / "bee" / "link.png").unlink()
    (own / "cow").symlink_to(tree(tmp_path / "other") / "ant")
    with pytest.raises(DamagedDataError, match="6 files are links that lead out of"):
        open_source(own)


def test_links_inside_the_folder_are_followed_but_none_in_a_circle(tmp_path: Path) -> None:
    tree(tmp_path, "train")
    (tmp_path / "train" / "bee" / "more.png").symlink_to("0.png")
    (tmp_path / "test").symlink_to("train")
    source = open_source(tmp_path)
    assert [len(stored(part)) for part in source.parts.values()] == [13, 13]
    with pytest.raises(ValueError, match=r"13 of 13 inputs of val are also in train: it would be judged by what"):
        split_source(source._replace(val=source.test, test=source.test))
    (tmp_path / "train" / "bee" / "circle").symlink_to(tmp_path)
    with pytest.raises(DamagedDataError, match=r"bee.circle is a link to a folder\. Copy that folder to its"):
        open_source(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_nothing_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tree(tmp_path) / "bee" / "pipe.png")
    with pytest.raises(DamagedDataError, match=r"1 of 13 images .*pipe\.png \(it is not a regular file\)"):
        open_source(tmp_path)


# --- layout


@pytest.mark.parametrize("name", ["Training", "val", "test"])
def test_parts_are_not_taken_for_classes(name: str, tmp_path: Path) -> None:
    tree(tmp_path, name, "more")
    message = rf"must have a folder train where it has parts\. Got \['{name.lower()}'\] instead"
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"must have a folder of images for each class. Got none .* train/CLASS/FILE"):
        open_source(tmp_path)


def test_a_class_without_images_is_refused_when_it_is_to_be_learned(tmp_path: Path) -> None:
    (tree(tmp_path) / "cow").mkdir()
    with pytest.raises(ValueError, match="Got 2 of 3 classes, none of 'cow'"):
        split_source(open_source(tmp_path))


def test_a_class_that_only_another_part_has_is_refused(tmp_path: Path) -> None:
    picture(tree(tmp_path, "train", "val") / "val" / "cow" / "0.png")
    with pytest.raises(ValueError, match=r"val must have no other classes than train, \['ant', 'bee'\]. Got \['cow'\]"):
        open_source(tmp_path)


def test_classes_that_are_not_the_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be the folders of .* in some order: \['ant', 'bee'\]. Got \['ant'\]"):
        open_source(tree(tmp_path), classes=["ant"])


def test_folders_that_are_not_used_are_told_of(tmp_path: Path) -> None:
    tree(tmp_path, "train", "valid")
    with pytest.warns(UserWarning, match=r"folders beside train, val and test that are not used: \['valid'\]"):
        assert list(open_source(tmp_path).parts) == ["train"]
