"""The pair: a convolutional teacher, a small fully connected student. Input [B, 1, 28, 28], output logits [B, 10]."""

import config
from kd.models import MLP, ConvNet


class TeacherModel(ConvNet):
    """Three convolutions (32, 64, 128 maps), batch norm, dropout, 256 hidden units: 260,042 parameters."""


class StudentModel(MLP):
    """One hidden layer of ``width`` ReLU units (``config.STUDENT_WIDTH`` unless given): 203,530 parameters at 256."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(config.STUDENT_WIDTH if width is None else width)
