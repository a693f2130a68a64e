"""One number put right afterwards: by how much to raise the logits of digits that a student has not learned enough of.

A student that never saw a 3 knows from the teacher's soft targets what a 3 looks like, but thinks that there are none.
The paper raises its logit by whatever gives the fewest errors on the test set. ``matched`` needs no test image and no
label: it looks for the shift at which the digits are predicted as often, on average, as there are of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_WIDEST = 60.0  # logits further apart than this leave nothing of a probability


def shifted(logits: Tensor, digits: Sequence[int], shift: float) -> Tensor:
    """The logits [N, K] with ``shift`` added to those of the digits."""
    moved = logits.clone()
    moved[:, list(digits)] += shift
    return moved


def matched(logits: Tensor, digits: Sequence[int], share: float) -> float:
    """The shift at which the digits' mean probability is ``share``, to within 1e-6.

    The mean grows with the shift, so halving an interval finds it.

    Args:
        logits: [N, K], of images in which the digits are as frequent as they are to be predicted.
        share: in (0, 1).
    """
    low, high = -_WIDEST, _WIDEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        mean = shifted(logits, digits, middle).softmax(dim=1)[:, list(digits)].sum(dim=1).mean()
        low, high = (middle, high) if mean < share else (low, middle)
    return (low + high) / 2


def shift_of_fewest_errors(logits: Tensor, labels: Tensor, digits: Sequence[int], *, step: float = 0.1) -> float:
    """The shift with the fewest errors on these very images: an oracle, as the paper has it, and no way to choose.

    Of several that are as good, the one in the middle of them.
    """
    shifts = torch.arange(-200, 201) * step
    errors = torch.stack([(shifted(logits, digits, s).argmax(dim=1) != labels).sum() for s in shifts.tolist()])
    best = shifts[errors == errors.min()]
    return float(best[len(best) // 2])
