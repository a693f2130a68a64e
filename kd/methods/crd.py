"""CRD: contrastive loss between the student's and the teacher's embeddings, with negatives from a memory bank.

The memory bank contains a moving average of both models' embeddings of each sample. Batches must therefore end with
sample ids, after input, label and logits (``kd.DistillDataset(…, ids=True)``).
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
from kd.losses.precision import widen
from kd.methods.feature import capture_both, match_vector_layers
from kd.models.features import layer_shapes
from kd.seeding import seeded
from kd.types import Batch, Objective


class MemoryBank(nn.Module):
    """Embeddings of both models by sample id, in rows of unit length. It grows as new ids are added.

    Args:
        dim: D, dimension of an embedding.
        momentum: weight of the old row when a sample's row is updated.
    """

    rows: Tensor  # [2, N, D], of the student and the teacher
    labels: Tensor  # [N], −1 for a sample not seen yet

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("rows", torch.zeros(2, 0, dim))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def add_new(self, ids: Tensor, labels: Tensor, embeddings: Tensor) -> None:
        """Store labels [B] and embeddings [2, B, D] of the samples that are not in the memory yet."""
        self._grow(int(ids.max()) + 1)
        is_new = self.labels[ids] < 0
        self.labels[ids[is_new]], self.rows[:, ids[is_new]] = labels[is_new], embeddings[:, is_new]

    def update(self, ids: Tensor, embeddings: Tensor) -> None:
        """Move the rows of these samples towards their new embeddings [2, B, D], by ``momentum``."""
        mixed = self.momentum * self.rows[:, ids] + (1 - self.momentum) * embeddings
        self.rows[:, ids] = F.normalize(mixed, dim=2)

    def draw(self, count: int) -> Tensor:
        """Return ids [M] of all seen samples or, if there are more than ``count``, of ``count`` random ones."""
        seen = (self.labels >= 0).nonzero().squeeze(1)
        return seen if len(seen) <= count else seen[torch.randint(len(seen), (count,), device=seen.device)]

    def _grow(self, samples: int) -> None:
        missing = samples - len(self.labels)
        if missing > 0:
            self.rows, self.labels = F.pad(self.rows, (0, 0, 0, missing)), F.pad(self.labels, (0, missing), value=-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        samples = len(state_dict[f"{prefix}labels"])  # resized first, because torch rejects buffers of a different size
        self.rows, self.labels = self.rows[:, :0], self.labels[:0]
        self._grow(samples)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class CRDLoss(nn.Module):
    """Cross-entropy with the labels plus ``weight · crd_loss`` in both directions.

    In training, a sample's positive is its row of the memory. Validation samples have no row: their positive is the
    other model's embedding, their negatives are training samples, and the memory does not change.

    Unlike in the authors' code, negatives are drawn once per batch, from the samples seen so far: one matrix product
    instead of 16,384 gathered rows per sample. A sample's first embedding initialises its row; theirs starts random.

    Args:
        teacher: see ``kd.methods.feature.FeatureObjective``.
        layers: one pair of layers, (student, teacher).
        widths: sizes of the two layers' flattened outputs.
        weight: weight of ``crd_loss``.
        temperature: τ of ``crd_loss``.
        momentum: see ``MemoryBank``.
        negatives: rows of the memory drawn for each batch; rows of a sample's own class are ignored.
        dim: dimension of an embedding.
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
        self.teacher = (teacher,)  # a tuple, so that torch does not register it as a submodule
        self.student_layers, self.teacher_layers = (list(names) for names in zip(*layers, strict=True))
        with seeded(0):
            self.heads = nn.ModuleList(nn.Linear(width, dim) for width in widths)
        self.memory = MemoryBank(dim, momentum)
        self.weight, self.temperature, self.negatives = weight, temperature, negatives

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ids, labels = _get_ids(batch), batch[1]
        (teacher,) = self.teacher
        output, terms, *features = capture_both(model, teacher, batch, self.student_layers, self.teacher_layers)
        require_every_label(labels, *output.shape)  # before the memory stores them
        embeddings = self._embed([feature for (feature,) in features])
        detached = embeddings.detach()
        if self.training:
            self.memory.add_new(ids, labels, detached)
        negative_ids = self.memory.draw(self.negatives)
        allowed = self.memory.labels[negative_ids] != labels.unsqueeze(1)
        positives = self.memory.rows[:, ids] if self.training else detached
        negatives = self.memory.rows[:, negative_ids]
        losses = [
            crd_loss(embeddings[anchor], positives[target], negatives[target], allowed, temperature=self.temperature)
            for anchor, target in ((0, 1), (1, 0))
        ]
        if self.training:
            self.memory.update(ids, detached)
        return output, {"hard": terms["hard"], "feature": self.weight * torch.stack(losses).sum()}

    def _embed(self, features: Sequence[Tensor]) -> Tensor:
        """Return the embeddings [2, B, D] of both models, rows of unit length."""
        with torch.autocast(features[0].device.type, enabled=False):
            rows = [head(widen(values).flatten(1)) for head, values in zip(self.heads, features, strict=True)]
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
    """``CE + weight · crd_loss`` in both directions, of the last linear layers' inputs or of the named layers."""
    require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)", "the authors use 0.5")
    require(negatives >= 1 and dim >= 1, "negatives and dim", (negatives, dim), "integers of at least 1")
    layers = match_vector_layers(student, teacher, batch, student_layers, teacher_layers)
    widths = [
        math.prod(layer_shapes(model, [layer], batch[0])[0])
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


def _get_ids(batch: Batch) -> Tensor:
    """Return the sample ids [B], the last tensor of a batch."""
    ids = batch[-1]
    if len(batch) < 3 or ids.shape != batch[1].shape or ids.dtype != torch.int64 or int(ids.min()) < 0:
        raise ValueError(
            "this method needs batches that end with sample ids, int64 [B] from 0. Got "
            f"{len(batch)} tensors, the last {list(ids.shape)} of {ids.dtype}. Pass a loader over "
            "kd.DistillDataset(dataset, logits, ids=True)."
        )
    return ids
