"""CRD: a sample's two embeddings, the student's and the teacher's, are to be told from those of other samples.

The others come from a memory of what both models made of each sample when it was last seen. So a batch must say which
samples it holds: their ids come after input, label and logits (``kd.DistillDataset(…, ids=True)``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.checks import require, require_every_label
from kd.losses import crd_loss
from kd.methods.feature import capture_both, flatten_both
from kd.models.features import shapes
from kd.seeding import seeded
from kd.types import Batch, Objective


class MemoryBank(nn.Module):
    """Both models' embeddings of each sample by its id, in rows of length 1; it grows with the ids it is shown.

    Args:
        dim: D, of an embedding.
        momentum: what share of a row stays when its sample comes again.
    """

    rows: Tensor  # [2, N, D], the student's and the teacher's
    labels: Tensor  # [N], −1 for a sample not yet seen

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("rows", torch.zeros(2, 0, dim))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def meet(self, ids: Tensor, labels: Tensor, embedded: Tensor) -> None:
        """Write down the samples [B] that come for the first time as they are, embedded [2, B, D]."""
        self._grow(int(ids.max()) + 1)
        new = self.labels[ids] < 0
        self.labels[ids[new]], self.rows[:, ids[new]] = labels[new], embedded[:, new]

    def update(self, ids: Tensor, embedded: Tensor) -> None:
        """Move the rows of these samples towards what they are now."""
        mixed = self.momentum * self.rows[:, ids] + (1 - self.momentum) * embedded
        self.rows[:, ids] = F.normalize(mixed, dim=2)

    def drawn(self, count: int) -> Tensor:
        """Ids [M] of at most so many samples: all that have been seen, or as many at random of them."""
        seen = (self.labels >= 0).nonzero().squeeze(1)
        return seen if len(seen) <= count else seen[torch.randint(len(seen), (count,), device=seen.device)]

    def _grow(self, samples: int) -> None:
        more = samples - len(self.labels)
        if more > 0:
            self.rows, self.labels = F.pad(self.rows, (0, 0, 0, more)), F.pad(self.labels, (0, more), value=-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        samples = len(state_dict[f"{prefix}labels"])  # torch would refuse another number
        self.rows, self.labels = self.rows[:, :0], self.labels[:0]
        self._grow(samples)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class CRDLoss(nn.Module):
    """Cross-entropy with the labels, and ``weight · crd_loss`` in both directions.

    In training a sample's positive is its row of the memory. What is only measured (validation) has none there: its
    positive is the other model's embedding itself, its negatives are the training's, and the memory stays as it is.

    Args:
        teacher, layers: as ``kd.methods.feature.FeatureObjective`` has them, one pair of layers.
        widths: of what the two layers answer with, flattened.
        dim: of an embedding.
        negatives: rows of the memory drawn for each batch; those of a sample's own class do not count for it.
    """

    def __init__(
        self,
        teacher: nn.Module,
        layers: Sequence[tuple[str, str]],
        widths: Sequence[int],
        *,
        weight: float,
        temperature: float,
        momentum: float,
        negatives: int,
        dim: int,
    ) -> None:
        super().__init__()
        self.teacher = (teacher,)  # in a tuple, where torch does not look for modules
        self.student_layers, self.teacher_layers = (list(names) for names in zip(*layers, strict=True))
        with seeded(0):
            self.heads = nn.ModuleList(nn.Linear(width, dim) for width in widths)
        self.memory = MemoryBank(dim, momentum)
        self.weight, self.temperature, self.negatives = weight, temperature, negatives

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ids, labels = _ids(batch), batch[1]
        require_every_label(labels, len(batch[0]))
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        embedded = self._embedded([feature for (feature,) in features])
        now = embedded.detach()
        if self.training:
            self.memory.meet(ids, labels, now)
        drawn = self.memory.drawn(self.negatives)
        allowed = self.memory.labels[drawn] != labels.unsqueeze(1)
        positives, negatives = self.memory.rows[:, ids] if self.training else now, self.memory.rows[:, drawn]
        losses = [
            crd_loss(embedded[one], positives[other], negatives[other], allowed, temperature=self.temperature)
            for one, other in ((0, 1), (1, 0))
        ]
        if self.training:
            self.memory.update(ids, now)
        return output, {"hard": terms["hard"], "feature": self.weight * torch.stack(losses).sum()}

    def _embedded(self, features: Sequence[Tensor]) -> Tensor:
        """[2, B, D], rows of length 1."""
        with torch.autocast(features[0].device.type, enabled=False):
            rows = [head(each.float().flatten(1)) for head, each in zip(self.heads, features, strict=True)]
            return F.normalize(torch.stack(rows), dim=2)


def crd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    *,
    weight: float,
    temperature: float,
    momentum: float,
    negatives: int,
    dim: int,
    student_layers: str,
    teacher_layers: str,
) -> Objective:
    """``CE + weight · crd_loss`` both ways, of what the last linear layers are given, or of the named layers."""
    require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)", "the authors take 0.5")
    require(negatives >= 1 and dim >= 1, "negatives and dim", (negatives, dim), "whole numbers of at least 1")
    layers = flatten_both(student, teacher, batch, student_layers, teacher_layers)
    widths = [
        math.prod(shapes(model, [layer], batch[0])[0])
        for model, layer in zip((student, teacher), layers[0], strict=True)
    ]
    return CRDLoss(
        teacher,
        layers,
        widths,
        weight=weight,
        temperature=temperature,
        momentum=momentum,
        negatives=negatives,
        dim=dim,
    ).to(batch[0].device)


def _ids(batch: Batch) -> Tensor:
    """The samples' ids [B], the last of a batch."""
    ids = batch[-1]
    if len(batch) < 3 or ids.shape != batch[1].shape or ids.dtype != torch.int64 or int(ids.min()) < 0:
        raise ValueError(
            "this method needs batches that end with the ids of their samples, int64 [B] from 0. Got "
            f"{len(batch)} items, the last {list(ids.shape)} of {ids.dtype}: pass a loader over "
            "kd.DistillDataset(dataset, logits, ids=True)."
        )
    return ids
