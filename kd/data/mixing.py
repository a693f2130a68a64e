"""Mixed samples: mixup and CutMix of whole batches, with probabilities as labels.

Example:

    loader = make_loader(training, batch_size=128, shuffle=True, mix=Mixing(classes=10, mixup=0.2))

The loader seeds each batch's mixture from seed, epoch and batch number, so every model trained with this seed sees the
same mixtures. Cached teacher logits do not fit them: the teacher must run at every step (``kd.live_teacher``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from kd.checks import require, require_label_kind, require_label_values
from kd.types import Batch


@dataclass(frozen=True)
class Mixing:
    """Mixes each sample of a batch with the previous one, by torchvision's ``MixUp`` and ``CutMix``.

    Draws from torch's global generator. With both transforms, one is drawn for each batch, with probability ½.

    Args:
        classes: K.
        mixup: α of MixUp, above 0: inputs and labels are averaged with weights λ ~ Beta(α, α) and 1 − λ. Inputs of any
            shape.
        cutmix: α of CutMix, above 0: a rectangle of each image, of the area 1 − λ, is replaced. Images [B, C, H, W].

    Source: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
    """

    classes: int
    mixup: float | None = None
    cutmix: float | None = None

    def __post_init__(self) -> None:
        require(self.mixup is not None or self.cutmix is not None, "mixup and cutmix", None, "given, at least one")
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            require(alpha is None or 0 < alpha < float("inf"), name, alpha, "a finite number above 0", "0.2 to 1")

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mixed inputs and probabilities [B, K] float32.

        Args:
            batch: floating-point inputs [B, …] and labels [B] int64, each a class.

        Raises:
            ValueError: the batch has further columns, inputs of another type or shape, or samples without a label.
        """
        require(len(batch) == 2, "columns of a batch to mix", len(batch), "2", "teacher logits do not fit mixtures")
        inputs, labels = batch
        require(inputs.is_floating_point(), "inputs to mix", inputs.dtype, "floating-point numbers")
        require(not self.cutmix or inputs.ndim == 4, "inputs of CutMix", list(inputs.shape), "images [B, C, H, W]")
        require_label_kind(labels, len(inputs))
        require_label_values(labels, self.classes)
        # MixUp demands images; for other inputs it gets images of a single row.
        images = inputs if inputs.ndim == 4 else inputs.reshape(len(inputs), 1, 1, -1)
        mixed, probabilities = _make_transform(self)(images, labels)
        return mixed.reshape(inputs.shape), probabilities


@functools.cache
def _make_transform(mixing: Mixing) -> Any:
    transforms: list[Any] = []
    if mixing.mixup is not None:
        transforms.append(v2.MixUp(alpha=float(mixing.mixup), num_classes=mixing.classes))
    if mixing.cutmix is not None:
        transforms.append(v2.CutMix(alpha=float(mixing.cutmix), num_classes=mixing.classes))
    return transforms[0] if len(transforms) == 1 else v2.RandomChoice(transforms)
