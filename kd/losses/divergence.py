"""Other divergences than KL(p ‖ q) between the softened distributions of teacher (p) and student (q)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kd.checks import did_you_mean, require
from kd.losses.distributions import (
    divergences,
    keep_finite,
    prepare_logits,
    require_temperature,
    soften,
    soften_unmasked,
)
from kd.losses.response import kd_loss

# Divergences of ``divergence_loss``, with the default share of those that have one.
DIVERGENCES = {"forward": None, "reverse": None, "js": 0.5, "skew": 0.1, "skew-reverse": 0.1}


def divergence_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, divergence: str) -> Tensor:
    """Return ``T² · D(p, q)``, summed over the classes and averaged over the batch, in float32 or better.

    Zero if and only if the two distributions agree. No gradient reaches the teacher. Near agreement every D is
    quadratic in the difference of the softened logits, so T² keeps the gradient's scale as in ``kd_loss``:
    ``reverse`` is then about as large as ``forward``, ``js:β`` is β · (1 − β) and the skew divergences are (1 − A)²
    times as large.

    Args:
        student_logits: [B, K], before any softmax.
        teacher_logits: [B, K], before any softmax. A logit of −∞ masks its class; ``reverse``, which would be infinite,
            then compares the student's distribution over the other classes.
        temperature: T, above 0.
        divergence: one of

            - ``forward``: KL(p ‖ q), which is ``kd_loss``;
            - ``reverse``: KL(q ‖ p), which lets the student leave out classes that the teacher finds possible;
            - ``js`` or ``js:β``: β · KL(p ‖ m) + (1 − β) · KL(q ‖ m) with m = β · p + (1 − β) · q and β in (0, 1);
              β = 0.5 by default, the Jensen–Shannon divergence, which is at most log 2;
            - ``skew`` or ``skew:A``: KL(p ‖ A · p + (1 − A) · q) with A in [0, 1), 0.1 by default; 0 is ``forward``;
            - ``skew-reverse`` or ``skew-reverse:A``: KL(q ‖ A · q + (1 − A) · p); 0 is ``reverse``.

    Raises:
        ValueError: the shapes differ or are not [B, K], or a setting is out of range.

    Source: reverse: Gu et al. 2024, arXiv:2306.08543; js: Lin 1991, doi:10.1109/18.61115, and for any β Agarwal et al.
    2024, arXiv:2306.13649; skew: Ko et al. 2024, arXiv:2402.03898. These papers use T = 1, without T².
    """
    name, share = parse_divergence(divergence)
    if name == "forward" or (name == "skew" and share == 0):
        return kd_loss(student_logits, teacher_logits, temperature=temperature)
    if name == "reverse" or (name == "skew-reverse" and share == 0):
        return _reverse_loss(student_logits, teacher_logits, temperature)
    log_q, log_p = soften(student_logits, teacher_logits, temperature)
    if name == "skew":
        value = divergences(_mix(log_p, log_q, share), log_p, "batchmean")
    elif name == "skew-reverse":
        value = divergences(_mix(log_q, log_p, share), log_q, "batchmean")
    else:
        log_m = _mix(log_p, log_q, share)
        value = share * divergences(log_m, log_p, "batchmean") + (1 - share) * divergences(log_m, log_q, "batchmean")
    return temperature**2 * value


def parse_divergence(text: str) -> tuple[str, float]:
    """Return name and share of a divergence, such as ``skew:0.3``; the share is 0 if it has none.

    Raises:
        ValueError: there is no such divergence, or the share is out of range.
    """
    name, colon, given = text.partition(":")
    if name not in DIVERGENCES or (colon and DIVERGENCES[name] is None):
        hint = did_you_mean(name, DIVERGENCES)
        allowed = "forward, reverse, js, js:SHARE, skew, skew:SHARE, skew-reverse or skew-reverse:SHARE"
        raise ValueError(f"divergence must be {allowed}. Got {text!r} instead. {hint}".rstrip())
    try:
        share = float(given) if colon else DIVERGENCES[name] or 0.0
    except ValueError as error:
        raise ValueError(f"divergence: the share of {name} must be a number. Got {given!r} instead.") from error
    low_allowed = share > 0 if name == "js" else share >= 0
    bounds = "in (0, 1)" if name == "js" else "in [0, 1)"
    require(low_allowed and share < 1, f"divergence: the share of {name}", share, bounds)
    return name, share


def _reverse_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    require_temperature(temperature)
    student, teacher = prepare_logits(student_logits, teacher_logits)
    is_masked = (teacher == -math.inf) & (teacher.amax(dim=1, keepdim=True) > -math.inf)  # NaN without any class
    log_q, log_p = soften_unmasked(student, teacher, is_masked, temperature)
    return temperature**2 * divergences(log_p, log_q, "batchmean")


def _mix(log_first: Tensor, log_second: Tensor, share: float) -> Tensor:
    """Return the logarithm of ``share · first + (1 − share) · second``, for a share in (0, 1)."""
    first, second = keep_finite(log_first), keep_finite(log_second)  # the gradient would be NaN where both are −∞
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))
