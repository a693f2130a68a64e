"""``models/manifest.json``: the models of a run, their task and the preprocessing of inputs.

It holds everything that another program needs to use the weights files beside it: architectures, input shape, class
names, normalisation and resizing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd.checks import did_you_mean
from kd.data.sources.table_encoding import Encoding
from kd.evaluation.two_models import Accuracy
from kd.evaluation.unlike import Unlike
from kd.storage.untrusted import read_bytes

FORMAT = 1
NAME = "manifest.json"
DTYPES = ("uint8", "float32", "int64")
RESIZING = (
    "turned upright by its EXIF orientation, converted to the mode, scaled (bilinear) until it covers height and "
    "width, and cropped at the centre"
)
_LARGEST = 50_000_000  # bytes; a million class names take about 20 MB
_REDO = "Run the command that wrote it again: finished steps are reused."
MODES = {1: "L", 3: "RGB"}  # by number of channels


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation of stored inputs, ``(input / scale − mean) / std``, and resizing of image files.

    Attributes:
        scale: 255 for uint8 inputs, else 1.
        mean, std: per channel of inputs with three or more axes (channels first), else per feature (last axis); empty
            if inputs are not normalised.
        mode: "L" or "RGB" of image files; None for other inputs.
        resize: height and width of image files; None for other inputs.
    """

    scale: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str | None = None
    resize: tuple[int, int] | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A weights file.

    Attributes:
        file: name of the file, beside the manifest.
        architecture: specification for ``kd.models.build.build``; None if there is none, as for an ensemble.
        sha256: of the file.
        test: accuracy on the test set with its interval (``kd.evaluation.two_models.Accuracy``); empty before
            evaluation.
        unlike: threshold for inputs unlike the training data; None if it was not measured.
    """

    file: str
    architecture: str | None
    sha256: str
    test: Mapping[str, Any] = field(default_factory=dict)
    unlike: Unlike | None = None


@dataclass(frozen=True)
class Manifest:
    """Content of a manifest.

    Attributes:
        folder: contains the manifest and the weights files.
        input_shape: of one input of the networks, without the batch dimension.
        input_dtype: of their inputs before normalisation: "uint8", "float32" or "int64".
        noun: word for inputs, "images" or "items".
        classes: names in label order.
        models: by file name.
        toy: stamp of a quick run, whose models are too weak for use; else None.
        table: how the columns of a table become inputs; None for other data.
    """

    folder: Path
    input_shape: tuple[int, ...]
    input_dtype: str
    noun: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    models: Mapping[str, ModelEntry]
    toy: str | None = None
    table: Encoding | None = None

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """Shape of a raw input: ``input_shape``, or the number of columns of a table that are used."""
        return self.input_shape if self.table is None else (len(self.table.used),)

    @property
    def raw_dtype(self) -> str:
        """Type of raw inputs: ``input_dtype``, or "float64" for the columns of a table."""
        return self.input_dtype if self.table is None else "float64"

    def model(self, file: str) -> ModelEntry:
        """Return the entry of a file, with or without ``.pth``.

        Raises:
            ValueError: the manifest has no such file.
        """
        name = file if file in self.models else f"{file}.pth"
        if name not in self.models:
            hint = did_you_mean(name, self.models, f"It has {', '.join(self.models) or 'none'}.")
            raise ValueError(f"{self.folder / NAME} has no model {file}. {hint}")
        return self.models[name]


def channel_axis(shape: Sequence[int]) -> int:
    """Return the axis of an input's channels or features: the first of three or more axes, else the last."""
    return 0 if len(shape) >= 3 else len(shape) - 1


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Args:
        path: ``manifest.json``, its folder, or the folder of a run, whose manifest is in ``models/``.

    Raises:
        OSError: there is no manifest, or it cannot be read.
        ValueError: it is damaged, or was written by an earlier or later version.
    """
    file = _find(path)
    try:
        content: Any = json.loads(read_bytes(file, limit=_LARGEST))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {str(error).removesuffix('.')}. {_REDO}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        number = content.get("format", "none") if isinstance(content, dict) else "none"
        raise ValueError(
            f"{file} must have format {FORMAT}, which states the model's inputs and classes. Got {number!r}: another "
            f"version of kd wrote it. {_REDO}"
        )
    try:
        return parse_manifest(file.parent, content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file} is damaged: {reason}. {_REDO}") from error


def _find(path: Path) -> Path:
    candidates = [path / "models" / NAME, path / NAME] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"there is no {candidates[0]}. Give the folder of a run: kd run --out FOLDER writes it, and so does main.py."
    )


def describe_manifest(manifest: Manifest, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of a manifest file, with these entries as models."""
    rules, size = manifest.preprocessing, manifest.preprocessing.resize
    return {
        "format": FORMAT,
        "toy": manifest.toy,
        "task": {
            "input_shape": list(manifest.input_shape),
            "input_dtype": manifest.input_dtype,
            "noun": manifest.noun,
            "classes": list(manifest.classes),
        },
        "preprocessing": {
            "scale": rules.scale,
            "mean": list(rules.mean),
            "std": list(rules.std),
            "mode": rules.mode,
            "resize": None if size is None else {"height": size[0], "width": size[1], "how": RESIZING},
        },
        **({} if manifest.table is None else {"table": manifest.table.to_json()}),
        "models": dict(models),
    }


