"""Image decoding: find the common mode and size of encoded images, and convert them to it."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps, UnidentifiedImageError

from kd.checks import DamagedDataError
from kd.data.sources.image_header import GRAY, explain_content, require_8_bits

TRANSPARENT = {"LA", "La", "RGBA", "RGBa", "PA"}
# Formats that are read, whatever the ending of a file's name. Not EPS, whose decoder starts Ghostscript, and none that
# Pillow reads through another program.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
_METADATA = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # keys of ``Image.info`` with an orientation
_PNG_METADATA = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}  # chunks
_MAX_SHOWN = 3
_TURNED = {5, 6, 7, 8}  # EXIF orientations that exchange height and width
_REDUCTION_GAP = 2  # Pillow's advice: a JPEG decoded at twice the target size is scaled almost like the full image

Size = tuple[int, int]  # height, width
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class ImageCollection(Protocol):
    """The encoded images of one split."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the images in messages."""

    def open(self, row: int) -> Image.Image:
        """Open an image, without decoding its pixels if possible."""

    def stamps(self) -> Sequence[object] | None:
        """Return JSON data that differs whenever an image may have changed; None if this is unknown."""


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
        return open_image(self.names[row])

    def stamps(self) -> list[object]:
        return stamp_files(self.names)


def open_image(file: str | BinaryIO) -> Image.Image:
    """Open an image in one of ``FORMATS`` and read its header only.

    Raises:
        ValueError: the content has another format.
    """
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(explain_content(file) or f"its content is none of {', '.join(FORMATS)}") from error
    if image.format == "TIFF":
        # With a name, Pillow would map uncompressed pixels into memory, and read rows of the upright image's width.
        image.filename = ""
    return image


@contextmanager
def without_ghostscript() -> Iterator[None]:
    """Inside the block, Pillow raises ``ValueError`` for EPS, also if other packages call it, and starts no program."""
    before = EpsImagePlugin.gs_binary
    EpsImagePlugin.gs_binary = False
    try:
        yield
    except OSError as error:
        if "Ghostscript" not in str(error):
            raise
        raise ValueError(f"its content is EPS, none of {', '.join(FORMATS)}") from error
    finally:
        EpsImagePlugin.gs_binary = before


class ImageFormat(NamedTuple):
    """The mode and size to which every image is converted."""

    mode: str  # "L" or "RGB"
    size: Size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape [C, H, W] of an image."""
        return (1 if self.mode == "L" else 3, *self.size)


class Survey(NamedTuple):
    """Content of the headers of some images.

    Attributes:
        sizes: number of upright images by [height, width].
        gray: number of gray images.
        transparent: number of images with transparency.
        several: number of files with further pages or frames.
    """

    sizes: list[tuple[int, int, int]]  # height, width, count
    gray: int
    transparent: int
    several: int

    @property
    def total(self) -> int:
        """Number of images."""
        return sum(count for _, _, count in self.sizes)


def stamp_files(names: Iterable[str]) -> list[object]:
    """Return path, size and times of each file. A file that was replaced or edited has another ``ctime``.

    The paths are absolute, without symbolic links to folders, so that they do not depend on how the user typed them.
    """
    resolve_folder = cache(os.path.realpath)
    return [_stamp_file(os.path.join(resolve_folder(folder), name)) for folder, name in map(os.path.split, names)]  # noqa: PTH118  # as below


def _stamp_file(path: str) -> list[object]:
    try:
        status = os.stat(path)  # noqa: PTH116  # half the time of Path.stat, for a million files
    except OSError:
        return [path]
    return [path, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def survey_images(images: ImageCollection, rows: Iterable[int]) -> tuple[Survey, dict[int, str]]:
    """Read the headers of some images; also return, by row, why one cannot be used, such as 16 bits per channel."""
    sizes: Counter[Size] = Counter()
    gray = transparent = several = 0
    reasons: dict[int, str] = {}
    with collect_errors(reasons) as catch:
        for row in rows:
            with catch(row), images.open(row) as image:
                require_8_bits(image)
                sizes[_upright_size(image)] += 1
                gray += image.mode in GRAY
                transparent += image.mode in TRANSPARENT or "transparency" in image.info
                several += _has_frames(image)
    return _make_survey(sizes, gray, transparent, several), reasons


def add_surveys(surveys: Iterable[Survey]) -> Survey:
    """Return the survey of the images of all surveys."""
    sizes: Counter[Size] = Counter()
    others = [0, 0, 0]
    for survey in surveys:
        for height, width, count in survey.sizes:
            sizes[height, width] += count
        others = [total + number for total, number in zip(others, survey[1:], strict=True)]
    return _make_survey(sizes, *others)


def _make_survey(sizes: Counter[Size], gray: int, transparent: int, several: int) -> Survey:
    return Survey([(*size, count) for size, count in sizes.most_common()], gray, transparent, several)


def choose_format(survey: Survey, size: Size | None) -> ImageFormat:
    """Return the common mode and size of the images.

    Gray images among coloured ones become RGB, transparency is dropped, and only the first page or frame is read, each
    with a warning.

    Raises:
        ValueError: images of several sizes and no ``size``, or a size below 1.
    """
    total = survey.total
    if 0 < survey.gray < total:
        warnings.warn(
            f"{survey.gray:,} of {total:,} images are gray and are converted to RGB like the others.", stacklevel=3
        )
    if survey.transparent:
        warnings.warn(f"{survey.transparent:,} of {total:,} images have transparency, which is dropped.", stacklevel=3)
    if survey.several:
        warnings.warn(
            f"{survey.several:,} of {total:,} image files have further pages or frames; only the first is read.",
            stacklevel=3,
        )
    if size is None and len(survey.sizes) > 1:
        height, width, count = survey.sizes[0]
        raise ValueError(
            f"images must have the same size. Got {len(survey.sizes)} sizes; {count:,} of {total:,} images have "
            f"{height} × {width} pixels (height × width). Scale and crop all images with size (--image-size)."
        )
    target = size or next(((height, width) for height, width, _ in survey.sizes), (1, 1))
    if min(target) < 1:
        raise ValueError(f"size (--image-size) must be at least 1 × 1. Got {target[0]} × {target[1]} instead.")
    return ImageFormat("L" if survey.gray == total else "RGB", target)


def decode_image(image: Image.Image, form: ImageFormat) -> Pixels:
    """Decode an opened image to [C, H, W] uint8: upright, converted to the mode, scaled and cropped to the size."""
    orientation = _read_orientation(image)
    _reduce(image, form.size, _upright_size(image))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about converting directly to another mode
    image = image.convert(form.mode)
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    height, width = form.size
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1))


def _reduce(image: Image.Image, target: Size, upright: Size) -> None:
    """Let a JPEG's decoder skip resolution: it decodes to 1/2, 1/4 or 1/8 of the size in much less time."""
    scale = min(upright[0] / target[0], upright[1] / target[1]) / _REDUCTION_GAP
    if scale >= 2:
        image.draft(None, (int(image.width / scale), int(image.height / scale)))


