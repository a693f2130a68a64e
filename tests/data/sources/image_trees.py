"""Folders of images for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd.data.datasets import ArrayDataset


def save_image(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 5), seed: int = 0) -> Path:
    """Save an image of random pixels; ``size`` is (height, width), and ``.png`` is lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def save_tree(
    folder: Path, *splits: str, per_class: int = 6, mode: str = "RGB", size: tuple[int, int] = (6, 5)
) -> Path:
    seed = 0
    for split in splits or ("",):
        for name in ("ant", "bee"):
            for number in range(per_class):
                save_image(folder / split / name / f"{number}.png", mode, size, seed := seed + 1)
    return folder


def as_array_dataset(dataset: Any) -> ArrayDataset:
    assert isinstance(dataset, ArrayDataset)
    return dataset
