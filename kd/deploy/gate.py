"""The gate of ``kd export``: a file is kept only if its outputs on the whole test set pass.

Files in float32 must agree with PyTorch within rounding. Outputs of quantised files differ by design, so these must
classify as well as PyTorch, up to the equivalence margin of ``kd compare``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kd.deploy.runtime import Outputs, Timing
from kd.evaluation.two_models import Accuracy, McNemar, accuracy_of, mcnemar, proportion_interval
from kd.formatting import equate_p
from kd.models.inference import Predictions

TOLERANCE = 1e-4  # of logits, times the largest logit if that is above 1; rounding in float32 stays far below
_SOFTMAX_TOLERANCE = 1e-5
LEVEL = 0.05


@dataclass(frozen=True)
class Check:
    """Result of the gate for one file.

    Attributes:
        size: of the file, in bytes.
        accuracy: of the file on the test set.
        agreement: share of test items with PyTorch's predicted class, in [0, 1].
        largest_difference: between a logit of the file and PyTorch's.
        tolerance: for ``largest_difference``; None for a quantised file.
        test: McNemar's test of PyTorch (first) against the file (second).
        loss: accuracy of PyTorch minus the file's, in percentage points.
        loss_bound: upper bound of ``loss`` for other test items, one-sided at 95 %.
        margin: largest loss allowed, in percentage points; None for a file in float32.
        timings: of the file's runtime.
        problems: reasons why the file fails; empty if it passes.
    """

    size: int
    accuracy: Accuracy
    agreement: float
    largest_difference: float
    tolerance: float | None
    test: McNemar
    loss: float
    loss_bound: float
    margin: float | None
    timings: tuple[Timing, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def is_equivalence_shown(self) -> bool:
        """Whether the test set is large enough to show a loss below the margin; True for a file in float32."""
        return self.margin is None or self.loss_bound < self.margin


def check_outputs(outputs: Outputs, reference: Predictions, *, size: int, margin: float | None) -> Check:
    """Compare the outputs of a file with PyTorch's.

    Args:
        reference: logits of the trained network on the normalised test set, not of the exported graph.
        size: of the file, in bytes.
        margin: largest loss of accuracy, in percentage points, of a quantised file; None for a file in float32, whose
            logits must be equal within ``TOLERANCE``.
    """
    logits, probabilities = torch.from_numpy(outputs.logits), torch.from_numpy(outputs.probabilities)
    problems = _check_form(logits, probabilities, reference.logits)
    if problems:
        logits = torch.zeros_like(reference.logits)
    expected = reference.logits
    difference = float((logits.double() - expected.double()).abs().max())
    predicted, right = logits.argmax(dim=1), reference.labels
    test = mcnemar(reference.wrong, predicted != right)
    loss, bound = _bound_loss(test, len(right))
    tolerance = TOLERANCE * max(1.0, float(expected.abs().max())) if margin is None else None
    if not problems:
        problems = (
            _check_exact(logits, expected, difference, tolerance)
            if tolerance
            else _check_loss(test, len(right), margin)
        )
    return Check(
        size=size,
        accuracy=accuracy_of(int((predicted != right).sum()), len(right)),
        agreement=float((predicted == expected.argmax(dim=1)).double().mean()),
        largest_difference=difference,
        tolerance=tolerance,
        test=test,
        loss=loss,
        loss_bound=bound,
        margin=margin,
        timings=outputs.timings,
        problems=tuple(problems),
    )


def _check_form(logits: Tensor, probabilities: Tensor, expected: Tensor) -> list[str]:
    if not logits.shape == probabilities.shape == expected.shape:
        return [f"its outputs are {list(logits.shape)} and {list(probabilities.shape)}, not {list(expected.shape)}"]
    if not (logits.isfinite().all() and probabilities.isfinite().all()):
        return ["it returns values that are not finite"]
    difference = float((logits.double().softmax(dim=1) - probabilities).abs().max())
    if difference > _SOFTMAX_TOLERANCE:
        return [f"its probabilities differ from the softmax of its logits by up to {difference:.1e}"]
    return []


def _check_exact(logits: Tensor, expected: Tensor, difference: float, tolerance: float) -> list[str]:
    problems = []
    if difference > tolerance:
        problems.append(f"its logits differ from PyTorch's by up to {difference:.1e}; {tolerance:.1e} is allowed")
    first, second = expected.topk(2, dim=1).values.unbind(dim=1)
    other = (logits.argmax(dim=1) != expected.argmax(dim=1)) & (first - second > tolerance)
    if count := int(other.sum()):
        problems.append(f"it predicts another class for {count:,} of {len(expected):,} test items")
    return problems


def _check_loss(test: McNemar, items: int, margin: float | None) -> list[str]:
    lost = test.only_second_wrong - test.only_first_wrong
    if margin is None or lost <= margin / 100 * items + 1e-9:  # counts: a loss of exactly the margin passes
        return []
    return [
        f"it loses {100 * lost / items:.2f} percentage points of accuracy; {margin:g} is allowed (--margin). It alone "
        f"is wrong on {test.only_second_wrong:,} test items, PyTorch alone on {test.only_first_wrong:,}; exact McNemar "
        f"{equate_p(test.p_value)}"
    ]


def _bound_loss(test: McNemar, items: int) -> tuple[float, float]:
    """Return the loss of accuracy in percentage points, and its one-sided 95 % upper bound.

    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data": squared distances of Wilson's limits are added, here for the two discordant shares.
    """
    lost, gained = test.only_second_wrong / items, test.only_first_wrong / items
    _, high = proportion_interval(test.only_second_wrong, items, confidence=1 - 2 * LEVEL)
    low, _ = proportion_interval(test.only_first_wrong, items, confidence=1 - 2 * LEVEL)
    return 100 * (lost - gained), 100 * (lost - gained + ((high - lost) ** 2 + (gained - low) ** 2) ** 0.5)
