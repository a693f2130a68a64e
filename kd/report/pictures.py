"""Samples of a dataset as pictures: stored pixels, in colour, and dark on light only if they are drawings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd.data.datasets import ArrayDataset, length_of, unwrap_subsets

_SAMPLES = 64  # images that decide whether a dataset holds drawings
_EMPTY = 0.1  # share of an image's range of values that counts as background


def stored_image(dataset: Dataset[Any], index: int) -> Tensor:
    """Return an image [C, H, W] with values in [0, 1], without the dataset's normalisation.

    Values of another range, such as those of a user's own dataset, are scaled so that they fill [0, 1].
    """
    base, rows = unwrap_subsets(dataset)
    image = base.inputs[rows[index]] if isinstance(base, ArrayDataset) else dataset[index][0]
    if image.dtype == torch.uint8:
        return image.double() / 255
    image = image.detach().cpu().double()
    low, high = float(image.min()), float(image.max())
    return image if low >= 0 and 0.5 <= high <= 1 else (image - low) / max(high - low, 1e-12)


def holds_drawings(dataset: Dataset[Any]) -> bool:
    """Return whether most pixels of the images, of one channel each, are black background, as in MNIST.

    Such images are shown as dark ink on light paper. Grey photographs would be negatives.
    """
    count = length_of(dataset)
    images = [stored_image(dataset, index) for index in range(0, count, -(-count // _SAMPLES))]
    if any(len(image) != 1 for image in images):
        return False
    return float(torch.stack([(image <= _EMPTY).double().mean() for image in images]).mean()) > 0.5


def to_pixels(image: Tensor) -> Tensor:
    """Return the colours [3, H, W] of an image [C, H, W], or its grey values [1, H, W] unless C is 3 or 4."""
    return image[:3] if len(image) in {3, 4} else image.mean(dim=0, keepdim=True)
