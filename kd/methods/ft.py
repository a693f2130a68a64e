"""FT: the teacher's maps are put into other words, and the student learns to say those.

A paraphraser, which learns to rebuild the teacher's maps from fewer of them, gives the teacher's factors; a translator
gives the student's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require
from kd.losses import ft_loss
from kd.losses.feature import same_size
from kd.methods.feature import capture_both, count_channels
from kd.methods.staged import first_phase_epochs, require_first_phase
from kd.models.features import match_stages
from kd.seeding import seeded
from kd.types import Batch, Objective

SLOPE = 0.1  # of the leaky ReLUs, the authors'


class FTLoss(nn.Module):
    """``CE + weight · ft_loss``, and while the paraphraser learns its own ``paraphraser`` term, which moves it alone.

    Args:
        teacher: asked at each step, as in ``kd.methods.feature.FeatureObjective``.
        layers: one of the student and one of the teacher.
        channels: of their maps.
        rate: factors for each of the teacher's maps, above 0.
        alone: share of the epochs in which the paraphraser learns and the student has the labels alone, in [0, 1):
            rounded up, but one epoch at least is left for the factors. After it the paraphraser stays as it is. 0 has
            both learn all along, and so has a training of one epoch.
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
        require(0 < rate < math.inf, "rate", rate, "a finite number above 0", "the authors take 0.5")
        require_first_phase(alone)
        ours, theirs = channels
        factors = max(1, round(rate * theirs))
        with seeded(0):
            self.encoder, self.decoder = _coder(theirs, theirs, factors), _decoder(factors, theirs)
            self.translator = _coder(ours, ours, factors)
        self.teacher = (teacher,)  # in a tuple, where torch does not look for modules
        self.student_layers, self.teacher_layers = ([name] for name in layers)
        self.weight, self.alone = weight, alone
        self._paraphrases = self._translates = True

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Take the terms of this epoch, counted from 0."""
        first = first_phase_epochs(self.alone, epochs)
        self._paraphrases, self._translates = not first or epoch < first, epoch >= first

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        student, maps = same_size(features[0][0], features[1][0])
        with torch.set_grad_enabled(self._paraphrases and torch.is_grad_enabled()):
            factors = self.encoder(maps)
        nothing = torch.zeros_like(terms["hard"])
        translated = self.weight * ft_loss(self.translator(student), factors) if self._translates else nothing
        rebuilt = F.mse_loss(self.decoder(factors), maps) if self._paraphrases else nothing
        return output, {"hard": terms["hard"], "feature": translated, "paraphraser": rebuilt}


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
    """``CE + weight · ft_loss`` at the last of the stages, or at the last of the named layers."""
    pairs = match_stages(student, teacher, batch[0], student_layers=student_layers, teacher_layers=teacher_layers)
    (channels,) = count_channels(student, teacher, batch, pairs[-1:])
    return FTLoss(teacher, pairs[-1], channels, weight=weight, rate=rate, alone=alone).to(batch[0].device)


def _coder(inputs: int, middle: int, factors: int) -> nn.Sequential:
    """Three 3 × 3 convolutions, each before a leaky ReLU."""
    sizes = [(inputs, middle), (middle, factors), (factors, factors)]
    return nn.Sequential(*(layer for pair in sizes for layer in (nn.Conv2d(*pair, 3, padding=1), nn.LeakyReLU(SLOPE))))


def _decoder(factors: int, maps: int) -> nn.Sequential:
    """The way back; without a ReLU at its end, because maps from before one have values of both signs."""
    return nn.Sequential(*_coder(factors, factors, maps)[:-1])
