"""Losses of feature maps [B, C, H, W] at one stage of each model. Averaged over the batch, in float32 or better; none
lets a gradient reach the teacher. They raise ``ValueError`` for shapes that cannot be compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require
from kd.losses.precision import wide


def hint_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Mean squared difference of maps of one shape [B, C, H, W], the student's after its projector. Zero at agreement.

    Source: Romero et al. 2015, arXiv:1412.6550, equation 3, which has half the sum in place of the mean.
    """
    _require_one_shape(student_maps, teacher_maps, "maps", by="projector")
    return F.mse_loss(wide(student_maps), wide(teacher_maps.detach()))


def at_loss(student_maps: Tensor, teacher_maps: Tensor, *, form: str = "code") -> Tensor:
    """Difference of attention: where the maps' squares, averaged over the channels, are large. Zero at agreement.

    Each sample's attention is scaled to a length of 1. Larger maps are pooled to the size of the smaller ones, and the
    channels need not be as many.

    Args:
        form: ``code``, the mean of the squared differences, as the authors' program has it; or ``paper``, the length of
            the difference. The former shrinks with the number of pixels, so weights belong to one or the other.

    Source: Zagoruyko, Komodakis 2017, arXiv:1612.03928, equation 2, without its factor 1/2.
    """
    require(form in ("code", "paper"), "form", form, "code or paper")
    student, teacher = same_size(wide(student_maps), wide(teacher_maps.detach()))
    difference = _attention(student) - _attention(teacher)
    return difference.square().mean() if form == "code" else torch.linalg.vector_norm(difference, dim=1).mean()


def vid_loss(means: Tensor, teacher_maps: Tensor, variances: Tensor) -> Tensor:
    """``½ · mean((F − μ)² / σ² + log σ²)``: how unlikely the teacher's maps F are under what the student foretells.

    A Gaussian for each value, without its constant ½ log 2π. The variance of a channel costs the logarithm of what it
    forgives, so agreement reads not 0 but ½ · mean log σ², and the best σ² is the channel's mean squared error.

    Args:
        means: μ of the shape of the teacher's maps [B, C, H, W], foretold from the student's.
        variances: σ² [C], above 0.

    Source: Ahn et al. 2019, arXiv:1904.05835, equations 5 and 6; averaged over all values as in later code.
    """
    if means.shape != teacher_maps.shape or variances.shape != means.shape[1:2]:
        raise ValueError(
            "means must have the shape [B, C, H, W] of the teacher's maps, and variances be [C]. "
            f"Got {list(means.shape)}, {list(teacher_maps.shape)} and {list(variances.shape)} instead."
        )
    error = (wide(means) - wide(teacher_maps.detach())).square().mean(dim=(0, 2, 3))
    spread = wide(variances)
    return (error / spread + spread.log()).mean() / 2


