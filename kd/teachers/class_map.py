"""Class maps: teachers with more, fewer or other classes than the data, restricted to the data's classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd.checks import did_you_mean, require, similar_paths
from kd.losses.labels import list_names
from kd.losses.precision import widen
from kd.storage.files import sha256
from kd.storage.tables import parse_text
from kd.storage.untrusted import read_bytes

HEADER = ("teacher", "data")
_LIMIT = 16 * 1024**2  # bytes
_NONE = -1  # pads the members of a class to the length of the longest list

# SHA-256 of each file as it was last read, by path: the file may change before a command records its settings.
_digests: dict[Path, str] = {}


class MapRow(NamedTuple):
    """A line of a class map: a class or output index of the teacher, and the data's class, "" for none."""

    line: int
    teacher: str
    data: str


def read_class_map(path: Path | str) -> list[MapRow]:
    """Read a class map from a CSV file in UTF-8 with a line for each class of the teacher that the data has.

    With the header ``teacher,data``, the columns may have any order and other columns are ignored. Without a header,
    each line has two cells: the teacher's class, then the data's class.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is too large, is not CSV in UTF-8, or has lines of another form.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with a class map. {similar_paths(path) or 'Check its path.'}")
    try:
        content = read_bytes(path, limit=_LIMIT)
        _digests[path] = sha256(content)
        return _parse_rows(parse_text(content))
    except ValueError as error:
        raise ValueError(f"invalid class map in {path}: {str(error).removesuffix('.')}.") from error


def digest_of_class_map(path: Path | None) -> str | None:
    """Return the SHA-256 of the file as last read; None without a file, or before it was read."""
    return None if path is None else _digests.get(path)


def _parse_rows(rows: Sequence[tuple[int, list[str]]]) -> list[MapRow]:
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    has_header = set(HEADER) <= set(header)
    teacher, data = (header.index(name) for name in HEADER) if has_header else (0, 1)
    width = len(header) if has_header else 2
    parsed = []
    for line, row in rows[has_header:]:
        if len(row) != width:
            cells = (
                f"{width} cells, like the header" if has_header else "two cells: the teacher's class, the data's class"
            )
            raise ValueError(f"line {line} should have {cells}. Got {len(row)}: {','.join(row)[:60]!r}")
        parsed.append(MapRow(line, row[teacher], row[data]))
    require(bool(parsed), "its number of lines", 0, "at least 2", "one for each class of the data")
    return parsed


def find_members(
    rows: Sequence[MapRow], class_names: Sequence[str], *, outputs: int, output_names: Sequence[str] | None = None
) -> list[list[int]]:
    """Return, for each class of the data, the indices of the teacher's outputs that the map assigns to it.

    Args:
        rows: the map, see ``read_class_map``.
        class_names: names of the data's classes in label order; numbers if they have no names.
        outputs: number of the teacher's outputs.
        output_names: names of these outputs; None if unknown: the map must then use indices, from 0.

    Raises:
        ValueError: a class is unknown, an index is out of range, an output is listed twice, or a class of the data has
            no output.
    """
    members: list[list[int]] = [[] for _ in class_names]
    line_of: dict[int, int] = {}
    for line, teacher, cell in rows:
        index = _find_output(
            _match(teacher, output_names or ()), outputs, output_names, f"line {line} of the class map"
        )
        data = _match(cell, class_names)
        if index in line_of:
            raise ValueError(
                f"line {line} of the class map repeats output {index} of the teacher, which line {line_of[index]} has "
                "already. Each output belongs to one class of the data; if a class of the teacher covers several, use "
                "--teacher-head fit."
            )
        line_of[index] = line
        if data and data not in class_names:
            hint = did_you_mean(data, class_names, f"Classes: {list_names(class_names)}.")
            raise ValueError(f"line {line} of the class map has {data!r}, which is no class of the data. {hint}")
        if data:
            members[list(class_names).index(data)].append(index)
    missing = [name for name, indices in zip(class_names, members, strict=True) if not indices]
    if missing:
        raise ValueError(
            f"the class map has no class of the teacher for {len(missing)} of {len(class_names)} classes of the data: "
            f"{list_names(missing)}. Add a line for each; if the teacher lacks such a class, use --teacher-head fit."
        )
    return members


def uses_indices(rows: Sequence[MapRow], output_names: Sequence[str] | None) -> bool:
    """Return whether a map has outputs of the teacher by index: lines that are none of its names."""
    return any(_match(row.teacher, output_names or ()) not in (output_names or ()) for row in rows)


def _match(cell: str, names: Sequence[str]) -> str:
    """Return the cell, without spaces around it unless a name has them."""
    return cell if cell in names else cell.strip()


def _find_output(cell: str, outputs: int, names: Sequence[str] | None, where: str) -> int:
    """Return the index of the output that a cell names; a name goes before an index."""
    if names is not None and cell in names:
        if Counter(names)[cell] > 1:
            indices = [index for index, name in enumerate(names) if name == cell]
            raise ValueError(f"{where} has {cell!r}, the name of several outputs of the teacher: use one of {indices}.")
        return list(names).index(cell)
    if cell.isascii() and cell.isdecimal():
        allowed = f"an output of the teacher, from 0 to {outputs - 1}"
        index = int(cell) if len(cell) < 19 else outputs  # longer ones are no index, and slow to convert
        require(index < outputs, f"{where}: {cell[:40]}", "no such output", allowed)
        return index
    if names is None:
        raise ValueError(
            f"{where} has {cell[:40]!r}, but the names of this teacher's outputs are not known. Use their indices, "
            f"from 0 to {outputs - 1}; a header is {','.join(HEADER)}."
        )
    hint = did_you_mean(cell, names, f"Classes: {list_names(names)}.")
    raise ValueError(f"{where} has {cell[:40]!r}, which is no class of the teacher. {hint}")


class MappedOutputs(nn.Module):
    """A model with the outputs of another, restricted to the classes of the data; the softmax renormalises them.

    Output k is the output of the wrapped model that belongs to class k, or the ``logsumexp`` of several, whose
    probabilities add up at temperature 1.

    Args:
        members: for each class, the indices of the model's outputs, at least one (``find_members``).
    """

    wraps = "model"  # see kd.models.features.find_network

    def __init__(self, model: nn.Module, members: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.model = model
        self.members: Tensor
        self.register_buffer("members", pad_members(members))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [B, K] of inputs [B, ...]."""
        return map_outputs(self.model(inputs), self.members)


