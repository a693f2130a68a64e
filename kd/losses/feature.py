"""Losses of feature maps [B, C, H, W], averaged over the batch and computed in float32 or better.

No gradient reaches the teacher. The losses raise ``ValueError`` for incompatible shapes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_maps
from kd.losses.precision import scale_to_unit, widen


def hint_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """FitNet hint loss: mean squared difference of maps [B, C, H, W] of equal shape. Zero at agreement.

    The student's maps are passed after their projector.

    Source: Romero et al. 2015, arXiv:1412.6550, equation 3, with the mean instead of half the sum. The paper trains on
    hints first and distils afterwards; ``fitnet`` adds both terms.
    """
    _require_same_shape(student_maps, teacher_maps, "maps", by="projector")
    return F.mse_loss(widen(student_maps), widen(teacher_maps.detach()))


def at_loss(student_maps: Tensor, teacher_maps: Tensor, *, form: str = "code") -> Tensor:
    """Attention-transfer loss: difference of the attention maps of student and teacher. Zero at agreement.

    Attention is the mean of the squared maps over the channels, normalised per sample to unit length. Larger maps are
    pooled to the size of the smaller ones. The numbers of channels may differ.

    Args:
        form: ``code``, the mean of the squared differences as in the authors' code; or ``paper``, the norm of the
            difference. ``code`` shrinks with the number of pixels, so the two forms need different weights.

    Source: Zagoruyko, Komodakis 2017, arXiv:1612.03928, equation 2, without its factor 1/2.
    """
    require(form in ("code", "paper"), "form", form, "code or paper")
    student, teacher = match_sizes(widen(student_maps), widen(teacher_maps.detach()))
    difference = _attention(student) - _attention(teacher)
    return difference.square().mean() if form == "code" else torch.linalg.vector_norm(difference, dim=1).mean()


def vid_loss(means: Tensor, teacher_maps: Tensor, variances: Tensor) -> Tensor:
    """Variational information distillation: ``½ · mean((F − μ)² / σ² + log σ²)`` for the teacher's maps F.

    This is the negative log-likelihood of the teacher's maps under Gaussians predicted by the student, without the
    constant ½ log 2π. At agreement it is not 0 but ½ · mean log σ², which can be negative. The optimal σ² is the
    channel's mean squared error.

    Args:
        means: μ [B, C, H, W] predicted from the student's maps; same shape as the teacher's maps.
        teacher_maps: F [B, C, H, W].
        variances: σ² [C], above 0.

    Source: Ahn et al. 2019, arXiv:1904.05835, equations 5 and 6; averaged over all values, as in later implementations.
    """
    if means.shape != teacher_maps.shape or variances.shape != means.shape[1:2]:
        raise ValueError(
            "means must have the shape [B, C, H, W] of the teacher's maps, and variances the shape [C]. "
            f"Got {list(means.shape)}, {list(teacher_maps.shape)} and {list(variances.shape)} instead."
        )
    require_maps("means", means)
    errors = (widen(means) - widen(teacher_maps.detach())).square().mean(dim=(0, 2, 3))
    variances = widen(variances)
    return (errors / variances + variances.log()).mean() / 2


def hcl_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Hierarchical context loss: ``hint_loss`` at full size and after average pooling to 4 × 4, 2 × 2 and 1 × 1.

    The weights are 1, ½, ¼, ⅛, divided by their sum. Levels that are not smaller than the maps are skipped. Zero at
    agreement.

    Args:
        student_maps, teacher_maps: [B, C, H, W] of equal shape.

    Source: Chen et al. 2021, arXiv:2104.09044, section 3; levels and weights as in the authors' code.
    """
    require_maps("the student's maps", student_maps)
    levels = [side for side in (4, 2, 1) if side < min(student_maps.shape[2:])]
    total, weights = hint_loss(student_maps, teacher_maps), 1.0
    for halvings, side in enumerate(levels, start=1):
        student, teacher = (F.adaptive_avg_pool2d(widen(maps), side) for maps in (student_maps, teacher_maps))
        total = total + hint_loss(student, teacher) / 2**halvings
        weights += 1 / 2**halvings
    return total / weights


def mgd_loss(generated: Tensor, teacher_maps: Tensor) -> Tensor:
    """Masked generative distillation: squared difference, summed over C, H and W. Zero at agreement.

    Equals ``hint_loss`` times C · H · W, so a good weight depends on the size of the maps.

    Args:
        generated: [B, C, H, W], generated from the student's maps after some channels are masked (``drop_channels``).
        teacher_maps: [B, C, H, W].

    Source: Yang et al. 2022, arXiv:2205.01529, equation 4; averaged over the batch as in the authors' code.
    """
    return hint_loss(generated, teacher_maps) * teacher_maps[0].numel()


