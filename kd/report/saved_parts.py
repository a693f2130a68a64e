"""Report parts as JSON, saved in the state folder so that later commands can combine them with their own part."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kd.report.blocks import Block
from kd.storage.files import sha256

FORMAT = 2  # version of saved parts; parts of a different version are skipped
_BLOCKS = {kind.__name__.lower(): kind for kind in get_args(Block)}


def to_json(part: Any) -> bytes:
    """Return the part as JSON. Each block is saved as its fields and its kind, under ``block``."""
    content = _to_plain(part)
    return (json.dumps({"format": FORMAT, "sha256": _digest(content), **content}, indent=1) + "\n").encode()


def from_json(content: bytes, kind: type) -> Any:
    """Return the part saved by ``to_json``.

    Args:
        kind: class of the part.

    Raises:
        ValueError: the content is not a part of this class in the current format, or was changed.
    """
    data = json.loads(content)
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise ValueError(f"it is not a report part of format {FORMAT}")
    recorded = data.pop("sha256", None)  # missing in parts of earlier versions
    if recorded is not None and recorded != _digest(data):
        raise ValueError("it was changed after it was saved. Repeat its command")
    return _parse_record(data, kind)


def _digest(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode())


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {field.name: _to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        name = type(value).__name__.lower()
        return {"block": name, **fields} if name in _BLOCKS else fields
    if isinstance(value, Mapping):
        return {name: _to_plain(entry) for name, entry in value.items()}
    return [_to_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _parse_record(value: Any, kind: type) -> Any:
    """Build a dataclass from its declared fields; those with a default may be missing, as in older files."""
    hints = get_type_hints(kind)
    required = {field.name for field in dataclasses.fields(kind) if _has_no_default(field)}
    if not isinstance(value, dict) or not required <= value.keys() <= hints.keys():
        raise ValueError(f"it should have the fields {', '.join(hints)}")
    return kind(**{name: _parse_value(entry, hints[name], name) for name, entry in value.items()})


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _parse_value(value: Any, kind: Any, name: str) -> Any:
    """Convert a value to its declared type.

    Args:
        name: name of the field, for the error message.
    """
    arguments = get_args(kind)
    if kind == Block:
        block = value.get("block") if isinstance(value, dict) else None
        if block not in _BLOCKS:
            raise ValueError(f"its {name} should contain report blocks")
        return _parse_record({key: entry for key, entry in value.items() if key != "block"}, _BLOCKS[block])
    if dataclasses.is_dataclass(kind):
        return _parse_record(value, kind)  # type: ignore[arg-type]  # a class, not an instance
    if get_origin(kind) is tuple and isinstance(value, list):
        if arguments[-1] is ...:
            return tuple(_parse_value(entry, arguments[0], name) for entry in value)
        if len(value) == len(arguments):
            return tuple(_parse_value(entry, argument, name) for entry, argument in zip(value, arguments, strict=True))
    if get_origin(kind) is Mapping and isinstance(value, dict):
        return {key: _parse_value(entry, arguments[1], name) for key, entry in value.items()}
    if not _is_plain(value, kind):
        raise ValueError(f"its {name} has an invalid type or value")
    return value


def _is_plain(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_is_plain(value, member) for member in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind
