"""Samples as pictures: the stored pixels, whatever the normalisation; photographs are not shown as negatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kd.commands.run.plots import prediction_examples
from kd.data.datasets import ArrayDataset, Split
from kd.data.mnist import load_mnist
from kd.report.pictures import holds_drawings, stored_image, to_pixels
from tests.commands.run.test_results import a_run

GENERATOR = torch.Generator().manual_seed(0)


def photographs(channels: int) -> Tensor:
    return torch.randint(0, 256, (70, channels, 6, 8), generator=GENERATOR).to(torch.uint8)


def as_data(images: Tensor) -> ArrayDataset:
    mean, std = (torch.rand(images.shape[1], 1, 1, generator=GENERATOR) + 0.1 for _ in range(2))
    return ArrayDataset(images, torch.arange(len(images)) % 3, mean=mean, std=std)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_has_the_stored_pixels_in_spite_of_the_normalisation(channels: int) -> None:
    images = photographs(channels)
    part = Split(Split(as_data(images), list(range(69, -1, -1))), [3, 5])
    assert torch.equal((stored_image(part, 1) * 255).round(), images[64].double())
    assert to_pixels(stored_image(part, 1)).shape == (min(channels, 3), 6, 8)
    assert not holds_drawings(part)


def test_values_of_an_unknown_scale_fill_the_range() -> None:
    own = [(torch.tensor([[[-3.0, 5.0]]]), 0)]
    assert stored_image(own, 0).tolist() == [[[0.0, 1.0]]]  # type: ignore[arg-type]


def test_mnist_holds_drawings() -> None:
    assert holds_drawings(load_mnist(train=False))


@pytest.mark.pictures
@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_shows_photographs_as_they_are(channels: int) -> None:
    run = a_run()
    images = torch.randint(0, 256, (len(run.labels), channels, 4, 4), generator=GENERATOR).to(torch.uint8)
    run.__dict__["test"] = ArrayDataset(images, run.labels, mean=0.4, std=0.2)
    shown = prediction_examples(run)().axes[0].images
    for picture, index in zip(shown, run.illustrations.indices, strict=True):
        drawn = picture.to_rgba(picture.get_array(), norm=True)[..., :3]
        stored = images[index].permute(1, 2, 0).numpy() / 255
        np.testing.assert_allclose(drawn, np.broadcast_to(stored, drawn.shape), atol=1 / 128)
