"""This pipeline's distillation: its objective, and loaders whose items carry verified teacher logits."""

from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

import config
import kd
from kd import DistillDataset as DistillDataset  # the documented place of this name
from kd.console import progress


def distillation_objective() -> kd.Objective:
    """``ALPHA · CE + (1 − ALPHA) · T² · KL(teacher ‖ student)``."""
    return kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)


def distillation_loader(
    title: str, teacher: nn.Module, subset: Dataset[Any], loader: DataLoader[Any]
) -> DataLoader[Any]:
    """A loader like the given one over (image, label, teacher logits).

    The logits are taken from the subset in its own order, never from the loader, which may shuffle, and verified
    against the live teacher.
    """
    size = 512
    with progress(title, steps=-(-len(subset) // size)) as advance:  # type: ignore[arg-type]  # Dataset has no __len__
        cached = kd.collect_logits(teacher, subset, batch_size=size, on_batch=advance)
    kd.verify_logits(teacher, subset, cached)
    return kd.loader_like(loader, DistillDataset(subset, cached.logits))
