"""Networks, input jitter and error counts for recipes/hinton2015.py."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kd

LIMIT = 15**0.5  # largest L2 norm of a unit's incoming weights (Hinton et al. 2012, arXiv:1207.0580, appendix A)
JITTER = 2  # largest shift in pixels, in each direction


class MaxNormLinear(nn.Linear):
    """A linear layer that limits the norm of each unit's incoming weights to ``LIMIT`` before each training step."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.renorm_(p=2, dim=0, maxnorm=LIMIT)
        return super().forward(inputs)


def make_teacher(width: int) -> nn.Module:
    """Make a 784-width-width-10 network with max-norm and dropout: 20 % of the pixels, 50 % of the hidden units."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Dropout(0.2), MaxNormLinear(784, width), nn.ReLU()),
        *(nn.Dropout(0.5), MaxNormLinear(width, width), nn.ReLU()),
        *(nn.Dropout(0.5), MaxNormLinear(width, 10)),
    )


def make_student(width: int) -> nn.Module:
    """Make a 784-width-width-10 network without regularisation."""
    hidden = nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))


def jitter(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Shift images [B, 1, H, W] by up to two pixels and fill with 0.

    Args:
        rows, columns: [B] int64 in [0, 4]; 2 is no shift, 0 a shift down or right by two pixels.
    """
    height, width = images.shape[-2:]
    windows = F.pad(images[:, 0], [JITTER] * 4).unfold(1, height, 1).unfold(2, width, 1)
    return windows[torch.arange(len(images), device=images.device), rows, columns].unsqueeze(1)


def add_jitter(objective: kd.Objective) -> kd.Objective:
    """Apply an objective to randomly shifted images, one of 25 shifts per image; in eval mode images are unchanged."""

    def jittered(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if not model.training:
            return objective(model, batch)
        images = batch[0]
        rows, columns = torch.randint(2 * JITTER + 1, (2, len(images)), device=images.device)
        return objective(model, (jitter(images, rows, columns), *batch[1:]))

    return jittered


def remove_normalisation(dataset: kd.ImageDataset) -> kd.ImageDataset:
    """Return the same images with pixels in [0, 1], not standardised."""
    return kd.ImageDataset(dataset.images, dataset.labels, mean=0.0, std=1.0)


def select_rows(dataset: kd.ImageDataset, rows: Sequence[int]) -> kd.ImageDataset:
    """Return these rows of a dataset, with pixels in [0, 1]."""
    index = torch.tensor(rows)
    return kd.ImageDataset(dataset.images[index], dataset.labels[index], mean=0.0, std=1.0)


def find_rows(labels: Tensor, digits: Sequence[int] | None) -> list[int]:
    """Return the rows whose label is one of the digits; all rows if ``digits`` is None."""
    if digits is None:
        return list(range(len(labels)))
    rows: list[int] = torch.isin(labels, torch.tensor(digits)).nonzero().flatten().tolist()
    return rows


def predict(model: nn.Module, dataset: kd.ImageDataset) -> kd.Predictions:
    """Return the model's logits for all images, and the labels."""
    return kd.predict(model, kd.make_loader(dataset, batch_size=500))


def count_model_errors(model: nn.Module, dataset: kd.ImageDataset) -> dict[str, int]:
    """Count the errors of a model (see ``count_errors``)."""
    return count_errors(*predict(model, dataset))


def count_errors(logits: Tensor, labels: Tensor) -> dict[str, int]:
    """Count all misclassified images and the misclassified 3s."""
    wrong = logits.argmax(dim=1) != labels
    return {"errors": int(wrong.sum()), "errors on 3": int(wrong[labels == 3].sum())}


def describe_machine() -> dict[str, Any]:
    """Describe system, processor and torch version."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cpu.get_capabilities().get("cpu_name", ""),
        "torch": torch.__version__,
    }
