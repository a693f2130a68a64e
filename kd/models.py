"""The pipeline's two architectures. Input [B, 1, 28, 28], output logits [B, 10]."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Convolutions 5 × 5, 5 × 5, 3 × 3 to 32, 64, 128 maps, two with batch norm and dropout; 256 hidden units."""

    def __init__(self) -> None:
        super().__init__()
        # The first layer's maps are the largest and cost time by being moved: a stride of 2, and nothing but a ReLU.
        self.conv1 = nn.Conv2d(1, 32, 5, stride=2)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 5, bias=False), nn.BatchNorm2d(64)
        self.conv3, self.norm3 = nn.Conv2d(64, 128, 3, bias=False), nn.BatchNorm2d(128)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(128 * 2 * 2, 256)
        self.output = nn.Linear(256, 10)
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
    """One hidden layer of ``width`` ReLU units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(28 * 28, width)
        self.output = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.hidden(images.flatten(1)).relu())
        return logits
