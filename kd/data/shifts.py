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

IN_MEMORY = 1024**3  # bytes of changed images kept in memory, by all processes; more are changed again for each model
_BATCH = 1_000

# Name, which is also that of the steps, and transform of a float image [C, H, W] in [0, 1].
SHIFTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rotation-15": v2.RandomRotation((15, 15), v2.InterpolationMode.BILINEAR),  # degrees; empty corners are black
    "noise-0.1": v2.GaussianNoise(sigma=0.1),  # of the range of pixels, clipped to it
    "blur-1": v2.GaussianBlur(kernel_size=7, sigma=(1.0, 1.0)),  # standard deviation in pixels
}


def shift_images(dataset: Dataset[Any], *, copies: int = 1) -> dict[str, Dataset[Any]]:
    """Return the images changed in each way of ``SHIFTS``, in the same order and normalised alike.

    The changes are deterministic: the noise of an image depends on its index alone.

    Args:
        dataset: images stored as uint8, or a subset of such a dataset.
        copies: number of copies of the result that all processes hold together.

    Raises:
        ValueError: see ``require_images``.
    """
    require_images(dataset)
    changed = {
        name: AugmentedImages(dataset, v2.Compose([v2.ToDtype(torch.float32, scale=True), transform]), views=1)
        for name, transform in SHIFTS.items()
    }
    size = 4 * sum(len(images) * images.base.inputs[0].numel() for images in changed.values())
    if copies * size > IN_MEMORY:
        return {**changed}
    return {name: _compute(images) for name, images in changed.items()}


def require_images(dataset: Dataset[Any]) -> None:
    """Raise ``ValueError`` unless the dataset consists of images stored as uint8, of at least 4 × 4 pixels."""
    height, width = AugmentedImages(dataset, v2.Identity(), views=1).base.inputs.shape[2:]
    if min(height, width) < 4:
        raise ValueError(f"the images must have at least 4 × 4 pixels. Got {height} × {width}.")


def _compute(images: AugmentedImages) -> Dataset[Any]:
    batches = [images.__getitems__(range(i, min(i + _BATCH, len(images)))) for i in range(0, len(images), _BATCH)]
    inputs, labels = (torch.cat([batch.tensors[column] for batch in batches]) for column in (0, 1))
    return ArrayDataset(inputs, labels)
