"""Verdicts and contrasts as plain data, for the JSON files of ``kd compare``, ``kd sweep`` and ``kd judge``."""

from __future__ import annotations

from statistics import median
from typing import Any

from kd.evaluation.contrast import Contrast
from kd.evaluation.paired_seeds import Pairs
from kd.evaluation.verdict import Judgement
from kd.evaluation.verdict_text import power_at


def describe_judgement(judgement: Judgement, pairs: Pairs | None = None) -> dict[str, Any]:
    """Describe a verdict with its contrasts, intervals and power; ``pairs`` adds the tests on numbers of errors."""
    question = judgement.question
    return {
        "verdict": judgement.verdict,
        "margin": judgement.margin,
        "p": judgement.p,
        "p_helps": judgement.p_helps,
        "questions": judgement.family,
        "interval": judgement.interval,
        "interval_confidence": 1 - judgement.level,
        "inner_interval": judgement.inner,
        "inner_interval_confidence": 1 - 2 * judgement.inner_level,
        "smoothed_interval": judgement.smoothed,
        "smoothed_interval_confidence": 1 - judgement.smoothed_level,
        "control": describe_contrast(question.control),
        "smoothed": question.smoothed and describe_contrast(question.smoothed),
        "power": power_at(judgement)._asdict(),
        **({"pairs": pairs._asdict()} if pairs else {}),
    }


def describe_contrast(contrast: Contrast) -> dict[str, Any]:
    """Describe a contrast: its differences, and its intervals for new test items and for these."""
    return {
        "differences": contrast.differences,
        "mean": contrast.mean,
        "sd": contrast.sd,
        "median": median(contrast.differences),
        "interval_95_new_items": contrast.interval() if contrast.estimate else None,
        "interval_95_these_items": contrast.seeds_interval(),
        "estimate": contrast.estimate and contrast.estimate._asdict(),
        "p": contrast.p,
    }
