"""``--class-weights``: weights of the classes in the label term, balanced or from a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kd.checks import did_you_mean, naming_flag, require
from kd.commands.recipe_settings import BALANCED
from kd.losses.labels import balanced_weights, list_names
from kd.storage.files import sha256
from kd.storage.untrusted import read_bytes

HEADER = ["class", "weight"]
_LIMIT = 64 * 1024**2  # bytes

# SHA-256 of each file as it was last read, by path: the file may change before a command records its settings.
_digests: dict[Path, str] = {}


def class_weights(chosen: str | None, labels: Tensor, classes: Sequence[str]) -> Tensor | None:
    """Return the weights [K] float32 of the classes; None weights all equally.

    Args:
        chosen: ``balanced`` or the path of a file, see ``read_class_weights``.
        labels: labels of the training split, [N] int64.
        classes: class names in label order.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has another form, or a class has no training samples to balance.
    """
    if chosen is None:
        return None
    with naming_flag(f"--class-weights {chosen}"):
        return balanced_weights(labels, classes) if chosen == BALANCED else read_class_weights(Path(chosen), classes)


def digest_of_class_weights(chosen: str | None) -> str | None:
    """Return the SHA-256 of the file of weights as last read; None without a file, or before it was read."""
    return None if chosen is None else _digests.get(Path(chosen))


def read_class_weights(path: Path, classes: Sequence[str]) -> Tensor:
    """Read a weight for each class from a CSV file.

    Args:
        path: CSV in UTF-8 with the header ``class,weight`` and a row for each class, in any order.
        classes: class names in label order; numbers if the classes have no names.
    """
    try:
        content = read_bytes(path, limit=_LIMIT)
        _digests[path], text = sha256(content), content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be CSV in UTF-8. Byte {error.start} is not.") from error
    reader = csv.reader(io.StringIO(text), strict=True)
    weights: dict[str, float] = {}
    try:
        header = [cell.strip() for cell in next(reader, [])]
        require(header == HEADER, f"line 1 of {path}", header, f"the header {','.join(HEADER)}")
        for row in reader:
            if row:
                name, weight = _parse_row(row, f"line {reader.line_num} of {path}", classes)
                require(name not in weights, f"line {reader.line_num} of {path}", name, "a class without a weight yet")
                weights[name] = weight
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {path} is no valid CSV: {error}.") from error
    missing = [name for name in classes if name not in weights]
    require(not missing, f"classes without a weight in {path}", list_names(missing), "none", "add a line for each")
    return torch.tensor([weights[name] for name in classes])


def _parse_row(row: Sequence[str], line: str, classes: Sequence[str]) -> tuple[str, float]:
    require(len(row) == len(HEADER), line, f"{len(row)} cells", "a class and its weight")
    name, text = (row[0] if row[0] in classes else row[0].strip()), row[1].strip()
    if name not in classes:
        hint = did_you_mean(name, classes, f"Classes: {list_names(classes)}.")
        raise ValueError(f"{line} has a weight for {name!r}, which is no class of the data. {hint}")
    try:
        weight = float(torch.tensor(float(text)))  # as float32: a smaller or larger number would be 0 or infinite
    except ValueError:
        weight = math.nan
    require(0 < weight < math.inf, f"the weight of {name} in {line}", text, "a finite number above 0")
    return name, weight
