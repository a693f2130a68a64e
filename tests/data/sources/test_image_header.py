"""The depth of images is read from their files: what a decoder reduces to 8 bits is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from kd.checks import DamagedDataError
from kd.data.sources.huggingface import open_huggingface
from kd.data.sources.image_cache import survey_once
from kd.data.sources.image_decoding import ImagePaths, open_image
from kd.data.sources.image_header import _parse_avif, bits_per_channel


def png(depth: int, colour: int, channels: int, side: int = 4) -> bytes:
    """Return a PNG file of any depth: Pillow writes no deep colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes((side * channels * depth + 7) // 8)
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * side)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(bits: int, channels: int, side: int = 4) -> bytes:
    """Return an uncompressed TIFF file."""
    data = bytes(side * side * channels * bits // 8)
    bits_offset = 8 + len(data)
    tags = [
        (256, 3, 1, side),
        (257, 3, 1, side),
        (258, 3, channels, bits if channels == 1 else bits_offset),
        (259, 3, 1, 1),
        (262, 3, 1, 1 if channels == 1 else 2),
        (273, 4, 1, 8),
        (277, 3, 1, channels),
        (278, 3, 1, side),
        (279, 4, 1, len(data)),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    end = data + struct.pack(f"<{channels}H", *[bits] * channels)
    return b"II*\0" + struct.pack("<I", 8 + len(end)) + end + directory


def ppm(kind: str, maxval: int, channels: int, comment: str = "") -> bytes:
    size = 16 * channels * (2 if maxval > 255 else 1)
    return f"{kind}\n{comment}4 4\n{maxval}\n".encode() + bytes(size)


DEEP = {
    "gray.png": (16, png(16, 0, 1)),
    "colour.png": (16, png(16, 2, 3)),
    "gray-alpha.png": (16, png(16, 4, 2)),
    "colour-alpha.png": (16, png(16, 6, 4)),
    "gray.tif": (16, tiff(16, 1)),
    "colour.tif": (16, tiff(16, 3)),
    "gray.pgm": (16, ppm("P5", 65535, 1)),
    "colour.ppm": (16, ppm("P6", 65535, 3)),
    "ten-bits.ppm": (10, ppm("P6", 1023, 3, "# by a camera\n")),
}
FLAT = {
    "1.png": (1, png(1, 0, 1)),
    "4.png": (4, png(4, 0, 1)),
    "gray.png": (8, png(8, 0, 1)),
    "colour.png": (8, png(8, 2, 3)),
    "colour.tif": (8, tiff(8, 3)),
    "colour.ppm": (8, ppm("P6", 255, 3, "# 65535 colours\n")),
}


@pytest.mark.parametrize(("name", "bits", "content"), [(name, *case) for name, case in {**DEEP, **FLAT}.items()])
def test_the_depth_is_that_of_the_file(name: str, bits: int, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with open_image(str(path)) as image:
        assert bits_per_channel(image) == bits
        image.load()  # reading the header does not disturb the decoder


@pytest.mark.parametrize("name", DEEP)
def test_images_of_more_than_8_bits_are_refused_with_their_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(DEEP[name][1])
    with pytest.raises(DamagedDataError, match=rf"{name} \((mode I|\d\d bits per channel).*not 8"):
        survey_once({"train": ImagePaths([path])}, None)


@pytest.mark.parametrize("name", FLAT)
def test_images_of_up_to_8_bits_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FLAT[name][1])
    assert survey_once({"train": ImagePaths([path])}, None).total == 1


@pytest.mark.parametrize(("flags", "bits"), [(0x0C, 8), (0x4C, 10), (0x6C, 12)])
def test_the_depth_of_an_avif_is_in_its_configuration(flags: int, bits: int) -> None:
    assert _parse_avif(b"\0\0\0\x20ftypavif....av1C\x81\x00" + bytes([flags])) == bits


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_written_by_pillow_has_8_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(path)
    assert survey_once({"train": ImagePaths([path])}, None).total == 1


# --- columns of Hugging Face datasets


def save(folder: Path, columns: dict[str, Any], **kinds: Any) -> str:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(columns)
    for name, kind in kinds.items():
        rows = rows.cast_column(name, kind(datasets))
    rows.save_to_disk(folder)
    return str(folder)


def encoded(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": None}


LABELS = [0, 1, 2] * 4
GOOD = [encoded(png(8, 2, 3))] * 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.mark.parametrize("decode", [True, False])
def test_images_are_read_whether_the_package_decodes_them_or_not(decode: bool, tmp_path: Path) -> None:
    where = save(tmp_path / "d", {"image": GOOD, "label": LABELS}, image=lambda d: d.Image(decode=decode))
    source = open_huggingface(where)
    assert len(source.train) == 12  # type: ignore[arg-type]
    assert source.train[0][0].shape == (3, 4, 4)


BAD_IMAGES = {
    "missing": (None, "train row 1 .the row has no image"),
    "deep": (encoded(png(16, 2, 3)), "train row 1 .16 bits per channel, not 8"),
    "of another format": (encoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%EndComments\n"), "train row 1 .its content is none of"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_an_image_that_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    image, message = BAD_IMAGES[kind]
    images = [GOOD[0], image, *GOOD[2:]]
    where = save(tmp_path / "d", {"image": images, "label": LABELS}, image=lambda d: d.Image())
    with pytest.raises(DamagedDataError, match=message):
        open_huggingface(where)


X = [[float(row), 1.0] for row in range(12)]
BAD_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "missing labels": ({"x": X, "label": [0, None, 1] * 4}, r"'label' must hold a label .* in 4 of 12 rows of train"),
    "several labels": ({"x": X, "label": [[0, 1], [2]] * 6}, r"'label' must hold one label.*Got \[0, 1\] in row 0"),
    "equally many labels": ({"x": X, "label": [[0, 1]] * 12}, r"'label' must hold one label per sample"),
    "missing inputs": ({"x": [None, *X[1:]], "label": LABELS}, r"'x' must hold a value .* Got none in row 0 of train"),
    "ragged inputs": ({"x": [*X[1:], [1.0]], "label": LABELS}, r"'x' must hold .* Got 1 values in row 11 of train"),
    "undecoded files": ({"x": [b"\x89PNG"] * 12, "label": LABELS}, r"'x' must hold numbers or images. Got bytes"),
    "undecoded rows": ({"x": GOOD, "label": LABELS}, r"'x' must hold numbers or images. Got dict.*datasets.Image"),
}


@pytest.mark.parametrize("kind", BAD_COLUMNS)
def test_a_column_that_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    columns, message = BAD_COLUMNS[kind]
    with pytest.raises(ValueError, match=message):
        open_huggingface(save(tmp_path / "d", columns))


def test_a_hidden_label_of_a_class_column_is_a_missing_one(tmp_path: Path) -> None:
    labels = [-1, *LABELS[1:]]
    where = save(tmp_path / "d", {"x": X, "label": labels}, label=lambda d: d.ClassLabel(names=["a", "b", "c"]))
    with pytest.raises(ValueError, match=r"Got none in 1 of 12 rows of train, the first in row 0"):
        open_huggingface(where)


def test_a_decoded_image_without_a_file_has_no_header_to_read() -> None:
    images: Any = SimpleNamespace(names=["a"], open=lambda _: Image.new("RGB", (4, 4)))
    assert survey_once({"train": images}, None).total == 1
