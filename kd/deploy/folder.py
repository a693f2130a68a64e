"""The deployable folder: model files, class names, manifest, model card, and a program that uses them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kd.deploy.export import QUANTISED, Candidate, Exported
from kd.deploy.formats import FILES
from kd.deploy.gate import Check
from kd.deploy.manifest import NAME, Manifest, describe_manifest
from kd.deploy.model_card import Origin, write_card
from kd.evaluation.two_models import Accuracy
from kd.storage.environment import versions
from kd.storage.files import publish, sha256

OTHER_FILES = ("labels.json", NAME, "README.md", "infer.py")
_MARK = "exported_by"  # entry of the manifest, by which an earlier export is recognised
_INFER = '''"""Class probabilities of inputs: python infer.py INPUTS.npy. Needs numpy and onnxruntime only."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

LABELS = json.loads(Path(__file__).with_name("labels.json").read_text(encoding="utf-8"))
SESSION = onnxruntime.InferenceSession(Path(__file__).with_name("{file}"), providers=["CPUExecutionProvider"])


def predict(inputs):  # {dtype} [N, {shape}], {range} -> probabilities [N, {classes}]
    given = np.asarray(inputs)
    if not np.allclose(cast := given.astype("{dtype}"), given, rtol=1e-6, equal_nan={missing}):
        raise ValueError("inputs must be {dtype}, {range}. Got other values of " + str(given.dtype))
    return SESSION.run(["probabilities"], {{"inputs": cast}})[0]


if __name__ == "__main__":
    for row in predict(np.load(sys.argv[1])):
        print(LABELS[row.argmax()], round(float(row.max()), 4), sep="\\t")
'''
_RANGES = {
    "uint8": "0-255",
    "float32": "as in the data",
    "int64": "tokens",
    "float64": "columns as in README.md",
}


def publish_folder(
    folder: Path, candidate: Candidate, exported: Sequence[Exported], origin: Origin, reference: Accuracy
) -> list[Path]:
    """Write the formats that passed, and everything beside them, all or none; return the paths.

    Files of an earlier export that are not written again are then removed: they belong to another model.

    Args:
        reference: accuracy of the network in PyTorch.

    Raises:
        ValueError: the folder contains other files.
        OSError: the folder is not writable.
    """
    require_own_folder(folder)
    passed = {result.file: result for result in exported if not result.problem}
    onnx = next((name for name in (FILES["onnx"], FILES["int8"]) if name in passed), None)
    files = {folder / name: result.content for name, result in passed.items() if result.content is not None}
    entries = {name: _describe(candidate, result) for name, result in passed.items()}
    manifest = (
        describe_manifest(candidate.manifest, entries)
        | _describe_columns(candidate.manifest)
        | {
            _MARK: f"kd {_find_version()}",
            "pytorch": {"test": reference._asdict()},
            "failed": {result.kind: result.problem for result in exported if result.problem},
            "environment": versions() | _runtime_versions(passed),
        }
    )
    files[folder / NAME] = _json(manifest)
    files[folder / "labels.json"] = _json(list(candidate.manifest.classes))
    files[folder / "README.md"] = write_card(candidate, exported, origin, reference, onnx=onnx).encode()
    if onnx:
        files[folder / "infer.py"] = write_infer(candidate, onnx).encode()
    publish(files)
    remove_export(folder, but=files)
    return list(files)


def remove_export(folder: Path, *, but: Collection[Path] = ()) -> None:
    """Remove the files of an earlier export. The manifest comes first: without it, no file is used as a model."""
    for name in (NAME, *FILES.values(), *OTHER_FILES):
        if folder / name not in but:
            (folder / name).unlink(missing_ok=True)


def require_own_folder(folder: Path) -> None:
    """Raise ``ValueError`` if the folder has files but is no earlier export: its README.md would be overwritten."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        is_export = _MARK in json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        is_export = False
    if not is_export:
        raise ValueError(f"--to must be a new or empty folder, or an earlier export. Got {folder}, with other files.")


def write_infer(candidate: Candidate, file: str) -> str:
    """Return the program ``infer.py`` for an ONNX file of this name."""
    manifest = candidate.manifest
    return _INFER.format(
        file=file,
        dtype=manifest.raw_dtype,
        shape=", ".join(map(str, manifest.raw_shape)),
        range=_RANGES[manifest.raw_dtype],
        missing=manifest.table is not None,  # NaN is a missing value; a network has no answer to it
        classes=len(manifest.classes),
    )


def describe_check(check: Check) -> dict[str, Any]:
    """Return the result of the gate as plain data."""
    values = {
        field.name: getattr(check, field.name)
        for field in dataclasses.fields(check)
        if field.name not in ("accuracy", "test", "timings", "problems")
    }
    return {
        **values,
        "mcnemar": check.test._asdict(),
        "equivalence_shown": check.is_equivalence_shown,
        "latency_seconds": [timing._asdict() for timing in check.timings],
    }


def _describe(candidate: Candidate, result: Exported) -> Mapping[str, Any]:
    assert result.content is not None
    assert result.check is not None
    return {
        "kind": result.kind,
        # Only this file holds weights for kd.models.build.build; the others contain the network itself.
        "architecture": candidate.architecture if result.kind == "safetensors" else None,
        "sha256": sha256(result.content),
        **({} if result.kind in QUANTISED or candidate.unlike is None else {"unlike": candidate.unlike._asdict()}),
        "bytes": len(result.content),
        "test": result.check.accuracy._asdict(),
        "parity": describe_check(result.check),
    }


def _describe_columns(manifest: Manifest) -> dict[str, Any]:
    """Return the inputs of the ONNX and ``.pt2`` files of a table for readers that do not know its encoding."""
    if manifest.table is None:
        return {}
    columns = [
        {"name": column.name, **({"levels": list(column.levels)} if column.kind == "category" else {})}
        for column in manifest.table.used
    ]
    return {"inputs": {"shape": list(manifest.raw_shape), "dtype": manifest.raw_dtype, "columns": columns}}


def _runtime_versions(passed: Mapping[str, Exported]) -> dict[str, str]:
    packages = ("onnx", "onnxscript", "onnxruntime") if any(name.endswith(".onnx") for name in passed) else ()
    return {package: version(package) for package in packages}


def _find_version() -> str:
    try:
        return version("paired-distillation")
    except ModuleNotFoundError:  # run from a copy of the sources
        return "(not installed)"


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
