"""Tell logits from probabilities by their values.

Probabilities taken for logits give nearly uniform targets, and logits taken for probabilities none at all; neither
fails. The accuracy is the same in both cases, so only the values show it. Every row is judged by itself, so that a few
damaged rows do not hide what the others are.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

_ENOUGH = 20  # rows; the logits of fewer may lie in [0, 1] by chance
_MOST = 0.9  # of the rows; the others may be damaged
_BFLOAT16 = 2**-8  # largest relative rounding error of bfloat16
_EXACT = 1e-3  # allowed error of a sum of probabilities that are not rounded
_NOISE = 0.02  # largest error of a probability that is recognised all the same
_DIGITS = range(1, 5)  # of rounded probabilities
_TOP = 0.5  # least largest value of sigmoid outputs
_CERTAIN_TOP = 0.95  # which logits that lie in [0, 1] by chance hardly reach


def require_logits_kind(name: str, logits: Tensor, *, cautious: bool = False) -> None:
    """Check that outputs [N, K] are scores before the softmax, or log-probabilities.

    Args:
        cautious: accept what may be logits of a hardly trained model or of no model, such as multiples of one-hot
            labels: values within [0, 1] that do not fill it or leave it in a row, and shares of another total than 1 or
            100.

    Raises:
        ValueError: they are probabilities, percentages or other shares, or lie in [0, 1] like sigmoid outputs; a few
            other rows do not matter.
    """
    if doubt := find_doubt(logits, cautious=cautious):
        raise ValueError(f"{name} must be logits, scores before the softmax. Got {doubt.got}. {doubt.advice}")


def require_probabilities(name: str, values: Tensor) -> None:
    """Check that values [N, K] are probabilities; rows of rounded values may have a sum that is off by the rounding.

    Raises:
        ValueError: a value is negative (by more than a rounding error) or above 1, or a row does not sum to 1.
    """
    wrong = ~_are_distributions(values, _allowed_error(values))
    if not bool(wrong.any()):
        return
    where = "" if bool(wrong.all()) else f", first in row {int(wrong.nonzero()[0])}"
    most_are_signed = float(_have_negative(values).float().mean()) > 0.5
    advice = _find_flaw(values) or (
        "Scores with negative values are logits or log-probabilities: pass them as kind='logits'."
        if most_are_signed
        else "Save the scores before the softmax, or divide each row by its sum if the values are shares or counts."
    )
    raise ValueError(
        f"{name} must be probabilities, at least 0 and with sum 1 in each row. Got {_describe(values)}{where}. {advice}"
    )


def are_probabilities(values: Tensor) -> bool:
    """Return whether values [N, K] of a model are probabilities that are not rounded: ≥ 0, with sum 1 in each row."""
    return bool(_are_distributions(values, _EXACT).all())


class Doubt(NamedTuple):
    """What values are instead of logits, and what to do about a file of them."""

    got: str
    advice: str


def find_doubt(values: Tensor, *, cautious: bool = False) -> Doubt | None:
    """Return what the values [N, K] are instead of logits; None if they may be logits.

    Args:
        cautious: see ``require_logits_kind``.
    """
    is_enough = len(values) >= _ENOUGH
    is_proper = _are_distributions(values, _allowed_error(values) if is_enough else _EXACT)
    if len(values) and bool(is_proper.all()):
        return Doubt(
            "rows that are non-negative and sum to 1: probabilities",
            "Remove the model's softmax, or pass a file as kind='probabilities' (--teacher probabilities=FILE).",
        )
    flaw = _find_flaw(values, top=_CERTAIN_TOP if cautious else _TOP) if is_enough else None
    return Doubt(_describe(values), flaw) if flaw else None


def _find_flaw(values: Tensor, *, top: float | None = None) -> str | None:
    """Return how to correct values that seem to be probabilities, shares or sigmoid outputs; None for all others.

    Args:
        top: least largest value of sigmoid outputs; None for values that should be probabilities, which tells more.
    """
    is_proper = _are_distributions(values, _allowed_error(values))
    # The logits of an untrained network may be small and nearly equal for all samples: no shares of anything.
    if _are_most(is_proper) and len(values) >= _ENOUGH:
        row = int((~is_proper).nonzero()[0])
        got = f"sum {float(values[row].sum()):.4g} and lowest value {float(values[row].min()):.4g}"
        return f"Most rows are probabilities. Correct the others, such as row {row} with {got}."
    if _are_noisy(values):
        return "They are probabilities with errors: set negative values to 0 and divide each row by its sum."
    if values.shape[1] > 2 and _are_most(_are_distributions((values + 1) / 2, _EXACT)):
        return "They are probabilities p scaled to 2p - 1: divide (values + 1) by 2."
    is_clean = ~_have_negative(values)
    if top == _CERTAIN_TOP and not bool(is_clean.all()):
        return None  # most logits of a hardly trained network may lie in [0, 1], but no sigmoid output is negative
    return _find_flaw_of_shares(values[is_clean], top) if _are_most(is_clean) else None


def _find_flaw_of_shares(values: Tensor, top: float | None) -> str | None:
    """Return how to correct non-negative values; None if they may be logits."""
    sums, largest = values.sum(dim=1), float(values.max())
    total, error = float(sums.median()), _allowed_error(values)
    is_bounded = _vary(values) and ((top or 0) < largest <= 1 or 99 < largest <= 100)
    are_shares = _are_shares(values, sums) and (top != _CERTAIN_TOP or abs(total / 100 - 1) <= _NOISE)
    if top is not None and not is_bounded and not are_shares and not _are_mixed(values):
        return None
    if largest <= 1 and float(sums.max()) <= 1 + error:
        return "If only the largest probabilities were kept, save all of them."
    if _are_mixed(values):
        return "Some rows are probabilities and others percentages: divide each row by its sum."
    if largest > 1 and float((sums - total).abs().quantile(_MOST)) <= 0.05 * total:
        return f"If they are shares of {total:.4g}, divide each row by its sum."
    if largest <= 1 and abs(total - 1) > 0.2:
        return "Sigmoid outputs p are no distribution over classes: save their logits log(p / (1 - p))."
    if 99 < largest <= 100:
        return "Sigmoid outputs in percent are no distribution over classes: save the scores before the sigmoid."
    return "Save the scores before the softmax, or divide each row by its sum if the values are shares or counts."


def _are_most(rows: Tensor) -> bool:
    return float(rows.float().mean()) >= _MOST


def _have_negative(values: Tensor) -> Tensor:
    """Return the mask [N] of the rows with a value that is negative by more than a rounding error of the largest."""
    return values.amin(dim=1) < -1e-4 * values.amax(dim=1)


def _are_distributions(values: Tensor, error: float) -> Tensor:
    """Return the mask [N] of the rows that are non-negative and whose sum is off 1 by no more than the error."""
    return ~_have_negative(values) & ((values.sum(dim=1) - 1).abs() <= error)


def _are_noisy(values: Tensor) -> bool:
    """Return whether most rows are probabilities with small errors, of which some are negative."""
    is_near = (values.amin(dim=1) >= -_NOISE) & ((values.sum(dim=1) - 1).abs() <= 5 * _NOISE)
    return _are_most(is_near) and _vary(values[is_near]) and bool(_have_negative(values[is_near]).any())


def _are_mixed(values: Tensor) -> bool:
    """Return whether most rows have a sum of 1 or 100, and some have each."""
    sums, error = values.sum(dim=1), _allowed_error(values)
    of_one, of_hundred = (sums - 1).abs() <= error, (sums / 100 - 1).abs() <= _EXACT
    return _are_most(of_one | of_hundred) and bool(of_one.any()) and bool(of_hundred.any())


def _vary(values: Tensor) -> bool:
    """Return whether values of a class differ between rows more than the logits of an untrained network."""
    return float((values.amax(dim=0) - values.amin(dim=0)).max()) > 0.2


def _are_shares(values: Tensor, sums: Tensor) -> bool:
    """Return whether most rows have about the same sum, far closer than if the columns varied independently."""
    total = float(sums.median())
    spread = float((sums - total).abs().quantile(_MOST))
    return total > 0 and spread <= 0.1 * total and spread < 0.2 * float(values.var(dim=0).sum()) ** 0.5


def _allowed_error(values: Tensor) -> float:
    """Return how far the sum of a row may be from 1: half a unit of the last digit per class if all are rounded."""
    for digits in _DIGITS:
        scaled = values * 10**digits
        if bool(((scaled - scaled.round()).abs() <= 1e-4 * 10**digits * values.abs().clamp(min=1e-3)).all()):
            return min(0.99, float(values.shape[1] * 0.5 * 10**-digits + _EXACT))  # no row of zeros
    return _BFLOAT16 if bool((values.bfloat16() == values).all()) else _EXACT


def _describe(values: Tensor) -> str:
    sums = values.sum(dim=1)
    low, high = float(values.min()), float(values.max())
    return f"values from {low:.3g} to {high:.3g} with sums from {float(sums.min()):.3g} to {float(sums.max()):.3g}"
