"""Factories of the methods that use the teacher's features, for the table in ``kd.methods``.

The teacher runs at every step, in eval mode and without gradients. Each objective has a ``hard`` term, the
cross-entropy with the labels, and a weighted ``feature`` term, the method's loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require
from kd.losses.feature import at_loss, drop_channels, match_sizes, mgd_loss, nst_loss, vid_loss
from kd.losses.relation import cc_loss, pkt_loss, rkd_angle_loss, rkd_distance_loss, sp_loss
from kd.methods.objectives import run_teacher, supervised_where_labelled
from kd.models.features import capture, find_penultimate, find_stages, layer_shapes, match_stages
from kd.seeding import seeded
from kd.types import Batch, Objective

# (student features, teacher features; one tensor per layer) → the method's weighted loss.
FeatureLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class FeatureObjective(nn.Module):
    """Cross-entropy with the labels plus a loss of intermediate features of both models.

    Args:
        teacher: runs at every step. Not registered as a submodule: it is not trained, moved or saved.
        layers: pairs of layers, (student, teacher), named as in ``kd.models.features.capture``.
        loss: loss of the captured features; if it is a module, it is registered with its parameters.
    """

    def __init__(self, teacher: nn.Module, layers: Sequence[tuple[str, str]], loss: FeatureLoss) -> None:
        super().__init__()
        self.teacher = (teacher,)  # a tuple, so that torch does not register it as a submodule
        self.student_layers, self.teacher_layers = (list(names) for names in zip(*layers, strict=True))
        self.loss = loss

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        return output, {"hard": terms["hard"], "feature": self.loss(*features)}


def capture_both(
    model: nn.Module, teacher: nn.Module, batch: Batch, student_layers: Sequence[str], teacher_layers: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor], list[Tensor], list[Tensor]]:
    """Run both models; return the result of ``supervised_where_labelled`` and both lists of captured features."""
    with capture(teacher, *teacher_layers) as teacher_features:
        run_teacher(teacher, batch[0])
    with capture(model, *student_layers) as student_features:
        output, terms = supervised_where_labelled(model, batch)
    features = [student_features[name] for name in student_layers], [teacher_features[name] for name in teacher_layers]
    return output, terms, *features


class VIDLoss(nn.Module):
    """``weight · vid_loss`` summed over stages. Three 1 × 1 convolutions predict the means; variances are parameters.

    Args:
        channels: numbers of channels (student, teacher) of each stage.
    """

    START, LEAST = 5.0, 1e-5  # initial and minimum variance, as in the authors' code

    def __init__(self, channels: Sequence[tuple[int, int]], weight: float) -> None:
        super().__init__()
        with seeded(0):
            self.means = nn.ModuleList(_make_mean_predictor(*pair) for pair in channels)
        start = math.log(math.expm1(self.START - self.LEAST))
        self.scales = nn.ParameterList(torch.full((teacher_channels,), start) for _, teacher_channels in channels)
        self.weight = weight

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        pairs = [match_sizes(*pair) for pair in zip(student_maps, teacher_maps, strict=True)]
        terms = [
            vid_loss(predict_means(student), teacher, F.softplus(scale) + self.LEAST)
            for predict_means, scale, (student, teacher) in zip(self.means, self.scales, pairs, strict=True)
        ]
        return self.weight * torch.stack(terms).sum()


def vid(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · vid_loss`` summed over the common stages, which are matched from the last one backwards."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    loss = VIDLoss(count_channels(student, teacher, batch, pairs), weight).to(batch[0].device)
    return FeatureObjective(teacher, pairs, loss)


class MGDLoss(nn.Module):
    """``weight · mgd_loss`` of maps that two 3 × 3 convolutions generate from the student's masked maps.

    Args:
        channels: numbers of channels, (student, teacher).
        mask: probability that a channel is masked in training; nothing is masked in evaluation.
    """

    def __init__(self, channels: tuple[int, int], weight: float, mask: float) -> None:
        super().__init__()
        require(0 <= mask < 1, "mask", mask, "in [0, 1)", "the authors use 0.15")
        inputs, outputs = channels
        with seeded(0):
            self.projector = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
            first, second = (nn.Conv2d(outputs, outputs, 3, padding=1) for _ in range(2))
        self.generator = nn.Sequential(first, nn.ReLU(), second)
        self.weight, self.mask = weight, mask

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        student, teacher = match_sizes(student_maps[0], teacher_maps[0])
        projected = self.projector(student)
        masked = drop_channels(projected, self.mask) if self.training else projected
        return self.weight * mgd_loss(self.generator(masked), teacher)


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
    """``CE + weight · mgd_loss`` at the last stage, or at the last of the named layers."""
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
    """``CE + weight · at_loss`` summed over the common stages, which are matched from the last one backwards."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    return FeatureObjective(teacher, pairs, _sum_over_stages(weight, partial(at_loss, form=form)))


