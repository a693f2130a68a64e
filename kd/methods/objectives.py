"""Training objectives as functions of (model, batch).

An objective returns the model's output and its weighted loss terms by name; the training loop minimises their sum. The
loop is independent of methods: a new method is a new objective, here or in a user's file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd.checks import require
from kd.losses import kd_loss
from kd.losses.labels import label_loss, mean_where_labelled
from kd.losses.precision import widen
from kd.models.inference import run_on_copy
from kd.models.main_output import take_logits
from kd.models.outputs import require_logits_at_first
from kd.types import Batch, Objective


class LabelOptions(NamedTuple):
    """Options of the label term: of ``supervised``, and so of the ``hard`` term of every method."""

    weight: Tensor | None = None
    label_smoothing: float = 0.0


_NO_OPTIONS = LabelOptions()
# Set by ``with_label_options`` while an objective runs, like torch.autocast, so that no method has to pass them on.
_LABEL_OPTIONS = ContextVar("options of the label term", default=_NO_OPTIONS)


_READS: ContextVar[list[LabelOptions] | None] = ContextVar("label options that were read", default=None)


def _label_options() -> LabelOptions:
    """Return the options that are set now. A closure that is sent to a worker cannot hold the variable itself."""
    options = _LABEL_OPTIONS.get()
    if (reads := _READS.get()) is not None:
        reads.append(options)
    return options


@contextmanager
def noting_label_options() -> Iterator[list[LabelOptions]]:
    """Yield a list of the label options that objectives read inside the block: empty if none has such a label term."""
    reads: list[LabelOptions] = []
    token = _READS.set(reads)
    try:
        yield reads
    finally:
        _READS.reset(token)


def supervised(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy with the labels, ``{"hard": CE}``. Batch: input, label; further tensors are ignored.

    All samples must be labelled, because without a teacher an unlabelled sample has no training signal.
    """
    output = _run_student(model, batch[0])
    return output, {"hard": label_loss(output, batch[1], **_label_options()._asdict())}


