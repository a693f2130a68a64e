"""Tell logits from probabilities, where outputs of a model or a file enter.

Probabilities taken for logits give nearly uniform targets, and logits taken for probabilities none at all; neither
fails. The accuracy is the same in both cases, so only the values show it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd.models.inference import device_of, evaluating
from kd.models.main_output import take_logits
from kd.seeding import seeded

_ENOUGH = 20  # rows; the logits of fewer may lie in [0, 1] by chance
_MOST = 0.9  # of the rows; the others may be damaged
_BFLOAT16 = 2**-8  # largest relative rounding error of bfloat16
_EXACT = 1e-3  # allowed error of a sum of probabilities that are not rounded
_DIGITS = range(1, 5)  # of rounded probabilities
_LARGE = 1000.0  # factor of inputs that no logits within [0, 1] survive


def require_logits_kind(name: str, logits: Tensor) -> None:
    """Check that outputs [N, K] are scores before the softmax, or log-probabilities.

    Raises:
        ValueError: they are probabilities, percentages or other shares, or lie in [0, 1] like sigmoid outputs.
    """
    if reason := _find_doubt(logits):
        raise ValueError(f"{name} must be logits, scores before the softmax. Got {reason}")


def require_model_returns_logits(name: str, logits: Tensor, model: nn.Module, inputs: Tensor) -> None:
    """Check that the outputs [N, K] of a model are logits, like ``require_logits_kind``.

    The logits of a hardly trained model may lie in [0, 1] by chance. They do not for much larger inputs, whereas
    probabilities and sigmoid outputs do.

    Args:
        inputs: some inputs of the model.

    Raises:
        ValueError: see ``require_logits_kind``.
    """
    reason = _find_doubt(logits)
    if reason and _find_doubt_for_large_inputs(model, inputs):
        raise ValueError(f"{name} must be logits, scores before the softmax. Got {reason}")


def _find_doubt_for_large_inputs(model: nn.Module, inputs: Tensor) -> bool:
    if not inputs.is_floating_point():
        return True  # tokens cannot be scaled
    try:
        with evaluating(model), torch.no_grad(), seeded(0):
            return _find_doubt(take_logits(model(inputs.to(device_of(model)) * _LARGE)).float().cpu()) is not None
    except Exception:  # user code can raise anything; a teacher of precomputed outputs knows its own inputs only
        return True


def require_probabilities(name: str, values: Tensor) -> None:
    """Check that values [N, K] are probabilities; rows of rounded values may have a sum that is off by the rounding.

    Raises:
        ValueError: a value is negative (by more than a rounding error) or above 1, or a row does not sum to 1.
    """
    sums = values.sum(dim=1)
    off = (sums - 1).abs() > _allowed_error(values)
    if not _has_negative(values) and not bool(off.any()):
        return
    got = (
        f"values from {float(values.min()):.3g} to {float(values.max()):.3g} and sums from {float(sums.min()):.3g} to "
        f"{float(sums.max()):.3g}"
    )
    where = f", first in row {int(off.nonzero()[0])}" if bool(off.any()) and not bool(off.all()) else ""
    raise ValueError(
        f"{name} must be probabilities, at least 0 and with sum 1 in each row. Got {got}{where}. {_advise(values)}"
    )


def are_probabilities(values: Tensor) -> bool:
    """Return whether values [N, K] of a model are probabilities that are not rounded: ≥ 0, with sum 1 in each row."""
    return not _has_negative(values) and bool(((values.sum(dim=1) - 1).abs() <= _EXACT).all())


def _has_negative(values: Tensor) -> bool:
    """Return whether a value is negative by more than a rounding error of the largest value."""
    return float(values.min()) < -1e-4 * float(values.max())


def _find_doubt(values: Tensor) -> str | None:
    """Return what the values are instead of logits, and a remedy; None if they may be logits."""
    if _has_negative(values):
        return None
    sums, enough = values.sum(dim=1), len(values) >= _ENOUGH
    if bool(((sums - 1).abs() <= (_allowed_error(values) if enough else _EXACT)).all()):
        return (
            "rows that are non-negative and sum to 1: probabilities. Remove the model's softmax, or pass a file as "
            "kind='probabilities' (--teacher probabilities=FILE)."
        )
    if not enough:
        return None
    # The logits of an untrained network may be small and nearly equal for all samples: no shares of anything.
    varied = float((values.amax(dim=0) - values.amin(dim=0)).max()) > 0.2
    if _are_shares(values, sums) or (varied and 0.5 < float(values.max()) <= 1):
        low, high = float(sums.min()), float(sums.max())
        return f"values from 0 to {float(values.max()):.3g} with sums from {low:.3g} to {high:.3g}. {_advise(values)}"
    return None


def _are_shares(values: Tensor, sums: Tensor) -> bool:
    """Return whether most rows have about the same sum, far closer than if the columns varied independently."""
    total = float(sums.median())
    spread = float((sums - total).abs().quantile(_MOST))
    return total > 0 and spread <= 0.1 * total and spread < 0.2 * float(values.var(dim=0).sum()) ** 0.5


def _advise(values: Tensor) -> str:
    """Return the remedy for values that are not distributions."""
    if _has_negative(values):
        return "Scores with negative values are logits or log-probabilities: pass them as kind='logits'."
    sums, largest = values.sum(dim=1), float(values.max())
    total, error = float(sums.median()), _allowed_error(values)
    if len(values) >= _ENOUGH and float((sums - 1).abs().quantile(_MOST)) <= error:
        row = int((sums - 1).abs().argmax())
        return f"Most rows are probabilities. Correct the others, such as row {row} with sum {float(sums[row]):.4g}."
    if largest <= 1 and float(sums.max()) <= 1 + error:
        return "If only the largest probabilities were kept, save all of them."
    if largest > 1 and float((sums - total).abs().quantile(_MOST)) <= 0.05 * total:
        return f"If they are shares of {total:.4g}, divide each row by its sum."
    if largest <= 1 and abs(total - 1) > 0.2:
        return "Sigmoid outputs p are no distribution over classes: save their logits log(p / (1 - p))."
    return "Save the scores before the softmax, or divide each row by its sum if the values are shares or counts."


def _allowed_error(values: Tensor) -> float:
    """Return how far the sum of a row may be from 1: half a unit of the last digit per class if all are rounded."""
    for digits in _DIGITS:
        scaled = values * 10**digits
        if bool(((scaled - scaled.round()).abs() <= 1e-4 * 10**digits * values.abs().clamp(min=1e-3)).all()):
            return float(values.shape[1] * 0.5 * 10**-digits + _EXACT)
    return _BFLOAT16 if bool((values.bfloat16() == values).all()) else _EXACT
