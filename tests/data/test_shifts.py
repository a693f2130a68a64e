"""Changed test images: what the changes do, in which order, and that they repeat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

import kd
from kd.data import shifts
from kd.data.datasets import ArrayDataset
from kd.data.loaders import make_loader
from kd.data.shifts import SHIFTS, shift_images
from kd.storage.fingerprint import describe

MEAN, STD = 0.2, 0.5


def make_images(count: int = 6, channels: int = 1, side: int = 21) -> kd.ImageDataset:
    generator = torch.Generator().manual_seed(0)
    brightness = 40 * torch.arange(count).reshape(-1, 1, 1, 1)
    images = (brightness + torch.randint(0, 40, (count, channels, side, side), generator=generator)).to(torch.uint8)
    return kd.ImageDataset(images, torch.arange(count) % 3, mean=MEAN, std=STD)


def read(dataset: Dataset[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all images in [0, 1] and their labels."""
    batches = list(make_loader(dataset, batch_size=4))
    inputs, labels = (torch.cat([batch[column] for batch in batches]) for column in (0, 1))
    return inputs * STD + MEAN, labels


def change(name: str, dataset: Dataset[Any]) -> torch.Tensor:
    return read(shift_images(dataset)[name])[0]


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_change_keeps_order_labels_shape_and_range_and_repeats_itself(name: str, channels: int) -> None:
    dataset = make_images(channels=channels)
    before, labels = read(dataset)
    state = torch.get_rng_state()
    after, same = read(shift_images(dataset)[name])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(labels, same)
    assert after.shape == before.shape
    assert -1e-6 <= float(after.min()) <= float(after.max()) <= 1 + 1e-6
    assert not torch.allclose(after, before)
    assert torch.equal(after, change(name, dataset))
    # The middle of each image is as bright as before, on average: none was exchanged.
    centres = [images[..., 6:15, 6:15].flatten(1).mean(dim=1, keepdim=True) for images in (after, before)]
    assert torch.cdist(*centres).argmin(dim=1).tolist() == list(range(len(dataset)))


@pytest.mark.parametrize("name", SHIFTS)
def test_a_change_depends_on_no_other_image_and_not_on_the_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_images()
    whole = change(name, dataset)
    assert torch.equal(change(name, Subset(dataset, [0, 1, 2])), whole[:3])
    monkeypatch.setattr(shifts, "IN_MEMORY", 0)
    assert torch.equal(change(name, dataset), whole)


def test_all_copies_of_all_changes_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_images()
    monkeypatch.setattr(shifts, "IN_MEMORY", 2 * len(SHIFTS) * 4 * len(dataset) * 21 * 21)
    for copies, in_memory in {1: True, 2: True, 3: False}.items():
        changed = shift_images(dataset, copies=copies).values()
        assert all(isinstance(images, ArrayDataset) == in_memory for images in changed)
        assert len({str(describe(images)) for images in changed}) == len(SHIFTS)


def test_the_strengths_are_as_named() -> None:
    grey = kd.ImageDataset(
        torch.full((20, 1, 40, 40), 128, dtype=torch.uint8), torch.zeros(20).long(), mean=MEAN, std=STD
    )
    noise = change("noise-0.1", grey) - 128 / 255
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(noise.mean())) < 0.005
    assert not torch.allclose(noise[0], noise[1])
    pixel = torch.zeros(1, 1, 21, 21, dtype=torch.uint8)
    pixel[0, 0, 10, 10] = 255
    point = kd.ImageDataset(pixel, torch.zeros(1).long(), mean=MEAN, std=STD)
    bell = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    expected = np.outer(bell, bell) / bell.sum() ** 2
    assert change("blur-1", point)[0, 0, 7:14, 7:14].numpy() == pytest.approx(expected, abs=1e-6)
    line = torch.zeros(1, 1, 41, 41, dtype=torch.uint8)
    line[0, 0, 20] = 255
    turned = change("rotation-15", kd.ImageDataset(line, torch.zeros(1).long(), mean=MEAN, std=STD))[0, 0]
    rows = turned[:, 8:33].argmax(dim=0).numpy()  # of the line, in each column
    angle = np.degrees(np.arctan(np.polyfit(np.arange(len(rows)), rows, 1)[0]))
    assert abs(angle) == pytest.approx(15, abs=1)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (ArrayDataset(torch.rand(4, 3), torch.zeros(4).long()), "needs images stored as uint8"),
        (make_images(side=3), "at least 4 × 4 pixels. Got 3 × 3"),
    ],
)
def test_other_data_are_refused(dataset: Dataset[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shift_images(dataset)
