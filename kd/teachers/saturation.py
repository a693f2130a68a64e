"""Saturated teachers: soft targets so close to one class that they say hardly more than the labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_COMPARED = 1000  # rows
LEAST_ENTROPY = 0.05  # nats; 99 % on one of two classes have 0.056


def mean_entropy(logits: Tensor, temperature: float) -> float:
    """Return the mean entropy of ``softmax(logits / T)`` in nats, for logits [N, K] and T > 0."""
    rows = logits.double().split(65_536)  # type: ignore[no-untyped-call]
    totals = []
    for part in rows:
        log_shares = F.log_softmax(part / temperature, dim=1)
        totals.append(-(log_shares.exp() * log_shares.clamp(min=torch.finfo(torch.float64).min)).sum())
    return float(sum(totals)) / len(logits)


def explain_saturation(logits: Tensor, temperature: float) -> str | None:
    """Return why these logits teach hardly more than labels do at this temperature; None if they teach more."""
    if _are_labels(logits):
        return (
            "the teacher's soft targets have the same shares for every sample, apart from the order of the classes, as "
            "if they were labels: one-hot or smoothed. Distillation from them is label smoothing. Save the teacher's "
            "probabilities or logits, not its classes"
        )
    entropy = mean_entropy(logits, temperature)
    if entropy >= LEAST_ENTROPY:
        return None
    return (
        f"the teacher is saturated: at T = {temperature:g} its soft targets have a mean entropy of {entropy:.3g} nats, "
        f"below {LEAST_ENTROPY:g}, so they say hardly more than the labels. A higher temperature is worth trying"
    )


def _are_labels(logits: Tensor) -> bool:
    """Return whether logits [N, K] say which class is the largest, and nothing else."""
    rows = logits[:: -(-len(logits) // _COMPARED)].double().sort(dim=1).values
    return len(rows) > 1 and float((rows - rows[0]).abs().max()) < 1e-3
