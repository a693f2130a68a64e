"""This pipeline's distillation: its objective, and loaders whose items carry verified teacher logits."""

from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

import config
import kd
from kd import DistillDataset as DistillDataset  # the documented place of this name
from kd.console import progress
from kd.run import stage


def distillation_objective() -> kd.Objective:
    """``ALPHA · CE + (1 − ALPHA) · T² · KL(teacher ‖ student)``."""
    return kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)


def distillation_loader(
    title: str, teacher: nn.Module, subset: Dataset[Any], loader: DataLoader[Any]
) -> DataLoader[Any]:
    """A loader like the given one over (image, label, teacher logits).

    The logits are taken from the subset in its own order, never from the loader, which may shuffle, and verified
    against the live teacher before they are used or kept.
    """
    size = 512

    def produce(_: object) -> dict[str, Any]:
        with progress(title, steps=-(-len(subset) // size)) as advance:  # type: ignore[arg-type]  # has no __len__
            cached = kd.collect_logits(teacher, subset, batch_size=size, on_batch=advance)
        kd.verify_logits(teacher, subset, cached)
        return cached._asdict()

    inputs = {"teacher": teacher, "dataset": subset, "batch_size": size, "device": config.DEVICE}
    return kd.loader_like(loader, DistillDataset(subset, stage(title, inputs, produce)["logits"]))
