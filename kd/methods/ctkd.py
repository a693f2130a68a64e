"""CTKD: an adversarially trained temperature, which makes the distillation loss harder over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kd.checks import require
from kd.losses import kd_loss
from kd.methods.objectives import require_teacher_logits, supervised_where_labelled
from kd.types import Batch, Objective


class CTKDLoss(nn.Module):
    """``hard · CE + soft · T² · KL`` with T = start + span · sigmoid(θ). The student minimises it; θ maximises it.

    θ starts at 1. Its gradient is reversed, with a strength that grows to 1 as half a cosine over the first epochs (the
    fraction ``warmup``). T changes, so the method needs the teacher's logits; probabilities at one temperature do not
    suffice.

    Args:
        start: lowest temperature, above 0.
        span: difference between highest and lowest temperature, above 0.
        warmup: fraction of the epochs in which the reversed gradient grows, in [0, 1]; 0 starts with full strength. The
            authors use 10 of 240 epochs.
        hard, soft: weights of the labels and of the teacher.

    Source: Li et al. 2023, arXiv:2211.16231, the global temperature of section 3. The authors update θ with SGD and
    the student's settings. Adam normalises the size of gradients, so with Adam the warm-up has little effect.
    """

    def __init__(self, *, start: float, span: float, warmup: float, hard: float, soft: float) -> None:
        super().__init__()
        require(0 < start < math.inf, "start", start, "a finite number above 0", "the authors use 1")
        require(0 < span < math.inf, "span", span, "a finite number above 0", "the authors use 20")
        require(0 <= warmup <= 1, "warmup", warmup, "in [0, 1], a fraction of the epochs")
        self.start, self.span, self.warmup, self.hard, self.soft = start, span, warmup, hard, soft
        self.theta = nn.Parameter(torch.ones(()))
        self._strength = 1.0

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set the strength of gradient reversal for this epoch (the first is 0)."""
        progress = min(1.0, (epoch + 1) / (self.warmup * epochs)) if self.warmup else 1.0
        self._strength = (1 - math.cos(math.pi * progress)) / 2

    def temperature(self) -> Tensor:
        """Return T, with gradient reversal towards θ."""
        detached = self.theta.detach()
        reversed_theta = detached + self._strength * (detached - self.theta)  # equals θ bit for bit
        return self.start + self.span * reversed_theta.sigmoid()

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        require_teacher_logits(batch)
        output, terms = supervised_where_labelled(model, batch)
        soft = kd_loss(output, batch[2], temperature=self.temperature())
        return output, {"hard": self.hard * terms["hard"], "soft": self.soft * soft}


def ctkd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    start: float,
    span: float,
    warmup: float,
    hard: float,
    soft: float,
) -> Objective:
    """``kd`` with an adversarially trained temperature."""
    return CTKDLoss(start=start, span=span, warmup=warmup, hard=hard, soft=soft).to(batch[0].device)
