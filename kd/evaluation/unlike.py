"""Inputs unlike the training data: a low maximum logit, or values outside the range of the validation inputs.

A classifier returns a class for every input, also for a photo of a cat among digits. Its largest logit is on average
lower for such inputs (Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World Settings"; the
energy score of Liu et al. 2020 is almost the same number), but some networks give high logits to noise or to inverted
images. Mean and size of the inputs (brightness and contrast of an image) reveal these. Inputs that resemble the
training data in these numbers are missed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd.data.loaders import make_loader
from kd.evaluation.two_models import proportion_interval

SCORE = "max_logit"
SHARE = 0.01  # of the validation samples, at most, that have a score below the threshold
_BATCH = 256


class Validation(NamedTuple):
    """Outputs and inputs on the validation split.

    Attributes:
        logits: [V, K] of each model, by name.
        moments: see ``collect_moments``.
    """

    logits: Mapping[str, Tensor]
    moments: Tensor | None


class Unlike(NamedTuple):
    """Limits beyond which an input is unlike the training data, and the share of test samples beyond them.

    Attributes:
        score: name of the score, ``SCORE``.
        threshold: a lower score is beyond the limit.
        share: of the validation samples, at most, that have a lower score, in (0, 1).
        mean_low, mean_high, rms_low, rms_high: range of the moments of the validation samples; None for tokens.
        validation: number of validation samples.
        false_alarms: test samples beyond a limit.
        n: test samples.
        false_alarm_rate: ``false_alarms / n``, with its 95 % Wilson interval.
    """

    score: str
    threshold: float
    share: float
    mean_low: float | None
    mean_high: float | None
    rms_low: float | None
    rms_high: float | None
    validation: int
    false_alarms: int
    n: int
    false_alarm_rate: float
    false_alarm_rate_low_95: float
    false_alarm_rate_high_95: float

    def flag(self, scores: Tensor, moments: Tensor | None) -> Tensor:
        """Return a mask [N] of the inputs that are beyond a limit.

        Args:
            scores: [N], from ``score_logits``.
            moments: [N, 2], from ``measure_moments``.
        """
        beyond = scores < self.threshold
        if moments is None or self.mean_low is None:
            return beyond
        low, high = (
            torch.tensor(limits) for limits in ((self.mean_low, self.rms_low), (self.mean_high, self.rms_high))
        )
        return beyond | ((moments < low) | (moments > high)).any(dim=1)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Unlike:
        """Return the entry of a file; raise ``ValueError`` if it is not one."""
        numbers: dict[str, Any] = {name: entry.get(name) for name in cls._fields if name != "score"}
        limits = [numbers[name] for name in ("mean_low", "mean_high", "rms_low", "rms_high")]
        needed = [value for value in numbers.values() if limits != [None] * 4 or value is not None]
        valid = all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in needed)
        if not valid or numbers["threshold"] is None or entry.get("score") != SCORE or set(entry) != set(cls._fields):
            raise ValueError(f"'unlike' must have the numbers {', '.join(numbers)}, for the score {SCORE}")
        compared = (
            "threshold",
            "mean_low",
            "mean_high",
            "rms_low",
            "rms_high",
        )  # torch takes no integers beyond 64 bits
        return cls(**{**entry, **{name: float(entry[name]) for name in compared if entry[name] is not None}})


def score_logits(logits: Tensor) -> Tensor:
    """Return the maximum logit [N] of logits [N, K]."""
    return logits.amax(dim=1)


def measure_moments(inputs: Tensor) -> Tensor | None:
    """Return mean and root mean square of each normalised input, [N, 2] float32; None for integers, such as tokens."""
    if not inputs.is_floating_point():
        return None
    values = inputs.flatten(1).double()
    return torch.stack([values.mean(dim=1), values.square().mean(dim=1).sqrt()], dim=1).float()


def collect_moments(dataset: Dataset[Any]) -> Tensor | None:
    """Return the moments [N, 2] of all inputs of a dataset, in its order; None for integers, such as tokens."""
    found = [measure_moments(batch[0]) for batch in make_loader(dataset, batch_size=_BATCH)]
    moments = [batch for batch in found if batch is not None]
    return torch.cat(moments) if moments else None


def measure_unlike(validation: Tensor, test: Tensor, *moments: Tensor | None) -> Unlike:
    """Choose the limits on the validation split and count the false alarms on the test split.

    The model was trained on neither, so new inputs of the same kind are distributed like these.

    Args:
        validation: logits [V, K] of the validation samples, V ≥ 1.
        test: logits [N, K] of the test samples, N ≥ 1.
        moments: of the validation and of the test samples, from ``collect_moments``; omitted or None for tokens.
    """
    scores = score_logits(validation).sort().values
    threshold = float(scores[int(SHARE * len(scores))])
    known, tested = moments if len(moments) == 2 else (None, None)
    limits: dict[str, float | None] = dict.fromkeys(("mean_low", "mean_high", "rms_low", "rms_high"))
    if known is not None:
        (limits["mean_low"], limits["rms_low"]), (limits["mean_high"], limits["rms_high"]) = (
            known.amin(dim=0).tolist(),
            known.amax(dim=0).tolist(),
        )
    rule: dict[str, Any] = {"score": SCORE, "threshold": threshold, "share": SHARE, "validation": len(scores), **limits}
    chosen = Unlike(**rule, **_count_alarms(0, 1))
    return chosen._replace(**_count_alarms(int(chosen.flag(score_logits(test), tested).sum()), len(test)))


def _count_alarms(alarms: int, n: int) -> dict[str, Any]:
    low, high = proportion_interval(alarms, n)
    rates = {"false_alarm_rate_low_95": low, "false_alarm_rate_high_95": high}
    return {"false_alarms": alarms, "n": n, "false_alarm_rate": alarms / n, **rates}
