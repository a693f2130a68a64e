"""Distributions of logits [B, K] for the losses: softened, decoupled from the label, compared where not masked.

A teacher's logit of −∞ masks its class: the probability is 0, and the class adds nothing to a loss, even if the student
masks it too. Each row must have a finite logit, otherwise the loss is NaN.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_samples
from kd.losses.precision import widen


def prepare_logits(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return both logits in float32 or better, the teacher's detached, after checking their shapes."""
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            "student_logits and teacher_logits must both be [batch, classes], of the same shape. "
            f"Got {list(student_logits.shape)} and {list(teacher_logits.shape)} instead."
        )
    require_samples(len(student_logits))
    return widen(student_logits), widen(teacher_logits.detach())


def require_temperature(temperature: float) -> None:
    """Raise ``ValueError`` unless the temperature is a finite number above 0."""
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "4 to 10 is usual")


def soften(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return log q and log p at the temperature, whose value is not checked if it is a tensor."""
    if isinstance(temperature, Tensor):  # its value is not read, which would force a GPU sync
        shape, advice = list(temperature.shape), "for one per sample, divide both logits by [B, 1] and pass 1"
        require(not shape, "the shape of the temperature", shape, "[], of a scalar", advice)
    else:
        require_temperature(temperature)
    student, teacher = prepare_logits(student_logits, teacher_logits)
    return F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)


def soften_unmasked(student: Tensor, teacher: Tensor, is_masked: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the logarithms (student's, teacher's) of the softened distributions over the classes that are not masked.

    Args:
        student, teacher: results of ``prepare_logits``.
        is_masked: [B, K] bool.
    """
    # The lowest finite number instead of −∞, so that products with a probability of 0 are 0.
    lowest = torch.finfo(student.dtype).min / 2
    log_q, log_p = (
        F.log_softmax((logits / temperature).masked_fill(is_masked, lowest), dim=1) for logits in (student, teacher)
    )
    return log_q, log_p


def decouple(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of "label" and "any other class" [B, 2], and those within the others [B, K − 1].

    The largest of the other logits is subtracted before any rounding, so an offset that all classes share costs no
    digits. The labels must have been checked. If all other classes are masked, so are the log-probabilities within.
    """
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, columns + (columns >= labels.unsqueeze(1)))
    top = keep_finite(others.detach().amax(dim=1, keepdim=True))
    others = (others - top) / temperature
    total = others.logsumexp(dim=1, keepdim=True)
    gap = (logits.gather(1, labels.unsqueeze(1)) - top) / temperature - total
    return F.logsigmoid(torch.cat([gap, -gap], dim=1)), others - keep_finite(total)


def divergences(log_q: Tensor, log_p: Tensor, reduction: str = "none") -> Tensor:
    """Return ``p · (log p − log q)`` of each class, or reduced as by ``torch.nn.functional.kl_div``."""
    # Without the finite numbers, 0 · (−∞ − log q) would be NaN. All other values stay as they are, bit for bit.
    return F.kl_div(clear_masked(log_q, log_p), keep_finite(log_p), reduction=reduction, log_target=True)


def cross_entropies(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Return the cross-entropy ``−Σ p log q`` of each row."""
    return -(log_p.exp() * clear_masked(log_q, log_p)).sum(dim=1)


def clear_masked(log_q: Tensor, masks: Tensor) -> Tensor:
    """Return log q with 0 for the classes that the other logits or log-probabilities mask: 0 · log 0 is 0."""
    return log_q.masked_fill(masks == -math.inf, 0)


def select_labels(values: Tensor, labels: Tensor) -> Tensor:
    """Return the value [B] of each row at its label."""
    return values.gather(1, labels.unsqueeze(1)).squeeze(1)


def keep_finite(values: Tensor) -> Tensor:
    """Return the values with −∞ replaced by the lowest finite number."""
    return values.clamp(min=torch.finfo(values.dtype).min)
