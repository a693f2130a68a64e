"""Factories of the methods that learn from the teacher's features, for the table in ``kd.methods``.

The teacher is asked at each step, in eval mode and without a gradient. Each objective has a ``hard`` term, the
cross-entropy with the labels, and a ``feature`` one, the method's own, weighted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require
from kd.losses.feature import at_loss, hint_loss, mgd_loss, nst_loss, same_size, vid_loss, without_some
from kd.losses.relation import cc_loss, pkt_loss, rkd_angle_loss, rkd_distance_loss, sp_loss
from kd.methods.objectives import supervised_where_labelled
from kd.models.features import capture, find_penultimate, find_stages, match_stages, shapes
from kd.seeding import seeded
from kd.types import Batch, Objective

# (the student's features, the teacher's, layer by layer) → the method's own loss, weighted.
FeatureLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class FeatureObjective(nn.Module):
    """Cross-entropy with the labels, and a loss of what some layers of both models compute.

    Args:
        teacher: asked at each step. It is no part of this module: not trained, not moved, not in its state.
        layers: of the student and of the teacher, in pairs, as ``kd.models.features.capture`` takes them.
        loss: of the captured features; a module's parameters become this one's.
    """

    def __init__(self, teacher: nn.Module, layers: Sequence[tuple[str, str]], loss: FeatureLoss) -> None:
        super().__init__()
        self.teacher = (teacher,)  # in a tuple, where torch does not look for modules
        self.student_layers, self.teacher_layers = (list(names) for names in zip(*layers, strict=True))
        self.loss = loss

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        return output, {"hard": terms["hard"], "feature": self.loss(*features)}


def capture_both(
    model: nn.Module, teacher: nn.Module, batch: Batch, student_layers: Sequence[str], teacher_layers: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor], list[Tensor], list[Tensor]]:
    """What ``supervised_where_labelled`` returns, and what the layers of student and teacher answer with on the way."""
    teacher.eval()  # at every step: who trains the teacher further leaves it in training mode
    with torch.no_grad(), capture(teacher, *teacher_layers) as theirs:
        teacher(batch[0])
    with capture(model, *student_layers) as ours:
        output, terms = supervised_where_labelled(model, batch)
    return output, terms, [ours[name] for name in student_layers], [theirs[name] for name in teacher_layers]


class FitNetLoss(nn.Module):
    """``weight · hint_loss`` of maps that a 1 × 1 convolution has given the teacher's number of channels.

    Args:
        channels: of the student and of the teacher.
    """

    def __init__(self, channels: tuple[int, int], weight: float) -> None:
        super().__init__()
        with seeded(0):
            self.projector = nn.Conv2d(*channels, kernel_size=1)
        self.weight = weight

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        student, teacher = same_size(ours[0], theirs[0])
        return self.weight * hint_loss(self.projector(student), teacher)


def fitnet(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · hint_loss`` at the middle one of the stages, or at the named ones, with a projector."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    middle = pairs[len(pairs) // 2]
    (channels,) = count_channels(student, teacher, batch, [middle])
    return FeatureObjective(teacher, [middle], FitNetLoss(channels, weight).to(batch[0].device))


class VIDLoss(nn.Module):
    """``weight · vid_loss`` summed over stages: three 1 × 1 convolutions foretell the means, a parameter each variance.

    Args:
        channels: of the student and of the teacher, for each stage.
    """

    START, LEAST = 5.0, 1e-5  # of the variances, the authors'

    def __init__(self, channels: Sequence[tuple[int, int]], weight: float) -> None:
        super().__init__()
        with seeded(0):
            self.means = nn.ModuleList(_foreteller(*pair) for pair in channels)
        start = math.log(math.expm1(self.START - self.LEAST))
        self.scales = nn.ParameterList(torch.full((theirs,), start) for _, theirs in channels)
        self.weight = weight

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        pairs = [same_size(*pair) for pair in zip(ours, theirs, strict=True)]
        terms = [
            vid_loss(foretell(student), teacher, F.softplus(scale) + self.LEAST)
            for foretell, scale, (student, teacher) in zip(self.means, self.scales, pairs, strict=True)
        ]
        return self.weight * torch.stack(terms).sum()


def vid(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · vid_loss`` summed over all stages that both have, from the last one back."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    foretold = VIDLoss(count_channels(student, teacher, batch, pairs), weight).to(batch[0].device)
    return FeatureObjective(teacher, pairs, foretold)


class MGDLoss(nn.Module):
    """``weight · mgd_loss`` of maps that two 3 × 3 convolutions make of the student's, of which some are missing.

    Args:
        channels: of the student and of the teacher.
        mask: the share of channels that is missing in training; none is where it is only measured.
    """

    def __init__(self, channels: tuple[int, int], weight: float, mask: float) -> None:
        super().__init__()
        require(0 <= mask < 1, "mask", mask, "in [0, 1)", "the authors take 0.15")
        ours, theirs = channels
        with seeded(0):
            self.projector = nn.Conv2d(ours, theirs, 1) if ours != theirs else nn.Identity()
            first, second = (nn.Conv2d(theirs, theirs, 3, padding=1) for _ in range(2))
        self.generator = nn.Sequential(first, nn.ReLU(), second)
        self.weight, self.mask = weight, mask

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        student, teacher = same_size(ours[0], theirs[0])
        projected = self.projector(student)
        seen = without_some(projected, self.mask) if self.training else projected
        return self.weight * mgd_loss(self.generator(seen), teacher)


def mgd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    mask: float,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + weight · mgd_loss`` at the last of the stages, or at the last of the named layers."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    (channels,) = count_channels(student, teacher, batch, pairs[-1:])
    return FeatureObjective(teacher, pairs[-1:], MGDLoss(channels, weight, mask).to(batch[0].device))


def at(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    form: str,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + weight · at_loss`` summed over all stages that both have, from the last one back."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    return FeatureObjective(teacher, pairs, _over_stages(weight, partial(at_loss, form=form)))


def nst(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · nst_loss`` summed over all stages that both have, from the last one back."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    return FeatureObjective(teacher, pairs, _over_stages(weight, nst_loss))


def sp(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · sp_loss`` of the last maps, of the last linear layers' inputs where one has none, or as named."""
    found = [find_stages(model, batch[0]) for model in (student, teacher)]
    if all(found):  # the authors' layers: where both end with maps, these, though they need not be of one size
        student_layers, teacher_layers = (
            named or own[-1].layer for named, own in zip((student_layers, teacher_layers), found, strict=True)
        )
    rows = flatten_both(student, teacher, batch, student_layers, teacher_layers)
    return FeatureObjective(teacher, rows, _times(weight, sp_loss))


