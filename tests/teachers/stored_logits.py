"""Files of teacher logits for tests, in every format."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import settings

import kd
from kd.teachers.logit_files import read_logits

some = settings(max_examples=30)
N, K = 60, 3
LABELS = torch.arange(N) % K
NAMES = ["ant", "bee", "cat"]
IDS = [f"item-{i:02}.png" for i in range(N)]
ids = {"ids": IDS}
Array = np.ndarray[Any, np.dtype[Any]]


def make_logits(seed: int = 0) -> Array:
    """Return logits [N, K] float32 of a perfect teacher."""
    values = np.random.default_rng(seed).normal(size=(N, K)).astype(np.float32)
    values[np.arange(N), LABELS] = values.max(axis=1) + 1
    return values


def softmax(values: Array) -> Array:
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def to_npy(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def to_npz(compressed: bool = False, **values: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **values)
    return buffer.getvalue()


def to_csv(values: Array, heading: str = "", ids: list[str] | None = None) -> bytes:
    lines = [",".join(map(repr, row)) for row in values.tolist()]
    if ids is not None:
        lines = [f'"{id_}",{line}' for id_, line in zip(ids, lines, strict=True)]
    return "\n".join([heading] * bool(heading) + lines).encode()


def read(name: str, content: bytes, **options: Any) -> kd.Predictions:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return read_logits(path, **{"labels": LABELS, "classes": K, **options})
