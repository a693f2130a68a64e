"""Correct the bias of students trained without some digits by shifting the logits of these digits.

A student trained without 3s learns from the soft targets how a 3 looks, but predicts it too rarely. The paper uses the
shift with the fewest errors on the test set. ``find_matching_shift`` needs no test images and no labels: it finds the
shift at which the mean predicted probability of the digits equals their frequency.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MAX_SHIFT = 60.0  # a larger difference of logits makes the smaller probability negligible in float32


def shift_logits(logits: Tensor, digits: Sequence[int], shift: float) -> Tensor:
    """Add ``shift`` to the logits [N, K] of the digits."""
    result = logits.clone()
    result[:, list(digits)] += shift
    return result


def find_matching_shift(logits: Tensor, digits: Sequence[int], share: float) -> float:
    """Return the shift at which the digits' mean probability is ``share``, to within 1e-6.

    The mean increases with the shift, so bisection finds it.

    Args:
        logits: [N, K], of images among which a fraction ``share`` shows one of the digits.
        share: in (0, 1).
    """
    low, high = -_MAX_SHIFT, _MAX_SHIFT
    while high - low > 1e-6:
        middle = (low + high) / 2
        mean = shift_logits(logits, digits, middle).softmax(dim=1)[:, list(digits)].sum(dim=1).mean()
        low, high = (middle, high) if mean < share else (low, middle)
    return (low + high) / 2


def find_best_shift(logits: Tensor, labels: Tensor, digits: Sequence[int], *, step: float = 0.1) -> float:
    """Return the shift with the fewest errors on these images; the middle one if several are equally good.

    This is the paper's rule. It uses the test labels, so it is an oracle, not a way to choose a shift.
    """
    shifts = torch.arange(-200, 201) * step
    errors = torch.stack([(shift_logits(logits, digits, s).argmax(dim=1) != labels).sum() for s in shifts.tolist()])
    best = shifts[errors == errors.min()]
    return float(best[len(best) // 2])
