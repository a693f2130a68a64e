"""Image decoding: find the common mode and size of encoded images, and convert them to it."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kd.checks import DamagedDataError
from kd.storage.untrusted import read_bytes

GRAY, COLOUR = {"1", "L", "LA", "La"}, {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr"}
TRANSPARENT = {"LA", "La", "RGBA", "RGBa", "PA"}
_MAX_SHOWN = 3

Size = tuple[int, int]  # height, width


class ImageCollection(Protocol):
    """The encoded images of one split."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the images in messages."""

    def open(self, row: int) -> Image.Image:
        """Open an image, without decoding its pixels if possible."""


class ImagePaths:
    """Image files on disk."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.names = [str(path) for path in paths]

    def open(self, row: int) -> Image.Image:
        """Open an image file and read its header only.

        Raises:
            OSError: not a regular file (reading a named pipe would block forever).
        """
        if not Path(self.names[row]).is_file():
            raise OSError("it is not a regular file")
        return Image.open(self.names[row])

    def digest(self, row: int) -> str:
        """Return the SHA-256 of an image file."""
        return hashlib.sha256(read_bytes(Path(self.names[row]).resolve())).hexdigest()


class ImageFormat(NamedTuple):
    """The mode and size to which every image is converted."""

    mode: str  # "L" or "RGB"
    size: Size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [C, H, W] of an image."""
        return (1 if self.mode == "L" else 3, *self.size)


def find_common_format(splits: Mapping[str, ImageCollection], size: Size | None) -> ImageFormat:
    """Return the common mode and size of all images.

    Gray images among coloured ones become RGB, and transparency is dropped, both with a warning.

    Raises:
        ValueError: images of several sizes and no ``size``, or a size below 1.
        DamagedDataError: images whose headers cannot be read, or with more than 8 bits per channel.
    """
    sizes, gray, transparent = _survey(splits)
    total = sizes.total()
    if 0 < gray < total:
        warnings.warn(f"{gray:,} of {total:,} images are gray and are converted to RGB like the others.", stacklevel=3)
    if transparent:
        warnings.warn(f"{transparent:,} of {total:,} images have transparency, which is dropped.", stacklevel=3)
    if size is None and len(sizes) > 1:
        (common, count), *_ = sizes.most_common(1)
        raise ValueError(
            f"images must have the same size. Got {len(sizes)} sizes; {count:,} of {total:,} images have "
            f"{common[0]} × {common[1]} pixels (height × width). Scale and crop all images with size (--image-size)."
        )
    target = size or next(iter(sizes), (1, 1))
    if min(target) < 1:
        raise ValueError(f"size (--image-size) must be at least 1 × 1. Got {target[0]} × {target[1]} instead.")
    return ImageFormat("L" if gray == total else "RGB", target)


def decode(images: ImageCollection, form: ImageFormat, rows: Sequence[int] | None = None) -> Tensor:
    """Decode all images, or the given rows, to [B, C, H, W] uint8.

    Raises:
        DamagedDataError: images that cannot be decoded; the message names the first few.
    """
    selected_rows = range(len(images.names)) if rows is None else rows
    decoded = torch.empty((len(selected_rows), *form.shape), dtype=torch.uint8)
    with _collect_errors(images.names) as catch:
        for index, row in enumerate(selected_rows):
            with catch(row), images.open(row) as image:
                pixels = np.asarray(_convert(image, form))
                decoded[index] = torch.from_numpy(pixels.reshape(*form.size, -1).transpose(2, 0, 1).copy())
    return decoded


def _convert(image: Image.Image, form: ImageFormat) -> Image.Image:
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about converting directly to another mode
    image = image.convert(form.mode)
    height, width = form.size
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)


def _survey(splits: Mapping[str, ImageCollection]) -> tuple[Counter[Size], int, int]:
    """Read all headers and return the number of images by size, of gray images and of images with transparency."""
    sizes: Counter[Size] = Counter()
    gray = transparent = 0
    for images in splits.values():
        with _collect_errors(images.names) as catch:
            for row in range(len(images.names)):
                with catch(row), images.open(row) as image:
                    if image.mode not in GRAY | COLOUR:
                        raise ValueError(f"mode {image.mode}, not 8 bits per channel")
                    sizes[image.height, image.width] += 1
                    gray += image.mode in GRAY
                    transparent += image.mode in TRANSPARENT or "transparency" in image.info
    return sizes, gray, transparent


@contextmanager
def _collect_errors(names: Sequence[str]) -> Iterator[Callable[[int], Any]]:
    """Yield ``catch``, for use as ``with catch(row)``, which records the row's error; on exit, raise all as one error.

    Pillow only warns about extremely large images (decompression bombs); here they are errors.
    """
    reasons: dict[int, str] = {}

    @contextmanager
    def catch(row: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Pillow's decoders raise errors of any type
            reasons[row] = str(error) or type(error).__name__

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield catch
    if reasons:
        first = "; ".join(f"{names[row]} ({reason})" for row, reason in list(reasons.items())[:_MAX_SHOWN])
        more = f" and {len(reasons) - _MAX_SHOWN:,} more" if len(reasons) > _MAX_SHOWN else ""
        raise DamagedDataError(
            f"{len(reasons):,} of {len(names):,} images cannot be read: {first}{more}. Replace or remove them."
        )
