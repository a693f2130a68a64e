"""Parts of a report as JSON, kept in the state folder so that a later command can put its own beside them."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kd.report.blocks import Block

FORMAT = 2  # of a kept part; another one is left out
_BLOCKS = {kind.__name__.lower(): kind for kind in get_args(Block)}


def to_json(part: Any) -> bytes:
    """The part as JSON; a block has its kind beside its fields."""
    return (json.dumps({"format": FORMAT, **_to_plain(part)}, indent=1) + "\n").encode()


def from_json(content: bytes, kind: type) -> Any:
    """The inverse of ``to_json``.

    Args:
        kind: the class of the part.

    Raises:
        ValueError: it is anything else.
    """
    found = json.loads(content)
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ValueError(f"it is not a part of format {FORMAT}")
    return _parse_record(found, kind)


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {field.name: _to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        name = type(value).__name__.lower()
        return {"block": name, **fields} if name in _BLOCKS else fields
    if isinstance(value, Mapping):
        return {name: _to_plain(entry) for name, entry in value.items()}
    return [_to_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _parse_record(found: Any, kind: type) -> Any:
    """A dataclass from its fields, each of them there and as it is declared."""
    hints = get_type_hints(kind)
    if not isinstance(found, dict) or found.keys() != hints.keys():
        raise ValueError(f"it should have {', '.join(hints)}")
    return kind(**{name: _parse_value(found[name], hint, name) for name, hint in hints.items()})


def _parse_value(found: Any, kind: Any, name: str) -> Any:
    """A value as it is declared.

    Args:
        name: of the field it is in, for the error message.
    """
    arguments = get_args(kind)
    if kind == Block:
        block = found.get("block") if isinstance(found, dict) else None
        if block not in _BLOCKS:
            raise ValueError(f"its {name} should be blocks of a report")
        return _parse_record({key: value for key, value in found.items() if key != "block"}, _BLOCKS[block])
    if dataclasses.is_dataclass(kind):
        return _parse_record(found, kind)  # type: ignore[arg-type]  # it is a class here
    if get_origin(kind) is tuple and isinstance(found, list):
        if arguments[-1] is ...:
            return tuple(_parse_value(entry, arguments[0], name) for entry in found)
        if len(found) == len(arguments):
            return tuple(_parse_value(entry, own, name) for entry, own in zip(found, arguments, strict=True))
    if get_origin(kind) is Mapping and isinstance(found, dict):
        return {key: _parse_value(value, arguments[1], name) for key, value in found.items()}
    if not _is_plain(found, kind):
        raise ValueError(f"its {name} is not as it is written")
    return found


def _is_plain(found: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return found in get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_is_plain(found, one) for one in get_args(kind))
    if kind is float:
        return type(found) in (int, float) and math.isfinite(found)
    return type(found) is kind
