"""Small architectures of the toolkit's own. Input [B, ...], output logits [B, classes]; as they stand, for MNIST.

How many channels, pixels or values an input has is told by ``input_shape``, the shape of one example without the batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import require

MNIST_SHAPE = (1, 28, 28)


class ConvNet(nn.Module):
    """Convolutions 5 × 5, 5 × 5, 3 × 3 to 32, 64, 128 maps, two with batch norm and dropout; 256 hidden units.

    Args:
        input_shape: [C, H, W] with H and W of at least 23 pixels, fewer leave nothing of the maps.
        classes: K.
    """

    def __init__(self, input_shape: Sequence[int] = MNIST_SHAPE, classes: int = 10) -> None:
        super().__init__()
        require_images("ConvNet", input_shape, side=23)
        channels, height, width = input_shape
        # The first layer's maps are the largest and cost time by being moved: a stride of 2, and nothing but a ReLU.
        self.conv1 = nn.Conv2d(channels, 32, 5, stride=2)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 5, bias=False), nn.BatchNorm2d(64)
        self.conv3, self.norm3 = nn.Conv2d(64, 128, 3, bias=False), nn.BatchNorm2d(128)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(128 * _last_side(height) * _last_side(width), 256)
        self.output = nn.Linear(256, classes)
        # Of whole maps: a CPU draws random numbers one by one, and so needs one for each map instead of each value.
        self.dropout_maps = nn.Dropout2d(0.1)
        self.dropout_hidden = nn.Dropout(0.5)
        # Channels last: the same step in less time on a CPU (benchmarks/teacher_step.py). Weights and results are the
        # same numbers; only their order in memory differs.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        # Pooling comes right after the convolution: norm, ReLU and dropout then work on a quarter of the values.
        x = self.conv1(images).relu()
        x = self.dropout_maps(self.norm2(self.pool(self.conv2(x))).relu())
        x = self.dropout_maps(self.norm3(self.conv3(x)).relu())
        x = self.hidden(x.flatten(1)).relu()
        logits: Tensor = self.output(self.dropout_hidden(x))
        return logits


class MLP(nn.Module):
    """Hidden layers of ReLU units, one for each of ``widths``, on all values of an input of any shape.

    Args:
        widths: units of each hidden layer, at least one layer.
        input_shape: of one example; tabular data is [features].
        classes: K.
    """

    def __init__(self, *widths: int, input_shape: Sequence[int] = MNIST_SHAPE, classes: int = 10) -> None:
        super().__init__()
        require(bool(widths) and min(widths) >= 1, "widths of an MLP", widths, "one or more whole numbers above 0")
        self.hidden = nn.Linear(math.prod(input_shape), widths[0])
        more = itertools.pairwise(widths)
        self.deeper = nn.Sequential(*(layer for pair in more for layer in (nn.Linear(*pair), nn.ReLU())))
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.output(self.deeper(self.hidden(inputs.flatten(1)).relu()))
        return logits


class CNN(nn.Module):
    """A small student for images of any number of channels and any size: three stages, then the mean of each map.

    ``layer1``, ``layer2`` and ``layer3`` answer with ``width``, 2 · ``width`` and 4 · ``width`` maps on all, a quarter
    and a sixteenth of the pixels. Each is a convolution 3 × 3, batch norm and ReLU.

    Args:
        width: maps of the first stage, at least 1; 32 makes a network of 95,000 parameters.
        input_shape: [C, H, W].
        classes: K.
    """

    def __init__(self, width: int, input_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        require(width >= 1, "width of a CNN", width, "a whole number above 0")
        require_images("CNN", input_shape, side=1)
        self.layer1 = _stage(input_shape[0], width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.output = nn.Linear(4 * width, classes)
        self.to(memory_format=torch.channels_last)  # a training step in about four fifths of the time on a CPU

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layer3(self.layer2(self.layer1(images)))
        logits: Tensor = self.output(maps.mean(dim=(2, 3)))
        return logits


def require_images(architecture: str, input_shape: Sequence[int], *, side: int) -> None:
    """Raise ``ValueError`` unless an example is an image [C, H, W] of at least ``side`` × ``side`` pixels."""
    fits = len(input_shape) == 3 and min(input_shape[1:]) >= side
    allowed = f"images [channels, height, width] of at least {side} × {side} pixels"
    advice = "cnn:32 takes images of any size, mlp:256 inputs of any shape"
    require(fits, f"the input of {architecture}", list(input_shape), allowed, advice)


def _last_side(side: int) -> int:
    """Height or width of ConvNet's last maps: conv1, conv2, pool, conv3."""
    return (((side - 5) // 2 + 1) - 4) // 2 - 2


def _stage(inputs: int, maps: int, *, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, maps, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(maps), nn.ReLU())
