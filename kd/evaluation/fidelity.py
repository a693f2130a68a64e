"""Fidelity: how closely a student's outputs match its teacher's, whether they are correct or not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kd.checks import require, require_labels, require_logits
from kd.losses import kd_loss


class Match(NamedTuple):
    """Agreement and divergence of two networks on a set of images.

    Attributes:
        images: at least 1.
        agreement: fraction of equal predictions, in [0, 1].
        kl: mean KL(teacher ‖ student) in nats at T = 1, ≥ 0.
        softened_kl: the same at the training temperature.
    """

    images: int
    agreement: float
    kl: float
    softened_kl: float


class Fidelity(NamedTuple):
    """The match on all images, and on images that the teacher classifies correctly or wrongly (None if there are none).

    Attributes:
        temperature: the training temperature, used for ``softened_kl``.
    """

    temperature: float
    overall: Match
    teacher_right: Match | None
    teacher_wrong: Match | None


def fidelity(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Fidelity:
    """Measure how closely a student matches its teacher.

    As a baseline, compare two networks of which neither was distilled from the other: replace the student with a
    control, or both networks with controls of different seeds.

    Args:
        student_logits, teacher_logits: [N, K], finite, for the same images in the same order; N ≥ 1, K ≥ 2.
        labels: [N], integers in 0 … K − 1.
        temperature: training temperature T > 0, for ``softened_kl``.

    Raises:
        ValueError: an argument is outside these ranges.

    Source: Stanton et al. 2021, "Does knowledge distillation really work?", arXiv:2106.05945: average top-1 agreement
    and average predictive KL. The softened divergence and the split by correctness of the teacher are additions.
    """
    _require_pair(student_logits, teacher_logits)
    require_labels(labels, teacher_logits)
    correct = teacher_logits.detach().cpu().argmax(dim=1) == labels.cpu()

    def match(mask: Tensor) -> Match:
        student, teacher = student_logits.detach().cpu()[mask], teacher_logits.detach().cpu()[mask]
        divergences = [mean_kl(student, teacher, temperature=t) for t in (1.0, temperature)]
        return Match(len(student), agreement(student, teacher), *divergences)

    return Fidelity(
        temperature,
        match(torch.ones_like(correct)),
        match(correct) if correct.any() else None,
        match(~correct) if not correct.all() else None,
    )


def agreement(first_logits: Tensor, second_logits: Tensor) -> float:
    """Return the fraction of images, in [0, 1], for which two networks predict the same class (the first one on ties).

    Args:
        first_logits, second_logits: [N, K] for the same images in the same order. The function is symmetric.
    """
    _require_pair(first_logits, second_logits)
    same = first_logits.detach().cpu().argmax(dim=1) == second_logits.detach().cpu().argmax(dim=1)
    return float(same.double().mean())


def mean_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> float:
    """Return the mean over images of KL(p_teacher ‖ p_student) in nats, both softened by T: ≥ 0, and 0 if equal.

    This is ``kd_loss`` in float64 without the factor T², which only balances gradients. It shrinks as T grows, in the
    limit as 1/T², because softened probabilities become uniform: compare values at the same T only.
    """
    _require_pair(student_logits, teacher_logits)
    student, teacher = student_logits.detach().cpu().double(), teacher_logits.detach().cpu().double()
    loss = float(kd_loss(student, teacher, temperature=temperature))
    return max(0.0, loss / temperature**2)  # rounding can make a tiny divergence negative


def _require_pair(first: Tensor, second: Tensor) -> None:
    require_logits("the first network's logits", first)
    require_logits("the second network's logits", second)
    shapes = [list(first.shape), list(second.shape)]
    require(shapes[0] == shapes[1], "logits of both networks", shapes, "equal in shape", "the same images and classes")
