"""Built-in small architectures. Input [B, ...], output logits [B, classes]; the defaults fit MNIST.

``input_shape`` is the shape of one sample, without the batch dimension.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import is_integer, require

MNIST_SHAPE = (1, 28, 28)

SMALLEST_SIDE = 23  # pixels of an image for ConvNet


class ConvNet(nn.Module):
    """Three convolutions (5 × 5, 5 × 5, 3 × 3) and 256 hidden units, with batch norm and dropout.

    Args:
        input_shape: [C, H, W] with H and W of at least 23 pixels; smaller images would give empty feature maps.
        classes: K.
        maps: channels of the convolutions; multiples of 8 are fastest on a CPU. The defaults have no more errors on
            MNIST than (32, 64, 128), with 43 % of the multiply-adds (benchmarks/teacher_size.py).
    """

    def __init__(
        self,
        input_shape: Sequence[int] = MNIST_SHAPE,
        classes: int = 10,
        maps: tuple[int, int, int] = (16, 48, 128),
    ) -> None:
        super().__init__()
        require_images("ConvNet", input_shape, side=SMALLEST_SIDE)
        channels, height, width = input_shape
        first, second, third = maps
        # The first layer's maps are the largest, and memory traffic dominates its cost: hence stride 2 and only a ReLU.
        self.conv1 = nn.Conv2d(channels, first, 5, stride=2)
        self.conv2, self.norm2 = nn.Conv2d(first, second, 5, bias=False), nn.BatchNorm2d(second)
        self.conv3, self.norm3 = nn.Conv2d(second, third, 3, bias=False), nn.BatchNorm2d(third)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(third * _last_side(height) * _last_side(width), 256)
        self.output = nn.Linear(256, classes)
        # Dropout of whole feature maps needs one random number per map, not per value; a CPU draws them one by one.
        self.dropout_maps = nn.Dropout2d(0.1)
        self.dropout_hidden = nn.Dropout(0.5)
        # Channels last makes a training step faster on a CPU (benchmarks/teacher_step.py). Weights and results have the
        # same values; only their order in memory differs.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        # Pooling directly after the convolution leaves a quarter of the values for norm, ReLU and dropout.
        x = self.conv1(images).relu()
        x = self.dropout_maps(self.norm2(self.pool(self.conv2(x))).relu())
        x = self.dropout_maps(self.norm3(self.conv3(x)).relu())
        x = self.hidden(x.flatten(1)).relu()
        logits: Tensor = self.output(self.dropout_hidden(x))
        return logits


class MLP(nn.Module):
    """Multilayer perceptron with ReLU units. Inputs of any shape are flattened.

    Args:
        widths: units of each hidden layer, at least one layer.
        input_shape: shape of one sample; [features] for tabular data.
        classes: K.
    """

    def __init__(self, *widths: int, input_shape: Sequence[int] = MNIST_SHAPE, classes: int = 10) -> None:
        super().__init__()
        fits = bool(widths) and all(is_integer(width) and width >= 1 for width in widths)
        require(fits, "widths of an MLP", widths, "one or more integers above 0")
        self.hidden = nn.Linear(math.prod(input_shape), widths[0])
        sizes = itertools.pairwise(widths)
        self.deeper = nn.Sequential(*(layer for pair in sizes for layer in (nn.Linear(*pair), nn.ReLU())))
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.output(self.deeper(self.hidden(inputs.flatten(1)).relu()))
        return logits


class CNN(nn.Module):
    """Small convolutional network for images of any size: three stages, global average pooling, a linear layer.

    ``layer1``, ``layer2`` and ``layer3`` output ``width``, 2 · ``width`` and 4 · ``width`` channels with 1, 1/4 and
    1/16 of the pixels. Each stage is a 3 × 3 convolution, batch norm and ReLU.

    Args:
        width: channels of the first stage, at least 1; 32 gives a network of 95,000 parameters.
        input_shape: [C, H, W].
        classes: K.
    """

    def __init__(self, width: int, input_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        require(width >= 1, "width of a CNN", width, "an integer above 0")
        require_images("CNN", input_shape, side=1)
        self.layer1 = _stage(input_shape[0], width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.output = nn.Linear(4 * width, classes)
        self.to(memory_format=torch.channels_last)  # shortens a training step by about a fifth on a CPU

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layer3(self.layer2(self.layer1(images)))
        logits: Tensor = self.output(maps.mean(dim=(2, 3)))
        return logits


def require_images(architecture: str, input_shape: Sequence[int], *, side: int) -> None:
    """Raise ``ValueError`` unless the input is an image [C, H, W] of at least ``side`` × ``side`` pixels."""
    fits = len(input_shape) == 3 and min(input_shape[1:]) >= side
    allowed = f"images [channels, height, width] of at least {side} × {side} pixels"
    advice = "cnn:32 takes images of any size, mlp:256 inputs of any shape"
    require(fits, f"the input of {architecture}", list(input_shape), allowed, advice)


def _last_side(side: int) -> int:
    """Return the height or width of ConvNet's last feature maps, after conv1, conv2, pool and conv3."""
    return (((side - 5) // 2 + 1) - 4) // 2 - 2


def _stage(inputs: int, maps: int, *, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, maps, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(maps), nn.ReLU())
