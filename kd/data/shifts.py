"""Test images changed in fixed ways: rotated, noisy, blurred. How do models do on images unlike the training images?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from kd.data.augmentation import AugmentedImages
from kd.data.datasets import ArrayDataset

IN_MEMORY = 512 * 1024**2  # bytes of changed images kept in memory; more are changed again for each model
_BATCH = 1_000

# Name, which is also that of the steps, and transform of a float image [C, H, W] in [0, 1].
SHIFTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rotation-15": v2.RandomRotation((15, 15), v2.InterpolationMode.BILINEAR),  # degrees; empty corners are black
    "noise-0.1": v2.GaussianNoise(sigma=0.1),  # of the range of pixels, clipped to it
    "blur-1": v2.GaussianBlur(kernel_size=7, sigma=(1.0, 1.0)),  # standard deviation in pixels
}


def shift_images(dataset: Dataset[Any]) -> dict[str, Dataset[Any]]:
    """Return the images changed in each way of ``SHIFTS``, in the same order and normalised alike.

    The changes are deterministic: the noise of an image depends on its index alone.

    Args:
        dataset: images stored as uint8, or a subset of such a dataset.

    Raises:
        ValueError: other data, or images of fewer than 4 × 4 pixels.
    """
    return {name: _change(dataset, transform) for name, transform in SHIFTS.items()}


def _change(dataset: Dataset[Any], transform: Callable[[Tensor], Tensor]) -> Dataset[Any]:
    composed = v2.Compose([v2.ToDtype(torch.float32, scale=True), transform])
    images = AugmentedImages(dataset, composed, views=1)
    height, width = images.base.inputs.shape[2:]
    if min(height, width) < 4:
        raise ValueError(f"the images must have at least 4 × 4 pixels. Got {height} × {width}.")
    size = len(images) * images.base.inputs[0].numel()
    if 4 * size > IN_MEMORY:
        return images
    batches = [images.__getitems__(range(i, min(i + _BATCH, len(images)))) for i in range(0, len(images), _BATCH)]
    inputs, labels = (torch.cat([batch.tensors[column] for batch in batches]) for column in (0, 1))
    return ArrayDataset(inputs, labels)
