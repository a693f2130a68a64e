"""Inputs for prediction from untrusted files: images, folders of images, arrays, tables, standard input.

The readers of the training data, which limit size and memory, read them one item at a time.
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kd.checks import similar_paths
from kd.data.sources.image_decoding import (
    ImageFormat,
    ImagePaths,
    Survey,
    collect_errors,
    decode_image,
    open_image,
    survey_images,
)
from kd.data.sources.image_folder import list_images, require_inside, warn_left_out
from kd.deploy.manifest import NAME as MANIFEST
from kd.deploy.rows import SUFFIXES, InputForm, read_rows
from kd.storage.resources import require_memory
from kd.storage.tables import CSV_LIMIT

STANDARD_INPUT = "-"
_SAID = "standard input"
_BYTES_PER_VALUE = 4  # the decoder's pixels in several modes


class Item(NamedTuple):
    """An input of the model, or why it cannot be used.

    Attributes:
        name: file, or file and row.
        values: raw input of the model's shape and type; None if it cannot be used.
        reason: why it cannot be used.
    """

    name: str
    values: Tensor | None
    reason: str = ""


class InputReader:
    """Reads the items of files and folders in their order, and counts how the images were changed to fit the model.

    Args:
        form: the model's inputs.
        ids: see ``kd.deploy.rows.read_rows``.
    """

    def __init__(self, form: InputForm, *, ids: str | None = None) -> None:
        self.form, self.ids = form, ids
        self._changes = Counter[str]()

    def read(self, sources: Sequence[str]) -> Iterator[Item]:
        """Yield the items of image files, folders of images, ``.npz``, ``.npy`` and ``.csv`` files, and ``-`` (stdin).

        The content decides which image format a file has, its name decides whether it is an array or a table. A source
        that cannot be read is an item with the reason. In a folder, all images at any depth are read, sorted by path; a
        warning counts the files that are left out.
        """
        for source in sources:
            if source == STANDARD_INPUT:
                yield from self._read_standard_input()
            else:
                yield from self._read_source(Path(source), source)

    def describe_changes(self) -> list[str]:
        """Return sentences on the images read so far that were scaled, converted or read only in part."""
        total = self._changes["read"]
        return [
            f"{count:,} of {total:,} images {change}." for change, count in self._changes.items() if change != "read"
        ]

    def _read_source(self, path: Path, name: str) -> Iterator[Item]:
        try:
            if (path / MANIFEST).is_file() or (path / "models" / MANIFEST).is_file():
                yield Item(name, None, "it is the folder of a model, not of inputs. Pass it as --model")
            elif path.is_dir():
                yield from (self._read_image(file, str(file)) for file in _list_folder(path))
            elif not path.exists():
                hint = similar_paths(path) or "Check its path."
                yield Item(name, None, f"there is no such file. {hint}")
            elif path.suffix.lower() in SUFFIXES:
                yield from self._read_rows(path, name)
            else:
                yield self._read_image(path, name)
        except (ValueError, OSError) as error:
            yield Item(name, None, _explain(error).replace(str(path), name))

    def _read_standard_input(self) -> Iterator[Item]:
        content = sys.stdin.buffer.read(CSV_LIMIT + 1)
        if not 0 < len(content) <= CSV_LIMIT:
            got = "nothing" if not content else f"more than {CSV_LIMIT:,} bytes"
            yield Item(_SAID, None, f"it should hold an image, an array or rows of a table. Got {got}")
            return
        with tempfile.TemporaryDirectory() as folder:  # so that the readers of files check it like any other file
            path = Path(folder, f"input{_find_suffix(content)}")
            path.write_bytes(content)
            yield from self._read_source(path, _SAID)

    def _read_image(self, path: Path, name: str) -> Item:
        if self.form.mode is None:
            rows = f"rows {self.form} ({', '.join(SUFFIXES)})" if self.form.table is None else "tables (.csv, .tsv)"
            return Item(name, None, f"the model takes no image files, but {rows}")
        form = ImageFormat(self.form.mode, (self.form.shape[1], self.form.shape[2]))
        require_memory(_BYTES_PER_VALUE * math.prod(form.shape), "an image of the model's size")
        images = ImagePaths([path])
        survey, reasons = survey_images(images, [0])
        if not reasons:
            with collect_errors(reasons) as catch, catch(0), images.open(0) as image:
                values = torch.from_numpy(decode_image(image, form).copy())
        if reasons:
            return Item(name, None, reasons[0])
        self._changes["read"] += 1
        self._changes.update(_list_changes(survey, form))
        return Item(name, values)

    def _read_rows(self, path: Path, name: str) -> Iterator[Item]:
        inputs, names = read_rows(path, self.form, ids=self.ids)
        for values, row in zip(inputs, names, strict=True):
            is_usable = self.form.table is not None or not values.is_floating_point() or bool(values.isfinite().all())
            problem = "" if is_usable else "it has NaN, infinity or a number beyond float32"
            yield Item(f"{name}: {row}", values if is_usable else None, problem)


def _list_changes(survey: Survey, form: ImageFormat) -> list[str]:
    """Return how a single image was changed to fit the model, as ends of a sentence."""
    (height, width), is_gray = form.size, bool(survey.gray)
    changes = {
        f"were scaled and cropped to {height} × {width} pixels": survey.sizes[0][:2] != form.size,
        f"were {'converted from gray to RGB' if is_gray else 'coloured and converted to gray'}": is_gray
        != (form.mode == "L"),
        "have transparency, which was dropped": bool(survey.transparent),
        "have further pages or frames; only the first was read": bool(survey.several),
    }
    return [change for change, applies in changes.items() if applies]


def _list_folder(folder: Path) -> list[Path]:
    left_out = Counter[str]()
    paths = list_images(folder, left_out)
    warn_left_out(folder, left_out)
    if not paths:
        raise ValueError("the folder holds no image files, directly or in subfolders")
    require_inside(folder, paths)
    return paths


def _find_suffix(content: bytes) -> str:
    """Return the ending of a file with this content: an array, an image, or otherwise a table."""
    if content.startswith((b"PK", b"\x93NUMPY")):
        return ".npz" if content.startswith(b"PK") else ".npy"
    try:
        with warnings.catch_warnings(action="ignore"), open_image(io.BytesIO(content)):
            return ".image"
    except Exception:  # Pillow's parsers raise errors of any type
        return ".csv"


def _explain(error: ValueError | OSError) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return reason.removesuffix(".")
