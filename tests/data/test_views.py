"""Shifted views: each index is one known shift, and a loader yields one view per sample."""

from __future__ import annotations

import pytest
import torch

import kd
from kd.data.datasets import ImageDataset, collate
from kd.data.loaders import seed_loader
from kd.data.views import ShiftedImages, one_view_each
from kd.models.inference import Predictions
from kd.models.networks import MLP


@pytest.fixture(name="images")
def _images() -> ImageDataset:
    with kd.seeded(0):
        pixels = torch.randint(0, 256, (7, 1, 6, 5), dtype=torch.uint8)
    return ImageDataset(pixels, torch.arange(7) % 3, mean=0.25, std=0.5)


def test_each_view_is_the_shift_given_by_its_index(images: ImageDataset) -> None:
    """Computed pixel by pixel: the pixel at (y − dy, x − dx) moves to (y, x); the rest is black."""
    views = ShiftedImages(images, reach=2)
    for view in range(25):
        down, right = view // 5 - 2, view % 5 - 2
        shown, label = views[3 * 25 + view]
        assert label == int(images.labels[3])
        for y in range(6):
            for x in range(5):
                inside = 0 <= y - down < 6 and 0 <= x - right < 5
                byte = int(images.images[3, 0, y - down, x - right]) if inside else 0
                assert shown[0, y, x].item() == pytest.approx((byte / 255 - 0.25) / 0.5, abs=1e-6)


def test_the_middle_view_is_the_image_and_reach_0_has_one_view(images: ImageDataset) -> None:
    views, single = ShiftedImages(images, reach=1), ShiftedImages(images, reach=0)
    assert len(views) == 7 * 9
    assert len(single) == 7
    for sample in range(7):
        assert torch.equal(views[sample * 9 + 4][0], images[sample][0])
        assert torch.equal(single[sample][0], images[sample][0])


def test_a_batch_equals_its_items(images: ImageDataset) -> None:
    views, rows = ShiftedImages(images, reach=2), [3, 170, 29, 29]
    shown, labels = collate(views.__getitems__(rows))
    for row, view, label in zip(rows, shown, labels, strict=True):
        assert torch.equal(view, views[row][0])
        assert int(label) == views[row][1]
    with pytest.raises(IndexError):
        views[len(views)]


def test_an_epoch_has_one_seeded_view_of_each_sample(images: ImageDataset) -> None:
    loader = one_view_each(ShiftedImages(images, reach=2), 25, batch_size=3)

    def draw(seed: int, epoch: int) -> list[int]:
        seed_loader(loader, seed=seed, epoch=epoch)
        return list(loader.sampler)

    assert sorted(index // 25 for index in draw(0, 0)) == list(range(7))
    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(0, 1)
    assert draw(0, 0) != draw(1, 0)
    assert {index % 25 for epoch in range(60) for index in draw(0, epoch)} == set(range(25))


def test_logits_belong_to_their_view_in_any_order(images: ImageDataset) -> None:
    views = ShiftedImages(images, reach=2)
    with kd.seeded(1):
        teacher = MLP(8, input_shape=(1, 6, 5), classes=3)
    cached = kd.collect_logits(teacher, views)
    half = Predictions(cached.logits.half(), cached.labels)
    kd.verify_logits(teacher, views, half)
    loader = one_view_each(kd.DistillDataset(views, half.logits), views.views, batch_size=3)
    for epoch in range(3):
        seed_loader(loader, seed=0, epoch=epoch)
        for shown, _, logits in loader:
            assert torch.allclose(teacher(shown), logits.float(), atol=2e-3)


def test_logits_of_another_view_raise(images: ImageDataset) -> None:
    views = ShiftedImages(images, reach=2)
    with kd.seeded(1):
        teacher = MLP(8, input_shape=(1, 6, 5), classes=3)
    cached = kd.collect_logits(teacher, views)
    shifted = cached.logits.view(7, 25, 3).roll(1, dims=1).reshape(-1, 3)
    with pytest.raises(ValueError, match="do not match their samples"):
        kd.verify_logits(teacher, views, Predictions(shifted, cached.labels))


def test_invalid_arguments_raise(images: ImageDataset) -> None:
    with pytest.raises(ValueError, match="reach"):
        ShiftedImages(images, reach=-1)
    with pytest.raises(ValueError, match="a divisor of the 63 items"):
        one_view_each(ShiftedImages(images, reach=1), 25, batch_size=3)
