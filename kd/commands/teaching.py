"""A teacher and what its students learn from: trained, or taken up from any earlier command in the same folder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from kd.commands.data import Data, load_data
from kd.commands.models import new_teachers
from kd.commands.run import command
from kd.commands.settings import RunSettings
from kd.training.students import Lessons


class Taught(NamedTuple):
    """A trained teacher, the data it was trained on, and its logits as lessons for students.

    Attributes:
        control: lessons for students that learn from the labels alone.
    """

    model: nn.Module
    data: Data
    lessons: Lessons
    control: Lessons


def teach(settings: RunSettings, device: torch.device, *, number: int = 0, test_seed: int | None = None) -> Taught:
    """Train the teacher of these settings and collect its logits, or take up what is kept; no test image is asked.

    Args:
        number: which one it is where there are several; 0 is that of ``kd run`` in the same folder.
        test_seed: as ``kd.data.sources.split_source`` has it.
    """
    data = load_data(settings, test_seed=test_seed)
    if not number:
        command.say_data(data, device)
    teachers = new_teachers(settings, data)
    if not number:
        command.require_method(settings, data, teachers)
    suffix = f"-{number}" if number else ""
    model, _ = command.train_teacher(settings, data, teachers, device, suffix=suffix)
    loaders = command.with_logits(settings, model, data, suffix=suffix)
    training, validation = (loader.dataset for loader in loaders)
    lessons = Lessons(training, validation, data.test_set, settings.batch_size, data.views)
    if data.unlabelled is None:
        return Taught(model, data, lessons, lessons)
    return Taught(model, data, lessons, lessons._replace(training=command.for_the_control(data, loaders[0]).dataset))