def parse_manifest(folder: Path, content: Mapping[str, Any]) -> Manifest:
    """Return a manifest from the content of its file; raise an error of any type if it is damaged."""
    task, rules = content["task"], content["preprocessing"]
    if rules is None:
        raise ValueError("its inputs are normalised value by value, which it cannot state")
    shape = tuple(_whole(size, "a size") for size in _list(task["input_shape"], "input_shape"))
    classes = tuple(_text(name, "a class name") for name in _list(task["classes"], "classes"))
    _require(1 <= len(shape) <= 8, f"input_shape has {len(shape)} sizes")
    _require(len(classes) >= 2, f"there are {len(classes)} classes")
    _require(task["input_dtype"] in DTYPES, f"inputs are {task['input_dtype']!r}, not one of {', '.join(DTYPES)}")
    models = {_plain(name): _parse_entry(name, entry) for name, entry in content["models"].items()}
    preprocessing = _parse_preprocessing(rules, shape)
    toy = None if content["toy"] is None else _text(content["toy"], "toy")
    noun = _text(task["noun"], "noun")
    table = None if content.get("table") is None else Encoding.from_json(content["table"])
    _require(table is None or shape == (len(table.features),), "table differs from input_shape")
    return Manifest(folder, shape, task["input_dtype"], noun, classes, preprocessing, models, toy, table)


def _parse_preprocessing(rules: dict[str, Any], shape: tuple[int, ...]) -> Preprocessing:
    scale, resize = rules["scale"], rules["resize"]
    mean, std = (tuple(_number(value, name) for value in _list(rules[name], name)) for name in ("mean", "std"))
    _require(scale in (1, 255), f"scale is {scale!r}")
    channels = shape[channel_axis(shape)]
    _require(len(mean) == len(std) and len(mean) in (0, channels), f"mean and std need {channels} numbers each")
    _require(all(value > 0 for value in std), "a standard deviation is not above 0")
    _require(rules["mode"] in (None, *MODES.values()), f"mode is {rules['mode']!r}")
    size = None if resize is None else (_whole(resize["height"], "height"), _whole(resize["width"], "width"))
    _require(size is None or size == shape[1:], "resize differs from input_shape")
    return Preprocessing(int(scale), mean, std, rules["mode"], size)


def _parse_entry(name: str, entry: dict[str, Any]) -> ModelEntry:
    architecture = entry["architecture"]
    spec = None if architecture is None else _text(architecture, "architecture")
    unlike = Unlike.from_json(entry["unlike"]) if "unlike" in entry else None
    test = _parse_test(entry["test"]) if entry.get("test") else {}
    return ModelEntry(name, spec, _text(entry["sha256"], "sha256"), test, unlike)


def _parse_test(entry: dict[str, Any]) -> dict[str, Any]:
    test = {name: _number(entry[name], name) for name in Accuracy._fields}
    is_possible = type(entry["errors"]) is type(entry["images"]) is int and 0 <= test["errors"] <= test["images"]
    _require(is_possible, f"test has {entry['errors']!r} errors on {entry['images']!r} items")
    return dict(entry)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _list(value: Any, name: str) -> list[Any]:
    _require(isinstance(value, list), f"{name} is not a list")
    return list(value)


def _whole(value: Any, name: str) -> int:
    _require(type(value) is int and 1 <= value < 2**31, f"{name} is {value!r}, not a whole number above 0")
    return int(value)


def _number(value: Any, name: str) -> float:
    _require(type(value) in (int, float) and math.isfinite(value), f"{name} has {value!r}, not a finite number")
    return float(value)


def _text(value: Any, name: str) -> str:
    _require(isinstance(value, str), f"{name} is {value!r}, not a text")
    return str(value)


def _plain(name: str) -> str:
    """Return the name of a file beside the manifest. A foreign manifest must not name files elsewhere."""
    _require(name == Path(name).name and name not in ("", "..") and "\\" not in name, f"{name!r} is not a file's name")
    return name
