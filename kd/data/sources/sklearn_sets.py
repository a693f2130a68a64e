"""Small datasets included in scikit-learn: tables and 8 × 8 digits, without network access."""

from __future__ import annotations

import importlib

import numpy as np

from kd.checks import did_you_mean
from kd.data.sources.arrays import from_arrays
from kd.data.sources.source import Source

SETS = ("breast_cancer", "digits", "iris", "wine")


def open_sklearn(name: str) -> Source:
    """Open one of ``SETS``, unsplit: [N, F] float32, or for digits [N, 1, 8, 8] float32 from 0 to 16.

    Raises:
        ValueError: unknown dataset.
    """
    if name not in SETS:
        hint = did_you_mean(name, SETS)
        raise ValueError(f"sklearn:NAME must name one of {', '.join(SETS)}. Got {name!r} instead. {hint}".rstrip())
    bunch = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")()
    inputs = bunch.images[:, None] if name == "digits" else bunch.data
    classes = [str(label) for label in bunch.target_names]
    return from_arrays(name, {"train": inputs.astype(np.float32)}, {"train": bunch.target}, classes)
