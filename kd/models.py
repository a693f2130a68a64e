"""The pipeline's two architectures. Input [B, 1, 28, 28], output logits [B, 10]."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Three 3 × 3 convolutions (32, 64, 128) with batch norm, 256 hidden units, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64)
        self.conv3, self.norm3 = nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(128 * 3 * 3, 256)
        self.output = nn.Linear(256, 10)
        self.dropout_conv = nn.Dropout(0.25)
        self.dropout_hidden = nn.Dropout(0.5)
        # Channels last: the same step in a fraction of the time on a CPU (benchmarks/teacher_step.py). Weights and
        # results are the same numbers; only their order in memory differs.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        # Pooling comes right after the convolution: norm, ReLU and dropout then work on a quarter of the values.
        x = self.dropout_conv(self.norm1(self.pool(self.conv1(images))).relu())
        x = self.dropout_conv(self.norm2(self.pool(self.conv2(x))).relu())
        x = self.dropout_conv(self.norm3(self.conv3(x)).relu())
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
