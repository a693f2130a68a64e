"""The first bytes of image files: the bits per channel, or what stands in place of an image.

Decoders reduce deeper images to 8 bits, each in its own way.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from kd.storage.file_kind import START, explain_stand_in

GRAY, COLOUR = {"1", "L", "LA", "La"}, {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr"}
_HEAD = 65536  # bytes that hold the headers of the formats read here
_PNG_DEPTH = 24  # byte of the bit depth: after the signature, and length, type, width and height of the first chunk
_BITS_PER_SAMPLE = 258  # TIFF's tag
_MAXVAL = re.compile(rb"P[2356](?:\s+|#[^\n]*\n)+(?:\d+(?:\s+|#[^\n]*\n)+){2}(\d+)\s")


def explain_content(file: str | BinaryIO) -> str | None:
    """Return what a file that is no image is, such as a pointer of Git LFS; None if it is unknown."""
    if isinstance(file, str):
        with Path(file).open("rb") as stream:
            return explain_stand_in(stream.read(START))
    file.seek(0)
    return explain_stand_in(file.read(START))


def require_8_bits(image: Image.Image) -> None:
    """Raise ``ValueError`` if an opened image has more than 8 bits per channel, which a conversion would hide."""
    if image.mode not in GRAY | COLOUR:
        raise ValueError(f"mode {image.mode}, not 8 bits per channel")
    if is_undecoded(image) and (bits := bits_per_channel(image)) > 8:
        raise ValueError(f"{bits} bits per channel, not 8")


def is_undecoded(image: Image.Image) -> bool:
    """Return whether the image's file is still open, so that its header can be read."""
    return image.format is not None and getattr(image, "fp", None) is not None


def bits_per_channel(image: Image.Image) -> int:
    """Return the bits per channel in the header of an opened image file, which is not decoded; 8 if it has none."""
    match image.format:
        case "TIFF":
            bits: Any = image.tag_v2.get(_BITS_PER_SAMPLE, 1)  # type: ignore[attr-defined]  # of TiffImageFile
            return max(bits) if isinstance(bits, tuple) else int(bits)
        case "PNG":
            return _read_head(image)[_PNG_DEPTH]
        case "PPM":
            found = _MAXVAL.match(_read_head(image))
            return int(found[1]).bit_length() if found else 8
        case "AVIF":
            return _parse_avif(_read_head(image))
    return 8


def _parse_avif(head: bytes) -> int:
    _, found, configuration = head.partition(b"av1C")
    if not found or len(configuration) < 3:
        return 8
    is_high, is_twelve = configuration[2] & 0x40, configuration[2] & 0x20
    return (12 if is_twelve else 10) if is_high else 8


def _read_head(image: Image.Image) -> bytes:
    file = image.fp  # type: ignore[attr-defined]  # of ImageFile
    position = file.tell()
    file.seek(0, os.SEEK_SET)
    head: bytes = file.read(_HEAD)
    file.seek(position)
    return head