def ab_loss(student_maps: Tensor, teacher_maps: Tensor, *, margin: float = 1.0) -> Tensor:
    """Activation-boundary loss: squared hinge loss on the sign of the teacher's values, summed over each sample.

    Where the teacher's value is positive, the student's should be at least ``margin``; elsewhere at most ``−margin``.
    The loss is 0 if all values satisfy this, so agreement alone does not give 0. A ReLU on the teacher's maps does not
    change the loss.

    Args:
        student_maps: [B, C, H, W], same shape as the teacher's maps; after a connector and before any ReLU.
        teacher_maps: [B, C, H, W].
        margin: above 0.

    Source: Heo et al. 2019, arXiv:1811.03233, section 3 with its margin of 1; averaged over the batch.
    """
    require(0 < margin < math.inf, "margin", margin, "a finite number above 0", "the authors use 1")
    _require_same_shape(student_maps, teacher_maps, "maps", by="connector")
    signs = (teacher_maps.detach() > 0).to(torch.int8) * 2 - 1
    return (margin - signs * widen(student_maps)).relu().square().flatten(1).sum(dim=1).mean()


def nst_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Neuron-selectivity loss: squared MMD ``k(s, s) + k(t, t) − 2 · k(s, t)`` of the sets of maps. Zero at agreement.

    The kernel is polynomial of degree 2: k is the mean of ⟨a, b⟩² over all pairs of maps, each scaled to unit length.
    Larger maps are averaged to the size of the smaller ones. The numbers of channels may differ. Computed in float32
    or better, also inside autocast.

    Source: Huang, Wang 2017, arXiv:1707.01219, the kernel of degree 2 without offset; averaged over the batch. Matrix
    products avoid the B · C · C · H · W numbers of the authors' formula.
    """
    with torch.autocast(student_maps.device.type, enabled=False):
        student, teacher = (
            scale_to_unit(maps.flatten(2), dim=2)
            for maps in match_sizes(widen(student_maps), widen(teacher_maps.detach()))
        )
        within = _mean_squared_product(student, student) + _mean_squared_product(teacher, teacher)
        return within - 2 * _mean_squared_product(student, teacher)


def fsp_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of the FSP matrices of consecutive layers, summed over the layers. Zero at agreement.

    FSP is "flow of solution procedure". Computed in float32 or better, also inside autocast.

    Args:
        student_maps, teacher_maps: [B, C, H, W] of two or more layers in forward order. Corresponding layers of the two
            models must have the same number of channels; sizes may differ.

    Source: Yim et al. 2017, doi:10.1109/CVPR.2017.754, equations 1 and 2 with all weights 1. Also averaged over the
    C · C′ values, as in later implementations. Larger maps are average-pooled; the authors use max pooling.
    """
    channels = [[maps.shape[1] for maps in layers if maps.ndim == 4] for layers in (student_maps, teacher_maps)]
    if len(channels[0]) < 2 or channels[0] != channels[1]:
        raise ValueError(
            "maps must have shape [B, C, H, W] of two or more layers, with the same numbers of channels on both sides. "
            f"Got {channels[0]} channels and {channels[1]} instead."
        )
    with torch.autocast(student_maps[0].device.type, enabled=False):
        student = [fsp_matrix(*pair) for pair in itertools.pairwise(student_maps)]
        teacher = [fsp_matrix(*pair) for pair in itertools.pairwise(maps.detach() for maps in teacher_maps)]
        return torch.stack([F.mse_loss(*pair) for pair in zip(student, teacher, strict=True)]).sum()


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Return the FSP matrix [B, C, C′] of two layers: the products of all pairs of their maps, averaged over pixels."""
    first, second = (maps.flatten(2) for maps in match_sizes(widen(first), widen(second)))
    return torch.bmm(first, second.transpose(1, 2)) / first.shape[2]


def cat_loss(student_maps: Tensor, teacher_maps: Tensor, *, side: int = 2, normalise: bool = False) -> Tensor:
    """Mean squared difference of class activation maps [B, K, H, W], pooled to side × side. Zero at agreement.

    Heights and widths may differ between the models. With ``side=1`` and maps whose means are the logits, the loss is
    the mean squared difference of the logits.

    Args:
        student_maps, teacher_maps: [B, K, H, W], one map per class.
        side: side of the pooled maps, at least 1; the authors use 2. Pooling windows overlap if ``side`` does not
            divide the size of the maps.
        normalise: scale each pooled map to unit length first, as in the paper's formula. The authors' code does not
            normalise if the labels are used too (CAT-KD). The two variants need different weights.

    Source: Guo et al. 2023, arXiv:2304.12777, section 3; averaged over the pixels too, as in the authors' code; the
    paper sums over them.
    """
    require(side >= 1, "side", side, "an integer of at least 1", "the authors use 2")
    if student_maps.ndim != 4 or student_maps.shape[:2] != teacher_maps.shape[:2] or teacher_maps.ndim != 4:
        raise ValueError(
            "class activation maps must have shape [B, K, H, W] with equal B and K. "
            f"Got {list(student_maps.shape)} and {list(teacher_maps.shape)} instead."
        )
    require_maps("class activation maps", student_maps)
    student, teacher = (
        F.adaptive_avg_pool2d(widen(maps), side).flatten(2) for maps in (student_maps, teacher_maps.detach())
    )
    if normalise:
        student, teacher = scale_to_unit(student, dim=2), scale_to_unit(teacher, dim=2)
    return F.mse_loss(student, teacher)


def ft_loss(student_factors: Tensor, teacher_factors: Tensor) -> Tensor:
    """Factor-transfer loss: mean absolute difference of factors, scaled to unit length. Zero at agreement.

    Invariant to the scale of a sample's factors. All values of a sample form one vector, as in the paper. Later
    implementations average the squared channels first; this is a different loss and needs other weights.

    Args:
        student_factors: [B, C, H, W], the translator's output for the student's maps.
        teacher_factors: the paraphraser's output for the teacher's maps, same shape.

    Source: Kim, Park, Kwak 2018, arXiv:1802.04977, equation 4 with p = 1; averaged over the values as in the authors'
    code, so the loss shrinks with the square root of their number.
    """
    _require_same_shape(student_factors, teacher_factors, "factors", by="translator")
    student, teacher = (
        scale_to_unit(widen(factors).flatten(1), dim=1) for factors in (student_factors, teacher_factors.detach())
    )
    return F.l1_loss(student, teacher)


def semckd_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], attention: Tensor) -> Tensor:
    """Attention-weighted mean squared differences of all pairs of layers, averaged over the student's S layers.

    Zero if all pairs agree. The gradient also flows through the attention and shifts it to pairs that agree.

    Args:
        student_maps: S · T projected maps [B, C, H, W], one for each pair: the student's first layer with each of the
            teacher's T layers, then its second layer, and so on.
        teacher_maps: the teacher's maps of the same pairs, each of the same shape as the student's.
        attention: [B, S, T], weights of the teacher's layers; they sum to 1 over T.

    Source: Chen et al. 2021, arXiv:2012.03236, equation 8.
    """
    layers, pairs = list(attention.shape[1:]), len(student_maps)
    require(
        len(layers) == 2 and layers[0] * layers[1] == pairs,
        "attention",
        list(attention.shape),
        f"of shape [B, S, T] for {pairs} pairs",
    )
    losses = [_mean_squared_differences(*pair) for pair in zip(student_maps, teacher_maps, strict=True)]
    return (widen(attention).flatten(1) * torch.stack(losses, dim=1)).sum(dim=1).mean() / layers[0]


def drop_channels(maps: Tensor, share: float) -> Tensor:
    """Return the maps [B, C, H, W] with each channel of each sample set to 0 with probability ``share``.

    Unlike in dropout, the remaining channels are not rescaled. Uses torch's generator of the maps' device.
    """
    return maps * (torch.rand(*maps.shape[:2], 1, 1, device=maps.device) >= share)


def match_sizes(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return both batches of maps, the larger ones average-pooled to the size of the smaller ones."""
    if first.ndim != 4 or second.ndim != 4 or len(first) != len(second):
        raise ValueError(
            f"maps must have shape [B, C, H, W] with equal B. Got {list(first.shape)} and {list(second.shape)} instead."
        )
    require_maps("maps", first)
    height, width = (min(sizes) for sizes in zip(first.shape[2:], second.shape[2:], strict=True))
    first, second = (F.adaptive_avg_pool2d(maps, (height, width)) for maps in (first, second))
    return first, second


def _attention(maps: Tensor) -> Tensor:
    """Return attention [B, H · W], rows of unit length."""
    return scale_to_unit(maps.square().mean(dim=1).flatten(1), dim=1)


def _mean_squared_product(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared inner product of all rows of [B, C, D] with all rows of [B, C′, D], sample by sample."""
    return torch.bmm(first, second.transpose(1, 2)).square().mean()


def _require_same_shape(student: Tensor, teacher: Tensor, name: str, *, by: str) -> None:
    """Raise ``ValueError`` unless both are [B, C, H, W] of one shape. The error names ``by``, which adapts shapes."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's {name} must have the shape of the teacher's; adapt them by a {by}. "
            f"Got {list(student.shape)} and {list(teacher.shape)} instead."
        )
    require_maps(name, student)


def _mean_squared_differences(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Return the mean squared difference [B] of each sample's maps."""
    _require_same_shape(student_maps, teacher_maps, "maps", by="projector")
    return (widen(student_maps) - widen(teacher_maps.detach())).square().flatten(1).mean(dim=1)
