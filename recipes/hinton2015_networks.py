"""The networks of recipes/hinton2015.py, what they are shown, and their errors."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kd

LIMIT = 15**0.5  # of the length of a unit's incoming weights (Hinton et al. 2012, arXiv:1207.0580, appendix A)
JITTER = 2  # pixels, in each direction


class MaxNormLinear(nn.Linear):
    """A linear layer in which no unit's incoming weights are longer than ``LIMIT`` when a training step uses them."""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.renorm_(p=2, dim=0, maxnorm=LIMIT)
        return super().forward(inputs)


def teacher(width: int) -> nn.Module:
    """784-width-width-10 with max-norm, and dropout of a fifth of the pixels and half of the hidden units."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Dropout(0.2), MaxNormLinear(784, width), nn.ReLU()),
        *(nn.Dropout(0.5), MaxNormLinear(width, width), nn.ReLU()),
        *(nn.Dropout(0.5), MaxNormLinear(width, 10)),
    )


def student(width: int) -> nn.Module:
    """784-width-width-10, with nothing that regularises."""
    hidden = nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))


def jitter(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images [B, 1, H, W] moved by up to two pixels; what comes in at the edge is 0.

    Args:
        rows, columns: [B] int64 in [0, 4]; 2 leaves an image where it is, 0 moves it down or right by two pixels.
    """
    height, width = images.shape[-2:]
    windows = F.pad(images[:, 0], [JITTER] * 4).unfold(1, height, 1).unfold(2, width, 1)
    return windows[torch.arange(len(images), device=images.device), rows, columns].unsqueeze(1)


def jittered(objective: kd.Objective) -> kd.Objective:
    """The same objective with each image moved, in training steps, by one of the 25 shifts of up to two pixels."""

    def moved(model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if not model.training:
            return objective(model, batch)
        images = batch[0]
        rows, columns = torch.randint(2 * JITTER + 1, (2, len(images)), device=images.device)
        return objective(model, (jitter(images, rows, columns), *batch[1:]))

    return moved


def unnormalised(dataset: kd.ImageDataset) -> kd.ImageDataset:
    """The same images with pixels in [0, 1]."""
    return kd.ImageDataset(dataset.images, dataset.labels, mean=0.0, std=1.0)


def only(dataset: kd.ImageDataset, rows: Sequence[int]) -> kd.ImageDataset:
    """These rows of it, as they are."""
    kept = torch.tensor(rows)
    return kd.ImageDataset(dataset.images[kept], dataset.labels[kept], mean=0.0, std=1.0)


def rows_of(labels: Tensor, digits: Sequence[int] | None) -> list[int]:
    """The rows whose label is one of the digits; all of them where that is None."""
    if digits is None:
        return list(range(len(labels)))
    rows: list[int] = torch.isin(labels, torch.tensor(digits)).nonzero().flatten().tolist()
    return rows


def predict(model: nn.Module, dataset: kd.ImageDataset) -> kd.Predictions:
    """The model's logits of every image, and the labels."""
    return kd.predict(model, kd.make_loader(dataset, batch_size=500))


def errors(model: nn.Module, dataset: kd.ImageDataset) -> dict[str, int]:
    """As ``errors_of``, of the model's answers."""
    return errors_of(*predict(model, dataset))


def errors_of(logits: Tensor, labels: Tensor) -> dict[str, int]:
    """Images that are taken for another digit: all of them, and the 3s among them."""
    wrong = logits.argmax(dim=1) != labels
    return {"errors": int(wrong.sum()), "errors on 3": int(wrong[labels == 3].sum())}


def machine() -> dict[str, Any]:
    """Where it was run."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cpu.get_capabilities().get("cpu_name", ""),
        "torch": torch.__version__,
    }