def pad_members(members: Sequence[Sequence[int]]) -> Tensor:
    """Return the outputs of each class as a tensor [K, M] int64, padded with −1."""
    longest = max(map(len, members))
    return torch.tensor([[*indices, *[_NONE] * (longest - len(indices))] for indices in members])


def map_outputs(logits: Tensor, members: Tensor) -> Tensor:
    """Return the logits [N, K] of the data's classes.

    Args:
        logits: [N, outputs] of the teacher.
        members: [K, M] int64, the outputs of each class, padded with −1.
    """
    if members.shape[1] == 1:
        return logits.index_select(1, members[:, 0])
    picked = widen(logits)[:, members.clamp(min=0)]
    return picked.masked_fill(members < 0, -torch.inf).logsumexp(dim=2)


def measure_share_outside(logits: Tensor, members: Tensor) -> float:
    """Return the mean share of the teacher's probability, at temperature 1, that goes to outputs outside the map.

    Args:
        logits, members: see ``map_outputs``.
    """
    is_outside = torch.ones(logits.shape[1], dtype=torch.bool)
    is_outside[members[members >= 0].cpu()] = False
    chunks = [chunk.double().softmax(dim=1)[:, is_outside].sum(dim=1) for chunk in logits.cpu().split(4096)]  # type: ignore[no-untyped-call]
    return float(torch.cat(chunks).mean())


def describe_share_outside(share: float) -> str:
    """Return the share of probability outside the map in words."""
    return f"{share:.1%} of its probability went to classes that the data lacks"


def find_output_names(model: nn.Module, spec: str, outputs: int) -> list[str] | None:
    """Return the names of a teacher's outputs; None if they are not known.

    These are the model's attribute ``class_names``, or for a torchvision model with 1,000 outputs the classes of
    ImageNet-1k in the order of torchvision's weights.

    Raises:
        ValueError: ``class_names`` has another length.
    """
    names = getattr(model, "class_names", None)
    if names is not None:
        require(len(names) == outputs, f"class_names of {spec}", len(names), f"one name for each of {outputs} outputs")
        return list(map(str, names))
    if spec.startswith("torchvision:") and outputs == 1000:
        from torchvision.models import ResNet18_Weights  # slow, so only if needed

        return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return None
