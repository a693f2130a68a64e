"""Load a trained network by a manifest."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from kd.deploy.manifest import Manifest
from kd.models.build import build
from kd.storage.untrusted import read_bytes
from kd.storage.weights import load_weights


def load_network(manifest: Manifest, file: str, *, spec: str | None = None) -> nn.Module:
    """Return the network of a weights file, on the CPU, in eval mode.

    Args:
        file: see ``Manifest.model``.
        spec: architecture, instead of the manifest's.

    Raises:
        ValueError: the manifest names no architecture, or the file is damaged, was replaced, or does not fit it.
        OSError: the file cannot be read.
    """
    entry = manifest.model(file)
    spec = spec or entry.architecture
    path = manifest.folder / entry.file
    if spec is None:
        raise ValueError(
            f"{path} is not a network that kd can build by name: it is an ensemble, a teacher with its own inputs or "
            f"classes, or your own model. Give code that builds the whole model: --model FILE.py:NAME={path}."
        )
    _require_digest(path, entry.sha256)
    shape, classes = manifest.input_shape, len(manifest.classes)
    example = torch.zeros(shape, dtype=torch.int64) if manifest.input_dtype == "int64" else None  # tokens
    network = build(spec, input_shape=shape, classes=classes, seed=0, example=example)
    load_weights(network, path, exact=True)
    network.train(False)
    return network


def _require_digest(path: Path, sha256: str) -> None:
    try:
        read_bytes(path, expected=sha256)
    except ValueError as error:
        raise ValueError(
            f"{str(error).removesuffix('.')}: it is not the file that its manifest describes. Run the command that "
            "wrote both again."
        ) from error