def supervised_where_labelled(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """``supervised`` on the labelled samples of the batch (label not −1), ``{"hard": 0}`` if there are none.

    The label term of all distillation methods. If all samples are labelled, it equals ``supervised`` bit for bit.
    """
    output = _run_student(model, batch[0])
    return output, {"hard": mean_where_labelled(output, batch[1], **_label_options()._asdict())}


def _run_student(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the model's logits; raise ``ValueError`` if they are probabilities, of which this loss takes none."""
    output = take_logits(model(inputs))
    require_logits_at_first("outputs of the model", output, model, inputs)
    return output


class WrappedObjective(nn.Module):
    """Base class of objectives that wrap another objective: registers its parameters and forwards its phases.

    With a plain function, the optimizer would miss the parameters, and a warm-up would not receive the epoch.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Forward the epoch to the wrapped objective if it has ``set_epoch``."""
        if set_epoch := getattr(self.objective, "set_epoch", None):
            set_epoch(epoch, epochs)

    def first_phase(self, epochs: int) -> int:
        """Return the number of epochs of the wrapped objective's first phase; 0 if it has none."""
        first_phase = getattr(self.objective, "first_phase", None)
        return first_phase(epochs) if first_phase else 0


def in_bfloat16(objective: Objective) -> Objective:
    """Return the objective with matrix products and convolutions in bfloat16 during training.

    Weights, gradients, optimizer state and loss stay float32, and so does evaluation. Faster only on hardware with
    bfloat16 units (Intel AMX, CUDA from compute capability 8.0); slower on other hardware.
    """
    return _InBfloat16(objective)


class _InBfloat16(WrappedObjective):
    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=model.training):
            return self.objective(model, batch)


def with_label_options(
    objective: Objective, *, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Objective:
    """Return the objective with class weights and label smoothing in its label term, as in ``nn.CrossEntropyLoss``.

    The label term is ``supervised``, ``supervised_where_labelled`` and thereby the ``hard`` term of every method. A
    method's own loss is unchanged, even if it reads labels (dkd, nkd, …), and ``smoothed`` keeps its own smoothing,
    to which the weights do not apply.

    Args:
        class_weights: [K], finite and above 0, on the device of the model; None weights all classes equally.
        label_smoothing: in [0, 1).
    """
    require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "in [0, 1)", "0.1 is usual")
    if class_weights is not None:
        lowest, highest = float(class_weights.min()), float(class_weights.max())
        require(0 < lowest <= highest < math.inf, "class_weights", class_weights.tolist(), "finite and above 0")
    elif not label_smoothing:
        return objective
    return _WithLabelOptions(objective, class_weights, float(label_smoothing))


class _WithLabelOptions(WrappedObjective):
    class_weights: Tensor | None

    def __init__(self, objective: Objective, class_weights: Tensor | None, label_smoothing: float) -> None:
        super().__init__(objective)
        self.register_buffer("class_weights", class_weights)
        self.label_smoothing = label_smoothing

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        token = _LABEL_OPTIONS.set(LabelOptions(self.class_weights, self.label_smoothing))
        try:
            return self.objective(model, batch)
        finally:
            _LABEL_OPTIONS.reset(token)


def smoothed(*, smoothing: float) -> Objective:
    """Cross-entropy with smoothed labels, ``{"hard": CE}``: 1 − ε on the label plus ε spread over all K classes.

    Equivalent to distillation from a uniform teacher, and therefore a control for distillation. Class weights act on
    the part with the labels only, as in ``distilled``. ``nn.CrossEntropyLoss`` also multiplies the share of each class
    in ε by the weight of that class, which draws all predictions towards rare classes.

    Args:
        smoothing: ε in [0, 1). 0 equals ``supervised``.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; as a teacher, Yuan et al. 2020, arXiv:1909.11723.
    """
    require(0 <= smoothing < 1, "smoothing", smoothing, "in [0, 1)", "0.1 is usual")
    smoothing = float(smoothing)

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output, weight = take_logits(model(batch[0])), _label_options().weight
        if weight is None or not smoothing:
            return output, {"hard": label_loss(output, batch[1], label_smoothing=smoothing, weight=weight)}
        spread = -widen(output).log_softmax(dim=1).mean()
        return output, {"hard": (1 - smoothing) * label_loss(output, batch[1], weight=weight) + smoothing * spread}

    return objective


def distilled(*, temperature: float, alpha: float) -> Objective:
    """Distillation objective ``alpha · CE + (1 − alpha) · T² · KL(teacher ‖ student)``, ``{"hard": …, "soft": …}``.

    Batch: input, label, teacher logits [B, K]. Unlabelled samples (−1) contribute to the soft term only; the hard term
    is averaged over the labelled samples (``kd.data.unlabelled``).

    Args:
        temperature: T > 0, softens both distributions in the soft term; the hard term uses T = 1.
        alpha: weight of the *hard* term, in [0, 1]. 1 equals ``supervised``; 0 uses the teacher only.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2 (where the hard term has the smaller weight).
    """
    require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]", "the weight of the labels; the teacher gets 1 - alpha")
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "4 to 10 is usual")
    temperature, alpha = float(temperature), float(alpha)  # so that 5 and 5.0 have the same fingerprint

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        require_teacher_logits(batch)
        output, terms = supervised_where_labelled(model, batch)
        soft = kd_loss(output, batch[2], temperature=temperature)
        return output, {"hard": alpha * terms["hard"], "soft": (1 - alpha) * soft}

    return objective


def require_teacher_logits(batch: Batch) -> None:
    """Raise ``ValueError`` unless the batch contains the teacher's logits after input and label."""
    if len(batch) < 3:
        raise ValueError(
            "distillation needs batches of (input, label, teacher logits). "
            f"Got {len(batch)} tensors. Pass a loader over a DistillDataset, or wrap the objective in live_teacher()."
        )


@contextmanager
def teaching(device: torch.device) -> Iterator[None]:
    """Compute without gradients and in full precision inside the block, also if the student trains in a lower one.

    A teacher that runs at every step then gives the same as one whose outputs are cached.
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def run_teacher(teacher: nn.Module, inputs: Tensor) -> Tensor:
    """Return the teacher's output in eval mode; see ``teaching``."""
    teacher.eval()  # at every step, because a caller may also train the teacher
    with teaching(inputs.device):
        return run_on_copy(teacher, inputs)


def live_teacher(teacher: nn.Module, objective: Objective) -> Objective:
    """Return the objective with an online teacher, which runs at every step. For inputs that change (augmentation).

    The teacher runs in eval mode without gradients; its weights and buffers do not change. The first batch
    raises ``ValueError`` if it returns probabilities instead of logits.
    """
    return _LiveTeacher(teacher, objective)


class _LiveTeacher(WrappedObjective):
    def __init__(self, teacher: nn.Module, objective: Objective) -> None:
        super().__init__(objective)
        self.teacher = (teacher,)  # a tuple, so that torch does not register it as a submodule to train

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,) = self.teacher
        teacher_logits = widen(run_teacher(teacher, batch[0]))
        require_logits_at_first("outputs of the teacher", teacher_logits, teacher, batch[0])
        return self.objective(model, (*batch[:2], teacher_logits, *batch[2:]))