def _has_frames(image: Image.Image) -> bool:
    """Return whether the file has further pages or frames. Previews inside a camera's JPEG (MPO) are none."""
    return image.format != "MPO" and getattr(image, "n_frames", 1) > 1


def _upright_size(image: Image.Image) -> Size:
    turned = _read_orientation(image) in _TURNED
    return (image.width, image.height) if turned else (image.height, image.width)


def _read_orientation(image: Image.Image) -> int:
    """Return the orientation in the image's EXIF or XMP data, 1 for upright."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    if image.format == "PNG" and not image.info.keys() & _METADATA and not _has_late_metadata(image):
        return 1  # Pillow would decode the whole image to look for metadata after the pixels
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _has_late_metadata(image: Image.Image) -> bool:
    """Return whether a PNG file has metadata after the pixels, where ExifTool writes them; no pixels are decoded."""
    file: BinaryIO | None = getattr(image, "fp", None)  # None if the image was decoded already
    if file is None:
        return False
    start, after_pixels = file.tell(), False
    try:
        file.seek(8)  # the signature
        while len(header := file.read(8)) == 8:
            after_pixels = after_pixels or header[4:] == b"IDAT"
            if after_pixels and header[4:] in _PNG_METADATA:
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, os.SEEK_CUR)  # with its checksum
        return False
    finally:
        file.seek(start)


@contextmanager
def collect_errors(reasons: dict[int, str]) -> Iterator[Callable[[int], AbstractContextManager[None]]]:
    """Yield ``catch``: an error inside ``with catch(row)`` is recorded as the row's reason instead of raised.

    Pillow only warns about extremely large images (decompression bombs); here they are errors.
    """

    @contextmanager
    def catch(row: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Pillow's decoders raise errors of any type
            reasons[row] = str(error) or type(error).__name__

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield catch


def require_readable(names: Sequence[str], reasons: Mapping[int, str]) -> None:
    """Raise ``DamagedDataError`` if there is a reason why an image cannot be read; the message names the first few."""
    if not reasons:
        return
    first = "; ".join(f"{names[row]} ({reasons[row]})" for row in sorted(reasons)[:_MAX_SHOWN])
    more = f" and {len(reasons) - _MAX_SHOWN:,} more" if len(reasons) > _MAX_SHOWN else ""
    raise DamagedDataError(
        f"{len(reasons):,} of {len(names):,} images cannot be read: {first}{more}. Replace or remove them."
    )