def nst(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · nst_loss`` summed over the common stages, which are matched from the last one backwards."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    return FeatureObjective(teacher, pairs, _sum_over_stages(weight, nst_loss))


def sp(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · sp_loss`` of both last maps, else of the last linear layers' inputs; or of the named layers."""
    stages = [find_stages(model, batch[0]) for model in (student, teacher)]
    if all(stages):  # as in the paper: the last maps of both, whose sizes may differ
        student_layers, teacher_layers = (
            names or maps[-1].layer for names, maps in zip((student_layers, teacher_layers), stages, strict=True)
        )
    layers = match_vector_layers(student, teacher, batch, student_layers, teacher_layers)
    return FeatureObjective(teacher, layers, _weigh_single_layer(weight, sp_loss))


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
    """``CE + distance · rkd_distance_loss + angle · rkd_angle_loss`` of the last linear layers' inputs.

    Or of the named layers. ``angle=0`` skips the angle loss, which needs the most memory.
    """

    def loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        distance_term = distance * rkd_distance_loss(student_maps[0], teacher_maps[0])
        return distance_term + angle * rkd_angle_loss(student_maps[0], teacher_maps[0]) if angle else distance_term

    return FeatureObjective(teacher, match_vector_layers(student, teacher, batch, student_layers, teacher_layers), loss)


def pkt(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, weight: float, student_layers: str, teacher_layers: str
) -> Objective:
    """``CE + weight · pkt_loss``; layers as in ``rkd``."""
    return FeatureObjective(
        teacher,
        match_vector_layers(student, teacher, batch, student_layers, teacher_layers),
        _weigh_single_layer(weight, pkt_loss),
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
    """``CE + weight · cc_loss``; layers as in ``rkd``."""
    layers = match_vector_layers(student, teacher, batch, student_layers, teacher_layers)
    return FeatureObjective(teacher, layers, _weigh_single_layer(weight, partial(cc_loss, gamma=gamma, order=order)))


def _make_mean_predictor(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """Build three 1 × 1 convolutions from the student's to the teacher's number of channels."""
    sizes = (student_channels, teacher_channels, teacher_channels)
    first, second, third = (nn.Conv2d(inputs, teacher_channels, 1, bias=False) for inputs in sizes)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def count_channels(
    student: nn.Module, teacher: nn.Module, batch: Batch, pairs: Sequence[tuple[str, str]]
) -> list[tuple[int, int]]:
    """Return the numbers of channels (student, teacher) for each pair of layers.

    Raises:
        ValueError: the output of a layer is not feature maps.
    """
    models, layers_by_model = (student, teacher), zip(*pairs, strict=True)
    shapes = [layer_shapes(model, layers, batch[0]) for model, layers in zip(models, layers_by_model, strict=True)]
    for pair in zip(pairs, zip(*shapes, strict=True), strict=True):
        for name, shape in zip(*pair, strict=True):
            require(len(shape) == 3, f"the output of {name}", list(shape), "maps [C, H, W]", "name another layer")
    return [(student_shape[0], teacher_shape[0]) for student_shape, teacher_shape in zip(*shapes, strict=True)]


def _sum_over_stages(weight: float, loss: Callable[[Tensor, Tensor], Tensor]) -> FeatureLoss:
    """Return ``weight`` times the sum of ``loss`` over all pairs of layers."""

    def weighted_sum(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        return weight * torch.stack([loss(*pair) for pair in zip(student_maps, teacher_maps, strict=True)]).sum()

    return weighted_sum


def _weigh_single_layer(weight: float, loss: Callable[[Tensor, Tensor], Tensor]) -> FeatureLoss:
    """Return ``weight`` times ``loss`` of the only pair of layers."""

    def weighted_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        return weight * loss(student_maps[0], teacher_maps[0])

    return weighted_loss


def match_vector_layers(
    student: nn.Module, teacher: nn.Module, batch: Batch, student_layers: str, teacher_layers: str
) -> list[tuple[str, str]]:
    """Return one pair of layers with one vector per sample: the named layers, or the penultimate features."""
    return [
        (student_layers or find_penultimate(student, batch[0]), teacher_layers or find_penultimate(teacher, batch[0]))
    ]
