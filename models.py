"""Models of the pipeline: a convolutional teacher and small students. Input [B, 1, 28, 28], output logits [B, 10]."""

import config
from kd.models import CNN, MLP, MNIST_SHAPE, ConvNet


class TeacherModel(ConvNet):
    """Three convolutions (16, 48, 128 channels), batch norm, dropout, 256 hidden units: 209,162 parameters."""


class StudentModel(MLP):
    """One hidden layer of ``width`` ReLU units, by default ``config.STUDENT_WIDTH``; 203,530 parameters at 256."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(config.STUDENT_WIDTH if width is None else width)


class StudentCNN(CNN):
    """Stages ``layer1`` to ``layer3`` of 8, 16, 32 channels, for methods that need feature maps; 6,274 parameters."""

    def __init__(self) -> None:
        super().__init__(8, MNIST_SHAPE, classes=10)


def new_student() -> MLP | CNN:
    """Build an untrained student of the kind ``config.STUDENT``."""
    return StudentModel() if config.STUDENT == "mlp" else StudentCNN()
