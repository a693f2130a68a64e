"""Inputs unlike the training data: a low maximum logit, against a threshold from validation data.

A classifier returns a class for every input, also for a photo of a cat among digits. Its largest logit is on average
lower for such inputs (Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World Settings"; the
energy score of Liu et al. 2020 is almost the same number). It misses many of them: a high score proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from kd.evaluation.two_models import proportion_interval

SCORE = "max_logit"
SHARE = 0.01  # of the validation samples, at most, that have a score below the threshold


class Unlike(NamedTuple):
    """A threshold of the score, and the share of test samples below it, which are false alarms.

    Attributes:
        score: name of the score, ``SCORE``.
        threshold: an input with a lower score is unlike the training data.
        share: of the validation samples, at most, that have a lower score, in (0, 1).
        validation: number of validation samples.
        false_alarms: test samples with a lower score.
        n: test samples.
        false_alarm_rate: ``false_alarms / n``, with its 95 % Wilson interval.
    """

    score: str
    threshold: float
    share: float
    validation: int
    false_alarms: int
    n: int
    false_alarm_rate: float
    false_alarm_rate_low_95: float
    false_alarm_rate_high_95: float

    def contains(self, score: float) -> bool:
        """Return whether an input with this score is unlike the training data."""
        return score < self.threshold

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Unlike:
        """Return the entry of a file; raise ``ValueError`` if it is not one."""
        numbers: dict[str, Any] = {name: entry.get(name) for name in cls._fields if name != "score"}
        valid = all(type(value) in (int, float) and math.isfinite(value) for value in numbers.values())
        if not valid or entry.get("score") != SCORE or set(entry) != set(cls._fields):
            raise ValueError(f"'unlike' must have the numbers {', '.join(numbers)}, for the score {SCORE}")
        return cls(**entry)


def score_logits(logits: Tensor) -> Tensor:
    """Return the maximum logit [N] of logits [N, K]."""
    return logits.amax(dim=1)


def measure_unlike(validation: Tensor, test: Tensor) -> Unlike:
    """Choose the threshold on the validation split and count the false alarms on the test split.

    The model was trained on neither, so scores of new inputs of the same kind are distributed like these.

    Args:
        validation: logits [V, K] of the validation samples, V ≥ 1.
        test: logits [N, K] of the test samples, N ≥ 1.
    """
    scores = score_logits(validation).sort().values
    threshold = float(scores[int(SHARE * len(scores))])
    alarms, n = int((score_logits(test) < threshold).sum()), len(test)
    return Unlike(SCORE, threshold, SHARE, len(scores), alarms, n, alarms / n, *proportion_interval(alarms, n))
