"""This pipeline's distillation: its objective, and the dataset that carries the teacher's logits."""

import config
import kd
from kd import DistillDataset as DistillDataset  # the documented place of this name


def distillation_objective() -> kd.Objective:
    """``ALPHA · CE + (1 − ALPHA) · T² · KL(teacher ‖ student)``."""
    return kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)
