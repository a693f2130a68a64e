"""Objectives: what a model is trained towards, as functions of (model, batch).

An objective returns the model's output and its loss terms, weighted and by name. The loop adds them up; it knows no
method. A new method is a new function here (or in the user's own file), never a change in the loop.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require
from kd.losses import kd_loss
from kd.types import UNLABELLED, Batch, Objective


def supervised(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy with the labels: ``{"hard": CE}``. Batch: input, label; anything after them is ignored.

    Every item has a label here: without a teacher, one that has none teaches nothing.
    """
    output = model(batch[0])
    return output, {"hard": _cross_entropy(output, batch[1])}


def supervised_where_labelled(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """``supervised`` on those items of the batch whose label is not ``UNLABELLED`` (−1); ``{"hard": 0}`` without any.

    The labelled part of every distillation: where all items have a label it is ``supervised``, bit for bit.
    """
    output, labels = model(batch[0]), batch[1]
    total = _cross_entropy(output, labels, ignore_index=UNLABELLED, reduction="sum")
    # A sum divided by a tensor: no mean of nothing, which is NaN, and no number for which a GPU would be waited for.
    return output, {"hard": total / (labels != UNLABELLED).sum().clamp(min=1)}


def _cross_entropy(output: Tensor, labels: Tensor, **how: Any) -> Tensor:
    try:
        return F.cross_entropy(output.float(), labels, **how)
    except IndexError as error:  # torch has looked at the labels already: a look of our own would take time
        raise ValueError(
            f"labels must be within 0 … {output.shape[1] - 1}, the columns of logits. Got {int(labels.min())} … "
            f"{int(labels.max())} instead. Items without a label ({UNLABELLED}) are for distillation: "
            "kd.data.unlabelled."
        ) from error


class WrappedObjective(nn.Module):
    """What an objective made of another one starts from: the other's parameters are its own, and it hears of epochs.

    A function around an objective with parameters would hide them from the optimizer, and the epochs from a warm-up.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the objective inside, if it wants to know."""
        if tell := getattr(self.objective, "set_epoch", None):
            tell(epoch, epochs)


def in_bfloat16(objective: Objective) -> Objective:
    """The same objective, with the model's matrix products and convolutions in bfloat16 in training steps.

    Weights, gradients, optimizer and loss stay float32, and so does everything outside of training. It is worth it
    where the processor has units for it (Intel AMX, CUDA from compute capability 8.0); elsewhere it is slower.
    """
    return _InBfloat16(objective)


class _InBfloat16(WrappedObjective):
    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=model.training):
            return self.objective(model, batch)


def smoothed(*, smoothing: float) -> Objective:
    """Cross-entropy with smoothed labels, ``{"hard": CE}``: 1 − ε on the label and ε spread over all K classes.

    What is left of distillation when the teacher knows nothing of the image: a control for it.

    Args:
        smoothing: ε in [0, 1). 0 trains exactly as ``supervised`` does.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; as a teacher, Yuan et al. 2020, arXiv:1909.11723.
    """
    require(0 <= smoothing < 1, "smoothing", smoothing, "in [0, 1)", "0.1 is usual")
    smoothing = float(smoothing)

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = model(batch[0])
        return output, {"hard": _cross_entropy(output, batch[1], label_smoothing=smoothing)}

    return objective


def distilled(*, temperature: float, alpha: float) -> Objective:
    """``alpha · CE + (1 − alpha) · T² · KL(teacher ‖ student)`` as ``{"hard": …, "soft": …}``.

    Batch: input, label, teacher logits [B, K]. Items without a label (−1) count in the soft term alone; the hard one is
    averaged over the others (``kd.data.unlabelled``).

    Args:
        temperature: T > 0, softens both distributions in the soft term; the hard term is taken at T = 1.
        alpha: weight of the *hard* term, in [0, 1]. 1 trains exactly as ``supervised`` does, 0 on the teacher alone.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2 (which gives the hard term the smaller weight).
    """
    require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]", "the weight of the labels; the teacher gets 1 - alpha")
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "4 to 10 is usual")
    temperature, alpha = float(temperature), float(alpha)  # 5 and 5.0 are one setting, and are to be described as one

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        require_teacher_logits(batch)
        output, terms = supervised_where_labelled(model, batch)
        soft = kd_loss(output, batch[2], temperature=temperature)
        return output, {"hard": alpha * terms["hard"], "soft": (1 - alpha) * soft}

    return objective


def require_teacher_logits(batch: Batch) -> None:
    """Raise ``ValueError`` for a batch that does not carry the teacher's logits after input and label."""
    if len(batch) < 3:
        raise ValueError(
            "distillation needs batches of (input, label, teacher logits). "
            f"Got {len(batch)} items: pass a loader over a DistillDataset, or wrap the objective in live_teacher()."
        )


def live_teacher(teacher: nn.Module, objective: Objective) -> Objective:
    """The same objective with the teacher asked at each step, for inputs that change (augmentation).

    The teacher answers in eval mode; its weights and buffers stay as they are.
    """
    return _LiveTeacher(teacher, objective)


class _LiveTeacher(WrappedObjective):
    def __init__(self, teacher: nn.Module, objective: Objective) -> None:
        super().__init__(objective)
        self.teacher = (teacher,)  # in a tuple, where torch does not look for modules: it is not to be trained

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        teacher.eval()  # at every step: who trains the teacher further leaves it in training mode
        with torch.no_grad():
            teacher_logits = teacher(batch[0]).float()
        return self.objective(model, (*batch[:2], teacher_logits, *batch[2:]))
