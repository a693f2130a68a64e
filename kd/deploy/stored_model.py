"""Trained models from files beside their manifest: PyTorch weights, or ONNX, which needs no code of the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd.arms import ARMS, DISTILLED, RUN_ARMS
from kd.checks import require, similar_paths
from kd.data.datasets import ArrayDataset
from kd.deploy.columns import make_encoder
from kd.deploy.load import load_network
from kd.deploy.manifest import NAME as MANIFEST
from kd.deploy.manifest import Manifest, ModelEntry, Preprocessing, channel_axis, read_manifest
from kd.deploy.predict import Classifier, Outputs
from kd.deploy.rows import InputForm
from kd.evaluation.unlike import measure_moments, score_logits
from kd.imports import import_extra
from kd.losses.precision import widen
from kd.storage.untrusted import read_bytes
from kd.types import UNLABELLED

_WEIGHTS, _ONNX = (".pth", ".safetensors"), ".onnx"


class StoredModel(NamedTuple):
    """A model file and its manifest."""

    manifest: Manifest
    entry: ModelEntry

    @property
    def path(self) -> Path:
        return self.manifest.folder / self.entry.file


def find_model(path: Path, *, arm: str | None = None) -> StoredModel:
    """Find a model of a run folder by its arm, the model of an exported folder, or a model file beside its manifest.

    Args:
        path: folder of a run or of ``main.py``, its ``models``, an exported folder, or a file.
        arm: "distilled" (the default), "control" or "teacher"; for run folders only.

    Raises:
        OSError: there is no such model, or no manifest.
        ValueError: the manifest is damaged, or the file cannot be used.
    """
    if not path.exists():
        hint = similar_paths(path) or "Train one with kd run --out FOLDER, or check the path."
        raise FileNotFoundError(f"there is no model {path}. {hint}")
    if path.is_dir():
        _require_models(path)
        manifest = read_manifest(path)
        return StoredModel(manifest, manifest.model(_choose(manifest, path, arm)))
    if path.name == MANIFEST:
        return find_model(path.parent, arm=arm)
    require(arm is None, "--arm", arm, "omitted", f"{path} is a single model")
    if path.suffix not in (*_WEIGHTS, _ONNX):
        allowed = ", ".join((*_WEIGHTS, _ONNX))
        raise ValueError(
            f"{path} must be a model file: {allowed}. A .pt2 file may contain code and is never loaded; use the .onnx "
            "file of the same model."
        )
    if not (path.parent / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{path} has no {MANIFEST} beside it, which states its inputs and classes. Keep the two files together, as "
            "kd run and kd export write them."
        )
    manifest = read_manifest(path.parent / MANIFEST)
    return StoredModel(manifest, manifest.model(path.name))


def _require_models(folder: Path) -> None:
    """Raise ``FileNotFoundError`` for a folder of a command that has not saved models."""
    if any((folder / name).exists() for name in (MANIFEST, f"models/{MANIFEST}")):
        return
    for other in ("compare", "sweep"):
        if (folder / f"{other}.toml").is_file():
            raise FileNotFoundError(f"{folder} holds a kd {other}, which saves no models. Train one with kd run.")
    if (folder / "run.toml").is_file() or (folder / ".kd").is_dir():
        raise FileNotFoundError(
            f"the run in {folder} has not saved its models: it was interrupted, or is still running. Repeat its "
            "command to finish it."
        )
    if (folder / f"{ARMS[DISTILLED].file}.pth").is_file():
        raise FileNotFoundError(f"{folder} has no {MANIFEST}. Keep it beside the model files.")


def _choose(manifest: Manifest, path: Path, arm: str | None) -> str:
    """Return the file of an arm of a run. In an exported folder, ONNX comes first, and float32 before int8."""
    if any(f"{ARMS[name].file}.pth" in manifest.models for name in RUN_ARMS):
        return ARMS[arm or DISTILLED].file
    require(arm is None, "--arm", arm, "omitted", f"{path} holds a single model, not a run")
    readable = [name for name in manifest.models if name.endswith((*_WEIGHTS, _ONNX))]
    if not readable:
        raise ValueError(f"{path} has no model file that is read here: {', '.join((*_WEIGHTS, _ONNX))}.")
    return min(readable, key=lambda name: (not name.endswith(_ONNX), "int8" in name, name))


def load_classifier(stored: StoredModel, *, device: torch.device) -> Classifier:
    """Load a model that ``find_model`` has found. Runs the code of an architecture ``FILE.py:NAME``.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file differs from the manifest's digest, or its architecture is unknown.
        MissingExtraError: an optional library is not installed.
    """
    manifest, entry = stored
    run = _open_onnx(stored) if stored.path.suffix == _ONNX else _open_network(stored, device)
    form = InputForm(manifest.raw_shape, manifest.raw_dtype, manifest.preprocessing.mode, manifest.table)
    return Classifier(run, form, manifest.classes, entry.unlike)


def _open_network(stored: StoredModel, device: torch.device) -> Callable[[Tensor], Outputs]:
    manifest, entry = stored
    if entry.architecture is None:
        raise ValueError(
            f"{stored.path} cannot be loaded: its architecture has no name. It is an ensemble, a teacher of "
            "precomputed outputs, or a teacher with its own inputs or classes. Choose another --arm."
        )
    model = load_network(manifest, entry.file)
    return _run_network(model.to(device), manifest, device)


def _run_network(model: nn.Module, manifest: Manifest, device: torch.device) -> Callable[[Tensor], Outputs]:
    prepare = _make_preparation(manifest)

    def run(inputs: Tensor) -> Outputs:
        normalised = prepare(inputs)
        with torch.no_grad():
            logits = widen(model(normalised.to(device, copy=True))).cpu()  # the model may change its inputs in place
        return Outputs(logits.softmax(dim=1), score_logits(logits), measure_moments(normalised))

    return run


def _make_preparation(manifest: Manifest) -> Callable[[Tensor], Tensor]:
    """Return the function from raw inputs to those of the network."""
    encode, rules, shape = make_encoder(manifest.table), manifest.preprocessing, manifest.input_shape
    return lambda inputs: normalise(encode(inputs), rules, shape)


def normalise(inputs: Tensor, rules: Preprocessing, shape: tuple[int, ...]) -> Tensor:
    """Normalise raw inputs [N, …] by the same operations as in training, so that the values are bit-identical."""
    if not rules.mean:
        return inputs
    axes = [1] * len(shape)
    axes[channel_axis(shape)] = -1
    mean, std = (torch.tensor(values, dtype=torch.float64).reshape(axes) for values in (rules.mean, rules.std))
    labels = torch.full((len(inputs),), UNLABELLED)
    return ArrayDataset(inputs, labels, mean=mean, std=std).__getitems__(torch.arange(len(inputs))).tensors[0]


def _open_onnx(stored: StoredModel) -> Callable[[Tensor], Outputs]:
    """Return a function that runs an ONNX model: raw inputs to ``probabilities`` and, if it has them, ``logits``."""
    manifest, entry = stored
    content = read_bytes(stored.path, expected=entry.sha256)
    runtime: Any = import_extra("onnxruntime", library="onnxruntime", name="export", needed_for="an .onnx file")
    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (name,) = [value.name for value in session.get_inputs()]
        names = [value.name for value in session.get_outputs()]
    except Exception as error:  # the runtime's errors have no common type
        raise ValueError(f"the .onnx file cannot be loaded: {_first_line(error)}") from error
    prepare = _make_preparation(manifest)

    def run(inputs: Tensor) -> Outputs:
        try:
            arrays = session.run(names, {name: inputs.numpy()})
        except Exception as error:  # as above
            raise RuntimeError(_first_line(error)) from error
        values = {key: torch.from_numpy(array) for key, array in zip(names, arrays, strict=True)}
        moments = measure_moments(prepare(inputs))
        probabilities = values.get("probabilities", values[names[0]])
        if list(probabilities.shape) != [len(inputs), len(manifest.classes)]:
            got = list(probabilities.shape)
            raise ValueError(
                f"the .onnx file must return probabilities [{len(inputs)}, {len(manifest.classes)}]. Got {got}."
            )
        return Outputs(probabilities, score_logits(values["logits"]) if "logits" in values else None, moments)

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
