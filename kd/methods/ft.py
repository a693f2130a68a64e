"""FT (factor transfer): the student matches compressed factors of the teacher's maps.

A paraphraser, an autoencoder of the teacher's maps, computes the teacher's factors. A translator computes the
student's factors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require
from kd.losses import ft_loss
from kd.losses.feature import match_sizes
from kd.methods.feature import capture_both, count_channels
from kd.methods.staged import first_phase_epochs, require_first_phase
from kd.models.features import match_stages
from kd.seeding import seeded
from kd.types import Batch, Objective

SLOPE = 0.1  # negative slope of the leaky ReLUs, as in the authors' code


class FTLoss(nn.Module):
    """``CE + weight · ft_loss``, plus the ``paraphraser`` term in the epochs that train the paraphraser.

    The student's loss never changes the paraphraser. The authors train it beforehand; here its training is the first
    phase of the run.

    Args:
        teacher: runs at every step; see ``kd.methods.feature.FeatureObjective``.
        layers: one pair of layers, (student, teacher).
        channels: numbers of channels of their maps.
        weight: weight of ``ft_loss``.
        rate: number of factors per map of the teacher, above 0.
        alone: fraction of the epochs that train the paraphraser, while the student is trained on the labels only; in
            [0, 1), rounded up, with at least one epoch left for ``ft_loss``. Afterwards the paraphraser is frozen. With
            0, or with a single epoch, all terms are trained in all epochs.
    """

    def __init__(
        self,
        teacher: nn.Module,
        layers: tuple[str, str],
        channels: tuple[int, int],
        *,
        weight: float,
        rate: float,
        alone: float,
    ) -> None:
        super().__init__()
        require(0 < rate < math.inf, "rate", rate, "a finite number above 0", "the authors use 0.5")
        require_first_phase(alone)
        student_channels, teacher_channels = channels
        factors = max(1, round(rate * teacher_channels))
        with seeded(0):
            self.encoder = _make_encoder(teacher_channels, teacher_channels, factors)
            self.decoder = _make_decoder(factors, teacher_channels)
            self.translator = _make_encoder(student_channels, student_channels, factors)
        self.teacher = (teacher,)  # a tuple, so that torch does not register it as a submodule
        self.student_layers, self.teacher_layers = ([name] for name in layers)
        self.weight, self.alone = weight, alone
        self._trains_paraphraser = self._trains_student = True

    def first_phase(self, epochs: int) -> int:
        """Return the number of epochs that train the paraphraser, in which the student learns from labels only."""
        return first_phase_epochs(self.alone, epochs)

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Select the terms of this epoch (the first is 0)."""
        first = self.first_phase(epochs)
        self._trains_paraphraser, self._trains_student = not first or epoch < first, epoch >= first

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        student, maps = match_sizes(features[0][0], features[1][0])
        with torch.set_grad_enabled(self._trains_paraphraser and torch.is_grad_enabled()):
            factors = self.encoder(maps)
        zero = torch.zeros_like(terms["hard"])
        transfer = self.weight * ft_loss(self.translator(student), factors) if self._trains_student else zero
        reconstruction = F.mse_loss(self.decoder(factors), maps) if self._trains_paraphraser else zero
        return output, {"hard": terms["hard"], "feature": transfer, "paraphraser": reconstruction}


def ft(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    rate: float,
    alone: float,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + weight · ft_loss`` at the last stage, or at the last of the named layers."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    (channels,) = count_channels(student, teacher, batch, pairs[-1:])
    return FTLoss(teacher, pairs[-1], channels, weight=weight, rate=rate, alone=alone).to(batch[0].device)


def _make_encoder(inputs: int, middle: int, factors: int) -> nn.Sequential:
    """Build three 3 × 3 convolutions, each followed by a leaky ReLU."""
    sizes = [(inputs, middle), (middle, factors), (factors, factors)]
    return nn.Sequential(*(layer for pair in sizes for layer in (nn.Conv2d(*pair, 3, padding=1), nn.LeakyReLU(SLOPE))))


def _make_decoder(factors: int, maps: int) -> nn.Sequential:
    """Build the decoder; its last ReLU is omitted, because maps before a ReLU have values of both signs."""
    return nn.Sequential(*_make_encoder(factors, factors, maps)[:-1])
