"""Distillation in this pipeline: the objective, and the dataset with the teacher's logits."""

from typing import Any

from torch import nn
from torch.utils.data import DataLoader

import config
import kd
from kd import DistillDataset as DistillDataset  # documented as distillation.DistillDataset
from kd.commands.messages import say_layers
from kd.commands.method_flags import all_method_settings
from kd.data.loaders import first_batch
from kd.methods import Setting, make, try_method
from kd.training.trial import require_restorable, try_training
from models import TeacherModel, new_student


def distillation_objective(student: nn.Module, teacher: nn.Module, loader: DataLoader[Any]) -> kd.Objective:
    """Build the objective of ``METHOD``; for ``kd``: ``ALPHA · CE + (1 − ALPHA) · T² · KL(teacher ‖ student)``.

    Args:
        loader: yields (image, label, teacher logits).
    """
    return make(config.METHOD, student, teacher, first_batch(loader), method_settings())


def require_method(loader: DataLoader[Any]) -> None:
    """Try both models and ``METHOD`` before any training, and print the layers that it compares.

    Raises:
        ValueError: a model cannot be trained or restored, or the method does not support these models or settings.
    """
    batch = first_batch(loader)
    with kd.seeded(config.SEED):
        student, teacher = new_student(), TeacherModel()
        for model, other in ((teacher, TeacherModel()), (student, new_student())):
            require_restorable(type(model).__name__, model, other, batch)
            try_training(type(model).__name__, model, batch)
        layers = try_method(config.METHOD, student, teacher, batch, method_settings())
    say_layers(layers)


def method_settings() -> dict[str, Setting]:
    """Return all settings of ``METHOD``: its defaults, updated by ``SET`` and, for ``kd``, TEMPERATURE and ALPHA."""
    return all_method_settings(config.METHOD, config.SET, temperature=config.TEMPERATURE, alpha=config.ALPHA)
