"""Saved predictions, compared with their models before they become results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from kd.data.loaders import first_batch, make_loader
from kd.models.inference import Predictions, find_differing_rows, predict

SAMPLE = 64  # rows that are predicted again


def require_same_predictions(
    models: Mapping[str, nn.Module], loader: DataLoader[Any], saved: Mapping[str, Predictions], *, seed: int = 0
) -> None:
    """Check saved predictions against their models: the number of rows, and a random subset of them.

    Args:
        models: models by name.
        loader: the samples, in order.
        saved: predictions by the same names.
        seed: seed of the subset.

    Raises:
        ValueError: predictions belong to other samples, or rows differ from the model's.
    """
    count = len(loader.dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    rows = np.random.default_rng(seed).permutation(count)[:SAMPLE]
    subset: Subset[Any] = Subset(loader.dataset, rows.tolist())
    batch = first_batch(make_loader(subset, batch_size=len(rows)))
    for name, predictions in saved.items():
        if len(predictions.labels) != count:
            raise ValueError(f"{name} has {len(predictions.labels):,} predictions for {count:,} samples")
        live = predict(models[name], [batch])
        logits = predictions.logits[rows]
        if live.logits.shape != logits.shape or not torch.equal(live.labels, predictions.labels[rows]):
            raise ValueError(f"predictions of {name} belong to other samples")
        differing = len(find_differing_rows(live.logits, logits))
        if differing:
            raise ValueError(f"{differing} of {len(rows)} predictions of {name} differ from the model's")
