"""Image files: the same samples whether decoded once or on access; warnings and errors for unusable files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

import kd
from kd.checks import DamagedDataError
from kd.data.datasets import ArrayDataset, collate
from kd.data.sources import Source, open_source, split_source
from kd.data.sources.image_dataset import DecodedImages
from kd.data.sources.normalisation import moments_from_sums
from kd.storage.fingerprint import describe
from tests.data.sources.image_trees import as_array_dataset, save_image, save_tree


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folders_splits_and_pixels_are_read(mode: str, tmp_path: Path) -> None:
    source = open_source(save_tree(tmp_path, "train", "val", "test", mode=mode))
    assert (source.name, source.classes, list(source.parts)) == (
        tmp_path.name,
        ("ant", "bee"),
        ["train", "val", "test"],
    )
    train = as_array_dataset(source.train)
    assert train.inputs.shape == (12, 3 if mode == "RGB" else 1, 6, 5)
    assert train.labels.tolist() == [0] * 6 + [1] * 6
    pixels = np.asarray(Image.open(tmp_path / "train" / "bee" / "2.png")).reshape(6, 5, -1)
    assert np.array_equal(train.inputs[8].numpy(), pixels.transpose(2, 0, 1))


def test_class_folders_without_splits_are_the_training_data(tmp_path: Path) -> None:
    (save_tree(tmp_path) / ".thumbnails").mkdir()
    (tmp_path / "ant" / "._0.png").write_bytes(b"what a Mac leaves")
    source = open_source(tmp_path)
    assert (list(source.parts), source.classes, len(as_array_dataset(source.train))) == (["train"], ("ant", "bee"), 12)


def test_classes_sets_the_label_order(tmp_path: Path) -> None:
    source = open_source(save_tree(tmp_path), classes=["bee", "ant"])
    assert source.classes == ("bee", "ant")
    assert torch.equal(
        as_array_dataset(source.train).inputs[:6], as_array_dataset(open_source(tmp_path).train).inputs[6:]
    )


def test_a_class_missing_from_a_split_shifts_no_labels(tmp_path: Path) -> None:
    save_tree(tmp_path, "train", "test")
    for path in (tmp_path / "test" / "ant").iterdir():
        path.unlink()
    (tmp_path / "test" / "ant").rmdir()
    source = open_source(tmp_path)
    assert as_array_dataset(source.test).labels.tolist() == [1] * 6
    with pytest.warns(UserWarning, match="test has samples of one class only: 'bee'"):
        split_source(source, held_back=0.3)


def in_memory(source: Source) -> Source:
    """Return the same source with its images in memory."""
    copies = {split: ArrayDataset(data.inputs.clone(), data.labels) for split, data in source.parts.items()}  # type: ignore[attr-defined]
    return source._replace(**copies)


def test_mapped_images_equal_those_in_memory(tmp_path: Path) -> None:
    source = open_source(save_tree(tmp_path, "train", "test"))
    mapped, copied = (split_source(data, held_back=0.3) for data in (source, in_memory(source)))
    assert isinstance(mapped.test, DecodedImages)
    assert mapped.chosen == copied.chosen
    for first, second in zip(mapped[:3], copied[:3], strict=True):
        for batch, copied_batch in zip(
            kd.make_loader(first, batch_size=4), kd.make_loader(second, batch_size=4), strict=True
        ):
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(batch, copied_batch, strict=True))


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 255))
def test_moments_from_stored_sums_equal_those_of_the_pixels(seed: int, images: int, top: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, top, (images, 3, 4, 5), dtype=np.uint8)
    sums = np.stack([pixels.sum((2, 3), dtype=np.int64), (pixels.astype(np.int64) ** 2).sum((2, 3))], axis=2)
    moments = moments_from_sums(sums.sum(axis=0).tolist(), pixels=images * 20)
    scaled = pixels.astype(np.float64) / 255
    std = scaled.std(axis=(0, 2, 3))
    assert np.allclose(moments.mean.flatten(), scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(moments.std.flatten(), np.where(std < 1e-9, 1, std), rtol=1e-9)


def test_decoded_images_are_mapped_anew_in_another_process(tmp_path: Path) -> None:
    dataset: Any = open_source(save_tree(tmp_path, size=(64, 64))).train
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000 < dataset.inputs.numel()
    assert torch.equal(pickle.loads(pickled)[3][0], dataset[3][0])
    with_logits = kd.DistillDataset(dataset, torch.arange(12.0)[:, None])
    in_process = next(iter(DataLoader(with_logits, batch_size=12, collate_fn=collate)))
    in_worker = next(iter(DataLoader(with_logits, batch_size=12, collate_fn=collate, num_workers=1)))
    assert all(torch.equal(a, b) for a, b in zip(in_process, in_worker, strict=True))
    with pytest.raises(IndexError):
        dataset[12]


def test_the_fingerprint_depends_on_file_content_not_on_paths(tmp_path: Path) -> None:
    first = open_source(save_tree(tmp_path / "one")).train
    assert describe(first) == describe(open_source(save_tree(tmp_path / "two")).train)
    changed = save_image(tmp_path / "two" / "ant" / "3.png", seed=99)
    assert describe(first) != describe(open_source(tmp_path / "two").train)
    assert changed.exists()
    assert describe(first) != describe(first.normalised(torch.tensor(0.5), torch.tensor(0.5)))  # type: ignore[attr-defined]
    assert describe(first) != describe(open_source(tmp_path / "one", size=4).train)


@pytest.mark.parametrize(("size", "shape"), [(4, (4, 4)), ((3, 9), (3, 9)), ((6, 5), (6, 5))])
def test_a_size_scales_and_crops(size: Any, shape: tuple[int, int], tmp_path: Path) -> None:
    save_image(save_tree(tmp_path) / "bee" / "wide.png", size=(8, 20))
    assert as_array_dataset(open_source(tmp_path, size=size).train).inputs.shape == (13, 3, *shape)


def test_proportions_are_kept_and_edges_cropped(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, 2:6] = 200
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    images: Tensor = as_array_dataset(open_source(tmp_path, size=4).train).inputs
    assert images.unique().tolist() == [200]


def test_several_sizes_without_size_raise(tmp_path: Path) -> None:
    save_image(save_tree(tmp_path) / "bee" / "wide.png", size=(6, 9))
    message = r"the same size\. Got 2 sizes; 12 of 13 images have 6 × 5 pixels \(height × width\)\..*size"
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)
    with pytest.raises(ValueError, match=r"--image-size.* must be at least 1 × 1\. Got 0 × 0"):
        open_source(tmp_path, size=0)


def test_gray_images_among_coloured_ones_become_rgb_with_a_warning(tmp_path: Path) -> None:
    gray = save_image(save_tree(tmp_path) / "bee" / "gray.png", "L")
    with pytest.warns(UserWarning, match="1 of 13 images are gray .*RGB"):
        train = as_array_dataset(open_source(tmp_path).train)
    assert np.array_equal(train.inputs[-1].numpy(), np.stack([np.asarray(Image.open(gray))] * 3))


def test_gray_and_coloured_splits_are_converted_too(tmp_path: Path) -> None:
    save_tree(save_tree(tmp_path, "train"), "test", mode="L")
    with pytest.warns(UserWarning, match="12 of 24 images are gray"):
        assert as_array_dataset(open_source(tmp_path).test).inputs.shape[1] == 3


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("P", 3)])
def test_transparency_is_dropped_with_a_warning(mode: str, channels: int, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="12 of 12 images have transparency, which is dropped"):
        assert as_array_dataset(open_source(save_tree(tmp_path, mode=mode)).train).inputs.shape[1] == channels


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("CMYK", 3)])
def test_other_modes_of_8_bits_are_read(mode: str, channels: int, tmp_path: Path) -> None:
    save_image(tmp_path / "ant" / "0.jpg", mode)
    assert as_array_dataset(open_source(tmp_path).train).inputs.shape == (1, channels, 6, 5)


def test_broken_images_are_counted_and_the_first_three_named(tmp_path: Path) -> None:
    save_tree(tmp_path)
    for number in range(5):
        (tmp_path / "ant" / f"{number}.png").write_bytes(b"no image")
    message = (
        r"5 of 12 images cannot be read: .*0\.png \(.*1\.png \(.*2\.png \(.*\) and 2 more\. Replace or remove them"
    )
    with pytest.raises(DamagedDataError, match=message):
        open_source(tmp_path)


def test_a_truncated_image_raises(tmp_path: Path) -> None:
    path = save_image(save_tree(tmp_path, size=(60, 50)) / "bee" / "0.png", size=(60, 50))
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DamagedDataError, match=r"1 of 12 images cannot be read: .*bee.0\.png \(.*truncated"):
        open_source(tmp_path)
    save_image(path, size=(60, 50))
    assert len(as_array_dataset(open_source(tmp_path).train)) == 12


def test_more_than_8_bits_per_channel_raise(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 5), dtype=np.uint16)).save(save_tree(tmp_path) / "bee" / "deep.png")
    with pytest.raises(DamagedDataError, match=r"1 of 13 images .*deep\.png \(mode I;16, not 8 bits per channel\)"):
        open_source(tmp_path)


def test_an_image_that_would_fill_the_memory_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tree(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 25)  # 30 pixels; Pillow itself would only warn
    with pytest.raises(DamagedDataError, match=r"12 of 12 images cannot be read: .*decompression bomb"):
        open_source(tmp_path)


def test_links_that_point_outside_the_folder_raise(tmp_path: Path) -> None:
    secret, folder = save_image(tmp_path / "secret.png"), save_tree(tmp_path / "own")
    (folder / "bee" / "link.png").symlink_to(secret)
    with pytest.raises(DamagedDataError, match=r"1 files are .*links that point outside .*own: .*bee.link\.png\."):
        open_source(folder)
    (folder / "bee" / "link.png").unlink()
    (folder / "cow").symlink_to(save_tree(tmp_path / "other") / "ant")
    with pytest.raises(DamagedDataError, match="6 files are symbolic links that point outside"):
        open_source(folder)


def test_links_inside_the_folder_are_followed_and_circular_ones_raise(tmp_path: Path) -> None:
    save_tree(tmp_path, "train")
    (tmp_path / "train" / "bee" / "more.png").symlink_to("0.png")
    (tmp_path / "test").symlink_to("train")
    source = open_source(tmp_path)
    assert [len(as_array_dataset(part)) for part in source.parts.values()] == [13, 13]
    with pytest.raises(ValueError, match=r"13 of 13 inputs of val are also in train"):
        split_source(source._replace(val=source.test, test=source.test))
    (tmp_path / "train" / "bee" / "circle").symlink_to(tmp_path)
    with pytest.raises(DamagedDataError, match=r"bee.circle is a symbolic link to a folder\. .*copy"):
        open_source(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_raises_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(save_tree(tmp_path) / "bee" / "pipe.png")
    with pytest.raises(DamagedDataError, match=r"1 of 13 images .*pipe\.png \(it is not a regular file\)"):
        open_source(tmp_path)