def hcl_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Mean squared difference of maps of one shape [B, C, H, W] as they are, and of their means in 4², 2², 1 fields.

    The weights are 1, ½, ¼, ⅛, divided by their sum; fields of no more than a pixel are left out. Zero at agreement.

    Source: Chen et al. 2021, arXiv:2104.09044, the hierarchical context loss of section 3; levels and weights are those
    of the authors' code.
    """
    levels = [side for side in (4, 2, 1) if side < min(student_maps.shape[2:])]
    total, weights = hint_loss(student_maps, teacher_maps), 1.0
    for halvings, side in enumerate(levels, start=1):
        ours, theirs = (F.adaptive_avg_pool2d(wide(maps), side) for maps in (student_maps, teacher_maps))
        total = total + hint_loss(ours, theirs) / 2**halvings
        weights += 1 / 2**halvings
    return total / weights


def mgd_loss(generated: Tensor, teacher_maps: Tensor) -> Tensor:
    """Squared difference of maps of one shape [B, C, H, W], summed over each sample's values. Zero at agreement.

    ``hint_loss`` times C · H · W: a weight for maps of one size is none for those of another.

    Args:
        generated: from the student's maps, of which some channels are missing (``without_some``).

    Source: Yang et al. 2022, arXiv:2205.01529, equation 4; averaged over the batch as in the authors' code.
    """
    return hint_loss(generated, teacher_maps) * teacher_maps[0].numel()


def ab_loss(student_maps: Tensor, teacher_maps: Tensor, *, margin: float = 1.0) -> Tensor:
    """Are the same neurons active? Squared distance from the right side of 0, ``margin`` beyond, in all of a sample.

    Where the teacher's value is above 0, the student's is to be ``margin`` or more, and elsewhere ``−margin`` or less.
    So it reads 0 where all are, and not at agreement; the teacher's maps are one lesson before and after a ReLU.

    Args:
        student_maps: of the shape of the teacher's [B, C, H, W], after a connector and before any ReLU.
        margin: above 0.

    Source: Heo et al. 2019, arXiv:1811.03233, the loss of section 3 with its margin of 1; averaged over the batch.
    """
    require(0 < margin < math.inf, "margin", margin, "a finite number above 0", "the authors take 1")
    _require_one_shape(student_maps, teacher_maps, "maps", by="connector")
    side = (teacher_maps.detach() > 0).to(torch.int8) * 2 - 1
    return (margin - side * wide(student_maps)).relu().square().flatten(1).sum(dim=1).mean()


def nst_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """How far apart both models' maps lie as sets of patterns: ``k(s, s) + k(t, t) − 2 · k(s, t)``. Zero at agreement.

    k is the mean of ⟨a, b⟩² over all maps a of one and b of the other, each scaled to a length of 1: the maximum mean
    discrepancy, squared, with the polynomial kernel of degree 2. Larger maps are averaged to the size of the smaller
    ones, and the channels need not be as many. In float32 or better, inside autocast too.

    Source: Huang, Wang 2017, arXiv:1707.01219, the kernel of degree 2 without offset; averaged over the batch. By
    products of matrices, where the authors' formula as it is written takes B · C · C · H · W numbers.
    """
    with torch.autocast(student_maps.device.type, enabled=False):
        ours, theirs = (
            F.normalize(maps.flatten(2), dim=2) for maps in same_size(wide(student_maps), wide(teacher_maps.detach()))
        )
        return _alike(ours, ours) + _alike(theirs, theirs) - 2 * _alike(ours, theirs)


def fsp_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of how maps flow on, ``flow`` from each layer to the next, summed. Zero at agreement.

    In float32 or better, inside autocast too.

    Args:
        student_maps, teacher_maps: [B, C, H, W] of two or more layers in the order of the pass. The channels must be as
            many at the same place on both sides; sizes may differ.

    Source: Yim et al. 2017, doi:10.1109/CVPR.2017.754, equations 1 and 2 with all weights 1; a mean over the C · C′
    values too, as in later code, and larger maps are averaged to the size of smaller ones, where they take maxima.
    """
    channels = [[maps.shape[1] for maps in each if maps.ndim == 4] for each in (student_maps, teacher_maps)]
    if len(channels[0]) < 2 or channels[0] != channels[1]:
        raise ValueError(
            "maps must be [B, C, H, W] of two or more layers, with as many channels on both sides. "
            f"Got {channels[0]} channels and {channels[1]} instead."
        )
    with torch.autocast(student_maps[0].device.type, enabled=False):
        ours = [flow(*pair) for pair in itertools.pairwise(student_maps)]
        theirs = [flow(*pair) for pair in itertools.pairwise(maps.detach() for maps in teacher_maps)]
        return torch.stack([F.mse_loss(*pair) for pair in zip(ours, theirs, strict=True)]).sum()


def flow(first: Tensor, second: Tensor) -> Tensor:
    """[B, C, C′]: the mean over all pixels of the product of each map of one layer with each one of another."""
    one, other = (maps.flatten(2) for maps in same_size(wide(first), wide(second)))
    return torch.bmm(one, other.transpose(1, 2)) / one.shape[2]


def cat_loss(student_maps: Tensor, teacher_maps: Tensor, *, side: int = 2, normalise: bool = False) -> Tensor:
    """Mean squared difference of class activation maps [B, K, H, W], averaged in side × side fields. Zero at agreement.

    Heights and widths need not be the same on both sides. With ``side=1`` and maps whose means are the logits it is the
    mean squared difference of the logits.

    Args:
        side: at least 1; the authors take 2. Neighbouring fields overlap where the pixels cannot be shared evenly.
        normalise: scale each map's fields to a length of 1 first, as the paper's formula does. Its own programs do not
            when the labels are learned from as well (CAT-KD), and weights belong to one or the other.

    Source: Guo et al. 2023, arXiv:2304.12777, section 3; a mean over the fields too, as in the authors' code, where the
    paper has their sum.
    """
    require(side >= 1, "side", side, "a whole number of at least 1", "the authors take 2")
    if student_maps.ndim != 4 or student_maps.shape[:2] != teacher_maps.shape[:2] or teacher_maps.ndim != 4:
        raise ValueError(
            "class activation maps must be [B, K, H, W] with one B and one K. "
            f"Got {list(student_maps.shape)} and {list(teacher_maps.shape)} instead."
        )
    ours, theirs = (
        F.adaptive_avg_pool2d(wide(maps), side).flatten(2) for maps in (student_maps, teacher_maps.detach())
    )
    if normalise:
        ours, theirs = F.normalize(ours, dim=2), F.normalize(theirs, dim=2)
    return F.mse_loss(ours, theirs)


