"""Fidelity: does the student do what its teacher does? Another question than whether it is right."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kd.checks import require, require_labels, require_logits
from kd.losses import kd_loss


class Match(NamedTuple):
    """How closely two networks match on a number of images.

    Attributes:
        images: at least 1.
        agreement: share of equal predictions, in [0, 1].
        kl: mean KL(teacher ‖ student) in nats at T = 1, ≥ 0.
        softened_kl: the same at the temperature of the training.
    """

    images: int
    agreement: float
    kl: float
    softened_kl: float


class Fidelity(NamedTuple):
    """The match over all images and on those that the teacher has right, or wrong; None where there is none."""

    temperature: float
    overall: Match
    teacher_right: Match | None
    teacher_wrong: Match | None


def fidelity(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Fidelity:
    """How closely a student matches its teacher.

    What a value is worth shows against two networks of which neither taught the other: the same function with a control
    in the student's place, or with two controls of different seeds (the second then stands for the teacher).

    Args:
        student_logits: [N, K], finite, before any softmax; N ≥ 1, K ≥ 2.
        teacher_logits: [N, K], likewise, for the same images in the same order.
        labels: [N], whole numbers in 0 … K − 1.
        temperature: T > 0 of the training, for ``softened_kl``.

    Raises:
        ValueError: an argument is none of that.

    Source: Stanton et al. 2021, "Does knowledge distillation really work?", arXiv:2106.05945: average top-1 agreement
    and average predictive KL. The softened divergence and the split by the teacher's answer are additions.
    """
    _require_pair(student_logits, teacher_logits)
    require_labels(labels, teacher_logits)
    right = teacher_logits.detach().cpu().argmax(dim=1) == labels.cpu()

    def match(mask: Tensor) -> Match:
        student, teacher = student_logits.detach().cpu()[mask], teacher_logits.detach().cpu()[mask]
        divergences = [mean_kl(student, teacher, temperature=t) for t in (1.0, temperature)]
        return Match(len(student), agreement(student, teacher), *divergences)

    return Fidelity(
        temperature,
        match(torch.ones_like(right)),
        match(right) if right.any() else None,
        match(~right) if not right.all() else None,
    )


def agreement(first_logits: Tensor, second_logits: Tensor) -> float:
    """Share of images, in [0, 1], for which two networks name the same class (the first of equal logits).

    Args:
        first_logits, second_logits: [N, K] for the same images in the same order; which is which does not matter.
    """
    _require_pair(first_logits, second_logits)
    same = first_logits.detach().cpu().argmax(dim=1) == second_logits.detach().cpu().argmax(dim=1)
    return float(same.double().mean())


def mean_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> float:
    """Mean over the images of KL(p_teacher ‖ p_student) in nats, both softened by T: ≥ 0, and 0 if they are equal.

    It is ``kd_loss`` in float64 without the factor T², which balances gradients and means nothing in a measure. It
    shrinks as T grows, in the end as 1/T², because everything softened looks alike: compare at one T only.
    """
    _require_pair(student_logits, teacher_logits)
    student, teacher = student_logits.detach().cpu().double(), teacher_logits.detach().cpu().double()
    loss = float(kd_loss(student, teacher, temperature=temperature))
    return max(0.0, loss / temperature**2)  # rounding may take the sum of a tiny divergence below 0


def _require_pair(first: Tensor, second: Tensor) -> None:
    require_logits("the first network's logits", first)
    require_logits("the second network's logits", second)
    shapes = [list(first.shape), list(second.shape)]
    require(shapes[0] == shapes[1], "the logits of two networks", shapes, "of one shape", "the same images and classes")
