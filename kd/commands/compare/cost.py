"""Cost of a comparison: multiply-adds of training, size and latency of the models, time saved by cached logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.teachers import Teacher
from kd.commands.models import new_student
from kd.data.loaders import make_loader
from kd.evaluation.cost import Cost, Footprint, Saved, measure_footprint, measure_saving, training_cost
from kd.evaluation.latency import Latency
from kd.evaluation.metrics import count_parameters
from kd.storage.run_folder import run_step
from kd.types import Batch


def measure_cost(settings: CompareSettings, teacher: Teacher, device: torch.device) -> Cost:
    """Measure the cost of a comparison with the first teacher's models and data."""
    training = teacher.distill_data.training
    # The control's data, because each of its samples has a label.
    batch = next(iter(make_loader(teacher.prepared.control_data.training, batch_size=settings.batch_size)))
    student = new_student(settings, teacher.task, device)
    models = {"teacher": teacher.prepared.model, "student": student}
    asked = settings.asked_at_each_step or not count_parameters(models["teacher"])
    images: int = len(training) // teacher.distill_data.views  # type: ignore[arg-type]  # torch leaves __len__ undeclared
    return Cost(
        training_cost(
            models["teacher"],
            student,
            batch,
            images=images,
            labelled=teacher.prepared.data.sizes["training"],
            epochs=settings.epochs,
            teacher_epochs=settings.teacher_epochs,
            served=settings.pairs,
            views=teacher.distill_data.views,
            asked_at_each_step=settings.asked_at_each_step,
        ),
        _measure_footprints(models, batch[0][:1]),
        None if asked else _measure_saving(models["teacher"], batch, images, settings),
    )


def _measure_footprints(models: Mapping[str, nn.Module], example: Tensor) -> dict[str, Footprint]:
    """Measure the inference cost of each model as a step: a repeated command writes the same times."""

    def produce(_: object) -> dict[str, Any]:
        footprints = {name: measure_footprint(model, example) for name, model in models.items()}
        return {name: {**found._asdict(), "latency": found.latency._asdict()} for name, found in footprints.items()}

    inputs = {"models": models, "example": example, "measure": measure_footprint}
    saved = run_step("compare-footprints", inputs, produce)
    return {name: Footprint(**{**fields, "latency": Latency(**fields["latency"])}) for name, fields in saved.items()}


def _measure_saving(teacher: nn.Module, batch: Batch, images: int, settings: CompareSettings) -> Saved:
    """Measure the time that cached logits save, as a step."""
    counts = {"images": images, "students": settings.pairs, "epochs": settings.epochs}

    def produce(_: object) -> dict[str, Any]:
        return measure_saving(teacher, batch, **counts)._asdict()

    inputs = {"teacher": teacher, "batch": batch[0], "counts": counts, "measure": measure_saving}
    return Saved(**run_step("compare-saving", inputs, produce))