def ft_loss(student_factors: Tensor, teacher_factors: Tensor) -> Tensor:
    """Mean absolute difference of factors of one shape [B, C, H, W], each sample's scaled to a length of 1.

    Zero at agreement, also up to a sample's scale. All of a sample's values are one vector, as the paper has it; later
    code averages the squared channels first, which is another loss, with weights of its own.

    Args:
        student_factors: the translator's, from the student's maps.
        teacher_factors: the paraphraser's, from the teacher's.

    Source: Kim, Park, Kwak 2018, arXiv:1802.04977, equation 4 with p = 1; a mean over the values as in the authors'
    code, so that it shrinks with the root of their number.
    """
    _require_one_shape(student_factors, teacher_factors, "factors", by="translator")
    ours, theirs = (
        F.normalize(wide(factors).flatten(1), dim=1) for factors in (student_factors, teacher_factors.detach())
    )
    return F.l1_loss(ours, theirs)


def semckd_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], attention: Tensor) -> Tensor:
    """Mean squared differences of all pairs of layers, by each sample's attention, averaged over the student's layers.

    Zero where all agree. A gradient goes through the attention too: it moves to what can be agreed upon.

    Args:
        student_maps: [B, C, H, W] of each pair, the student's after a projector of its own: S · T of them, of the
            student's first layer with each of the teacher's, then of its second one.
        teacher_maps: their partners, each of one shape with its own.
        attention: [B, S, T], weights of the teacher's layers, which add up to 1 for each of a sample's S.

    Source: Chen et al. 2021, arXiv:2012.03236, equation 8.
    """
    own, pairs = list(attention.shape[1:]), len(student_maps)
    require(
        len(own) == 2 and own[0] * own[1] == pairs, "attention", list(attention.shape), f"[B, S, T] of {pairs} pairs"
    )
    each = [_each(*pair) for pair in zip(student_maps, teacher_maps, strict=True)]
    return (wide(attention).flatten(1) * torch.stack(each, dim=1)).sum(dim=1).mean() / own[0]


def without_some(maps: Tensor, share: float) -> Tensor:
    """The maps [B, C, H, W] with about this share of the channels of each sample at 0, drawn anew at each call.

    What stays is not made larger, as dropout would. Drawn from torch's generator of the maps' device.
    """
    return maps * (torch.rand(*maps.shape[:2], 1, 1, device=maps.device) >= share)


def same_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both, with the larger maps averaged to the size of the smaller ones."""
    if first.ndim != 4 or second.ndim != 4 or len(first) != len(second):
        raise ValueError(
            f"maps must be [B, C, H, W] with one B. Got {list(first.shape)} and {list(second.shape)} instead."
        )
    height, width = (min(sizes) for sizes in zip(first.shape[2:], second.shape[2:], strict=True))
    one, other = (F.adaptive_avg_pool2d(maps, (height, width)) for maps in (first, second))
    return one, other


def _attention(maps: Tensor) -> Tensor:
    """[B, H · W], each row of length 1."""
    return F.normalize(maps.square().mean(dim=1).flatten(1), dim=1)


def _alike(first: Tensor, second: Tensor) -> Tensor:
    """The mean of the squared products of all rows of [B, C, D] with all of another such, sample by sample."""
    return torch.bmm(first, second.transpose(1, 2)).square().mean()


def _require_one_shape(student: Tensor, teacher: Tensor, what: str, *, by: str) -> None:
    """Raise ``ValueError`` unless both have one shape, to which ``by`` brings the student's."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's {what} must have the teacher's shape, by a {by}. "
            f"Got {list(student.shape)} and {list(teacher.shape)} instead."
        )


def _each(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """The mean squared difference [B] of each sample's maps."""
    _require_one_shape(student_maps, teacher_maps, "maps", by="projector")
    return (wide(student_maps) - wide(teacher_maps.detach())).square().flatten(1).mean(dim=1)
