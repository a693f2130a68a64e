"""Images that others have encoded: surveyed, and decoded in one mode and size."""

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
_SHOWN = 3

Size = tuple[int, int]  # height, width


class ImageCollection(Protocol):
    """The images of one part, not yet decoded."""

    @property
    def names(self) -> Sequence[str]:
        """What each is called in a message."""

    def open(self, row: int) -> Image.Image:
        """One of them; decodes no pixels yet where it can be helped."""


class ImagePaths:
    """Image files, opened one by one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.names = [str(path) for path in paths]

    def open(self, row: int) -> Image.Image:
        """Only the header is read.

        Raises:
            OSError: no regular file: a named pipe would be waited for without end.
        """
        if not Path(self.names[row]).is_file():
            raise OSError("it is not a regular file")
        return Image.open(self.names[row])

    def digest(self, row: int) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(read_bytes(Path(self.names[row]).resolve())).hexdigest()


class ImageFormat(NamedTuple):
    """What every image is brought to."""

    mode: str  # "L" or "RGB"
    size: Size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image, channels first."""
        return (1 if self.mode == "L" else 3, *self.size)


def find_common_format(parts: Mapping[str, ImageCollection], size: Size | None) -> ImageFormat:
    """The mode and size of all images; gray ones among others become RGB, transparency is dropped, and both are told.

    Raises:
        ValueError: several sizes, and none given; a size below 1.
        DamagedDataError: images whose headers cannot be read, or with more than 8 bits per channel.
    """
    sizes, gray, clear = _surveyed(parts)
    total = sizes.total()
    if 0 < gray < total:
        warnings.warn(f"{gray:,} of {total:,} images are gray: they become RGB, as the others are.", stacklevel=3)
    if clear:
        warnings.warn(f"{clear:,} of {total:,} images have transparency, which is dropped.", stacklevel=3)
    if size is None and len(sizes) > 1:
        (common, most), *_ = sizes.most_common(1)
        raise ValueError(
            f"images must have one size, or be given one. Got {len(sizes)} sizes; {most:,} of {total:,} have "
            f"{common[0]} × {common[1]} pixels (height × width). Give a size: all are scaled and cropped to it."
        )
    chosen = size or next(iter(sizes), (1, 1))
    if min(chosen) < 1:
        raise ValueError(f"size must be at least 1 × 1. Got {chosen[0]} × {chosen[1]} instead.")
    return ImageFormat("L" if gray == total else "RGB", chosen)


def decode(pictures: ImageCollection, form: ImageFormat, rows: Sequence[int] | None = None) -> Tensor:
    """[B, C, H, W] uint8: of all images, or of these rows.

    Raises:
        DamagedDataError: images that cannot be decoded; names the first of them.
    """
    chosen = range(len(pictures.names)) if rows is None else rows
    images = torch.empty((len(chosen), *form.shape), dtype=torch.uint8)
    with _collecting(pictures.names) as broken:
        for place, row in enumerate(chosen):
            with broken(row), pictures.open(row) as image:
                pixels = np.asarray(_formed(image, form))
                images[place] = torch.from_numpy(pixels.reshape(*form.size, -1).transpose(2, 0, 1).copy())
    return images


def _formed(image: Image.Image, form: ImageFormat) -> Image.Image:
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of any other way
    image = image.convert(form.mode)
    height, width = form.size
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)


def _surveyed(parts: Mapping[str, ImageCollection]) -> tuple[Counter[Size], int, int]:
    """How many images have which size, are gray, and have transparency: from their headers."""
    sizes: Counter[Size] = Counter()
    gray = clear = 0
    for pictures in parts.values():
        with _collecting(pictures.names) as broken:
            for row in range(len(pictures.names)):
                with broken(row), pictures.open(row) as image:
                    if image.mode not in GRAY | COLOUR:
                        raise ValueError(f"mode {image.mode}, not 8 bits per channel")
                    sizes[image.height, image.width] += 1
                    gray += image.mode in GRAY
                    clear += image.mode in TRANSPARENT or "transparency" in image.info
    return sizes, gray, clear


@contextmanager
def _collecting(names: Sequence[str]) -> Iterator[Callable[[int], Any]]:
    """Yields a context for each row, which notes an error in it; at the end all errors are one.

    An image that is far larger than any photograph is an error too: Pillow only warns of it.
    """
    reasons: dict[int, str] = {}

    @contextmanager
    def noting(row: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Pillow's decoders raise whatever they meet
            reasons[row] = str(error) or type(error).__name__

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield noting
    if reasons:
        first = "; ".join(f"{names[row]} ({reason})" for row, reason in list(reasons.items())[:_SHOWN])
        more = f" and {len(reasons) - _SHOWN:,} more" if len(reasons) > _SHOWN else ""
        raise DamagedDataError(
            f"{len(reasons):,} of {len(names):,} images cannot be read: {first}{more}. Replace or remove them."
        )