def rkd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    distance: float,
    angle: float,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + distance · rkd_distance_loss + angle · rkd_angle_loss``, of what the last linear layers are given.

    Or of the named layers. ``angle=0`` saves memory.
    """

    def loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        distances = distance * rkd_distance_loss(ours[0], theirs[0])
        return distances + angle * rkd_angle_loss(ours[0], theirs[0]) if angle else distances

    return FeatureObjective(teacher, flatten_both(student, teacher, batch, student_layers, teacher_layers), loss)


def pkt(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · pkt_loss``, layers as in ``rkd``."""
    return FeatureObjective(
        teacher, flatten_both(student, teacher, batch, student_layers, teacher_layers), _times(weight, pkt_loss)
    )


def cc(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    gamma: float,
    order: int,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + weight · cc_loss``, layers as in ``rkd``."""
    rows = flatten_both(student, teacher, batch, student_layers, teacher_layers)
    return FeatureObjective(teacher, rows, _times(weight, partial(cc_loss, gamma=gamma, order=order)))


def _foreteller(ours: int, theirs: int) -> nn.Sequential:
    """Maps of the teacher's number from the student's, pixel by pixel."""
    first, second, third = (nn.Conv2d(inputs, theirs, 1, bias=False) for inputs in (ours, theirs, theirs))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def count_channels(
    student: nn.Module, teacher: nn.Module, batch: Batch, pairs: Sequence[tuple[str, str]]
) -> list[tuple[int, int]]:
    """Of the student's layer and of the teacher's, for each pair of layers that answer with maps.

    Raises:
        ValueError: one does not answer with maps.
    """
    models, named = (student, teacher), zip(*pairs, strict=True)
    found = [shapes(model, layers, batch[0]) for model, layers in zip(models, named, strict=True)]
    for layers in zip(pairs, zip(*found, strict=True), strict=True):
        for name, shape in zip(*layers, strict=True):
            require(len(shape) == 3, f"what {name} answers with", list(shape), "maps [C, H, W]", "name another layer")
    return [(ours[0], theirs[0]) for ours, theirs in zip(*found, strict=True)]


def _over_stages(weight: float, loss: Callable[[Tensor, Tensor], Tensor]) -> FeatureLoss:
    def summed(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return weight * torch.stack([loss(one, other) for one, other in zip(ours, theirs, strict=True)]).sum()

    return summed


def _times(weight: float, loss: Callable[[Tensor, Tensor], Tensor]) -> FeatureLoss:
    def weighted(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return weight * loss(ours[0], theirs[0])

    return weighted


def flatten_both(
    student: nn.Module, teacher: nn.Module, batch: Batch, student_layers: str, teacher_layers: str
) -> list[tuple[str, str]]:
    """One layer of each whose values are a row for each sample."""
    return [
        (student_layers or find_penultimate(student, batch[0]), teacher_layers or find_penultimate(teacher, batch[0]))
    ]
