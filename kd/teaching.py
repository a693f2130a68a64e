"""A teacher and what its students learn from: trained, or taken up from any earlier command in the same folder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from kd import pipeline
from kd.console import say_sizes
from kd.run_data import Data, load_data
from kd.run_settings import RunSettings
from kd.students import Lessons


class Taught(NamedTuple):
    """A trained teacher, the data it was trained on, and its logits as lessons for students."""

    model: nn.Module
    data: Data
    lessons: Lessons


def teach(settings: RunSettings, device: torch.device, *, number: int = 0) -> Taught:
    """Train the teacher of these settings and collect its logits, or take up what is kept; no test image is asked.

    Args:
        number: which one it is where there are several; 0 is that of ``kd run`` in the same folder.
    """
    data = load_data(settings)
    if not number:
        say_sizes(data.name, data.sizes, device)
        pipeline.require_method(settings, data)
    suffix = f"-{number}" if number else ""
    model, _ = pipeline.train_teacher(settings, data, device, suffix=suffix)
    loaders = pipeline.with_logits(model, data, suffix=suffix, ids=settings.ids)
    training, validation = (loader.dataset for loader in loaders)
    return Taught(model, data, Lessons(training, validation, data.test_set, settings.batch_size))
