"""Export a network to several formats; every file passes the gate or is not returned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from kd.data.datasets import length_of, unwrap_subsets
from kd.data.sources.scan import raw_batches
from kd.deploy.deployed import deploy
from kd.deploy.formats import FILES, ConversionError, to_int8, to_onnx, to_pt2, to_safetensors
from kd.deploy.gate import Check, check_outputs
from kd.deploy.manifest import NAME, Manifest, describe_manifest
from kd.deploy.runtime import RuntimeFailure, run_in_new_process
from kd.evaluation.unlike import Unlike
from kd.models.inference import Predictions
from kd.storage.files import require_space, sha256

QUANTISED = ("int8",)
CALIBRATION = 512  # training inputs that determine the ranges of an int8 file


@dataclass(frozen=True)
class Candidate:
    """A trained network and everything that its exports are checked with.

    Attributes:
        manifest: task and preprocessing.
        architecture: specification for ``kd.models.build.build``.
        reference: logits of the network on the normalised test set, and labels.
        test: the test set; row i of ``reference`` belongs to ``test[i]``.
        train: training split, for calibration.
        unlike: limits for inputs unlike the training data, which hold for files with the network's own logits.
        columns: [R, C] float64, raw rows of the table of which ``test`` and ``train`` are parts
            (``kd.deploy.columns``); None for other data.
    """

    network: nn.Module
    manifest: Manifest
    architecture: str
    reference: Predictions
    test: Dataset[Any]
    train: Dataset[Any]
    unlike: Unlike | None = None
    columns: Tensor | None = None


@dataclass(frozen=True)
class Exported:
    """One format of an export.

    Attributes:
        kind: a key of ``kd.deploy.formats.FILES``.
        content: of the file; None if the network could not be converted.
        check: result of the gate; None if there is no file, or it could not be run.
        problem: reason why the file must not be used; "" if it passed.
    """

    kind: str
    content: bytes | None
    check: Check | None
    problem: str

    @property
    def file(self) -> str:
        return FILES[self.kind]


def export(
    candidate: Candidate,
    kinds: Sequence[str],
    *,
    margin: float = 0.1,
    threads: int = 1,
    calibration: int = CALIBRATION,
    converted: Mapping[str, bytes] | None = None,
) -> list[Exported]:
    """Convert a network to each format, run each file on the whole test set in a new process, and check its outputs.

    A format that fails does not stop the others.

    Args:
        kinds: keys of ``kd.deploy.formats.FILES``.
        margin: see ``kd.deploy.gate.check_outputs``; for quantised files.
        threads: of the runtimes, at least 1.
        calibration: number of training inputs for int8, at least 1.
        converted: files that were converted elsewhere, by format; they are only checked.

    Raises:
        MissingExtraError: an optional library is not installed.
        OSError: the temporary folder has too little space.
    """
    with _workspace(candidate) as (folder, inputs):
        results, files = [], dict(converted or {})
        for kind in kinds:
            try:
                if kind not in files:
                    files[kind] = _convert(kind, candidate, files, calibration)
                check = _check(kind, files[kind], candidate, folder, inputs, margin=margin, threads=threads)
            except (ConversionError, RuntimeFailure) as error:
                results.append(Exported(kind, files.get(kind), None, str(error)))
            else:
                results.append(Exported(kind, files[kind], check, "; ".join(check.problems)))
        return results


def _convert(kind: str, candidate: Candidate, files: dict[str, bytes], calibration: int) -> bytes:
    deployed = deploy(candidate.network, candidate.manifest)
    example = _spread_inputs(candidate, 2)
    if kind == "safetensors":
        return to_safetensors(candidate.network)
    if kind == "pt2":
        return to_pt2(deployed, example)
    if "onnx" not in files:
        files["onnx"] = to_onnx(deployed, example)
    return files["onnx"] if kind == "onnx" else to_int8(files["onnx"], _spread_inputs(candidate, calibration))


def _check(
    kind: str, content: bytes, candidate: Candidate, folder: Path, inputs: Path, *, margin: float, threads: int
) -> Check:
    digest = sha256(content)
    (folder / FILES[kind]).write_bytes(content)
    entry = {FILES[kind]: {"architecture": candidate.architecture, "sha256": digest}}
    (folder / NAME).write_bytes(json.dumps(describe_manifest(candidate.manifest, entry)).encode())
    outputs = run_in_new_process(folder, kind, FILES[kind], digest, inputs, threads=threads)
    allowed = margin if kind in QUANTISED else None
    return check_outputs(outputs, candidate.reference, size=len(content), margin=allowed)


@contextmanager
def _workspace(candidate: Candidate) -> Iterator[tuple[Path, Path]]:
    """Yield a temporary folder, and the file of raw test inputs in it."""
    with TemporaryDirectory(prefix="kd-export-") as name:
        folder = Path(name)
        count, shape = length_of(candidate.test), candidate.manifest.raw_shape
        dtype = np.dtype(candidate.manifest.raw_dtype)
        require_space(folder, count * int(np.prod(shape)) * dtype.itemsize)
        inputs = np.lib.format.open_memmap(folder / "inputs.npy", mode="w+", dtype=dtype, shape=(count, *shape))
        start = 0
        for batch in _raw_inputs(candidate, candidate.test):
            inputs[start : start + len(batch)] = batch.numpy()
            start += len(batch)
        inputs.flush()
        yield folder, folder / "inputs.npy"


def _spread_inputs(candidate: Candidate, count: int) -> Tensor:
    """Return up to ``count`` raw training inputs at equal distances: a dataset may be sorted by class."""
    samples = length_of(candidate.train)
    rows = torch.linspace(0, samples - 1, min(count, samples)).long().tolist()
    return torch.cat(list(_raw_inputs(candidate, Subset(candidate.train, rows))))


def _raw_inputs(candidate: Candidate, dataset: Dataset[Any]) -> Iterator[Tensor]:
    """Yield the raw inputs of the candidate's data or a part of it, in order, in batches."""
    if candidate.columns is not None:
        yield candidate.columns[unwrap_subsets(dataset)[1]]
        return
    for inputs, _ in raw_batches(dataset):
        yield inputs
