"""Paths in a settings file: relative ones count from the folder of the file, wherever the command runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kd.commands.recipe_settings import BALANCED
from kd.commands.teacher_flags import OUTPUT_KINDS, PRETRAINED, split_entry
from kd.imports import is_plugin

Move = Callable[[str], str]

_NAMES = ("torchvision", "sklearn")  # prefixes of datasets whose name is no path


def paths_for_file(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a command's settings for a file in its output folder, with relative paths as seen from there.

    Absolute paths are unchanged, except ``out`` itself, which is always ".": the folder may be moved.
    """
    return map_paths(values, lambda path: _relate(path, folder)) | {"out": "."}


def paths_from_file(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings of a file in ``folder`` with relative paths as seen from the working folder.

    Raises:
        ValueError: a path exists only as seen from the working folder.
    """

    def move(path: str) -> str:
        moved = os.path.normpath(folder / path)
        if not os.path.lexists(moved) and os.path.lexists(path):
            raise ValueError(
                f"{path!r} does not exist in {folder.absolute()}, only in the working folder. Relative paths in a "
                "settings file count from its own folder. Correct the path, or give it as a flag."
            )
        return moved

    out = {"out": os.path.normpath(folder / values["out"])} if isinstance(values.get("out"), str) else {}
    return map_paths({name: value for name, value in values.items() if name != "out"}, move, base=folder) | out


def _relate(path: str, folder: Path) -> str:
    if Path(path).is_absolute():
        return path
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive (Windows)
        return str(Path(path).absolute())


def map_paths(values: Mapping[str, Any], move: Move, *, base: Path = Path()) -> dict[str, Any]:
    """Apply ``move`` to each path among the settings; values of another type than expected are unchanged.

    Args:
        base: folder from which relative paths count; ``hf:NAME`` is a path if there is such a folder.
    """
    methods = values.get("methods")
    of_setting: dict[str, Move] = {
        **dict.fromkeys(("out", "data_dir", "unlabelled", "slices", "teacher_trained_on", "label_map"), move),
        "data": lambda text: _map_data(text, move, base),
        **dict.fromkeys(("teacher", "student"), lambda text: _map_model(text, move, base)),
        "teacher_input": lambda text: f"hf:{move(text[3:])}" if text.startswith("hf:") else text,
        **dict.fromkeys(("augment", "method"), lambda text: _map_plugin(text, move)),
        "methods": lambda text: ",".join(_map_plugin(name.strip(), move) for name in text.split(",")),
        "class_weights": lambda text: text if text == BALANCED else move(text),
        "set": lambda text: _map_set(text, methods, move),
    }

    def convert(value: Any, function: Move) -> Any:
        if isinstance(value, (list, tuple)):
            return [convert(item, function) for item in value]
        return function(str(value)) if isinstance(value, (str, Path)) and str(value) else value

    return {name: convert(value, of_setting[name]) if name in of_setting else value for name, value in values.items()}


def _map_data(text: str, move: Move, base: Path) -> str:
    kind, colon, name = text.partition(":")
    if text == "mnist" or (colon and kind in _NAMES) or "://" in text:
        return text
    if colon and kind == "hf":  # a name, unless there is such a folder
        return f"hf:{move(name)}" if name and (base / name).is_dir() else text
    return f"wds:{move(name)}" if colon and kind == "wds" and name else move(text)


def _map_model(text: str, move: Move, base: Path) -> str:
    path, entry = split_entry(text)
    if path.endswith(".onnx"):
        return f"{move(path)}{f'::{entry}' if entry else ''}"
    if text.startswith("hf:"):
        return _map_data(text, move, base)
    spec, sign, file = text.partition("=")
    if file == PRETRAINED:
        return text
    path, entry = (file, "") if spec in OUTPUT_KINDS else split_entry(file)
    return f"{_map_plugin(spec, move)}{sign}{move(path) if path else ''}{f'::{entry}' if entry else ''}"


def _map_set(text: str, methods: object, move: Move) -> str:
    """Map FILE.py in ``FILE.py:METHOD.NAME=VALUE``, a setting of one of several methods."""
    for name in methods.split(",") if isinstance(methods, str) else ():
        if text.startswith(f"{name.strip()}."):
            return _map_plugin(name.strip(), move) + text.removeprefix(name.strip())
    return text


def _map_plugin(text: str, move: Move) -> str:
    if not is_plugin(text):
        return text
    file, colon, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    return f"{move(file)}{colon}{name}"
