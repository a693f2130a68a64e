"""This pipeline's distillation: its objective, and the dataset that carries the teacher's logits."""

from typing import Any

from torch import nn
from torch.utils.data import DataLoader

import config
import kd
from kd import DistillDataset as DistillDataset  # the documented place of this name
from kd.commands.messages import say_layers
from kd.commands.method_flags import all_method_settings
from kd.data.loaders import first_batch
from kd.methods import Setting, make, try_method
from models import TeacherModel, new_student


def distillation_objective(student: nn.Module, teacher: nn.Module, loader: DataLoader[Any]) -> kd.Objective:
    """What ``METHOD`` trains the student towards; ``kd`` is ``ALPHA · CE + (1 − ALPHA) · T² · KL(teacher ‖ student)``.

    Args:
        loader: over (image, label, teacher logits).
    """
    return make(config.METHOD, student, teacher, first_batch(loader), method_settings())


def require_method(loader: DataLoader[Any]) -> None:
    """Refuse, before anything is trained, a ``METHOD`` that cannot work on this pair; say which layers it compares.

    Raises:
        ValueError: as the method has it.
    """
    with kd.seeded(config.SEED):
        layers = try_method(config.METHOD, new_student(), TeacherModel(), first_batch(loader), method_settings())
    say_layers(layers)


def method_settings() -> dict[str, Setting]:
    """All settings of ``METHOD``: its defaults, and what ``SET``, or for ``kd`` TEMPERATURE and ALPHA, say instead."""
    return all_method_settings(config.METHOD, config.SET, temperature=config.TEMPERATURE, alpha=config.ALPHA)
