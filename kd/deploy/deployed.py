"""A network with its preprocessing: raw inputs in, class probabilities out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kd.data.sources.table_encoding import Encoding
from kd.deploy.columns import make_encoder
from kd.deploy.manifest import Manifest, Preprocessing, channel_axis


class Deployed(nn.Module):
    """A copy of a network in eval mode on the CPU, preceded by the normalisation and followed by softmax.

    Called with raw inputs [N, *input_shape] (uint8 0–255, float32 or int64), or with the raw columns [N, C] of a table
    (``kd.deploy.columns``), it returns (probabilities, logits), both [N, K] float32. It normalises as
    ``kd.data.datasets.ArrayDataset`` does.

    Args:
        network: takes normalised inputs and returns logits [N, K].
        input_shape: of one input of the network, without the batch dimension.
        table: how the columns of a table become inputs; None for other data.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        input_shape: tuple[int, ...],
        table: Encoding | None = None,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu()
        self.encoder = make_encoder(table)
        self.is_normalised = bool(preprocessing.mean)
        shape = [1] * len(input_shape)
        shape[channel_axis(input_shape)] = -1
        mean, std = (
            torch.tensor(values or default, dtype=torch.float64).reshape(shape)
            for values, default in ((preprocessing.mean, [0.0]), (preprocessing.std, [1.0]))
        )
        self.register_buffer("scale", (1 / (preprocessing.scale * std)).float())
        self.register_buffer("shift", (mean / std).float())
        self.requires_grad_(False)
        self.train(False)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.encoder(inputs)
        if self.is_normalised:
            inputs = inputs.to(torch.float32) * self.scale - self.shift
        logits = self.network(inputs).to(torch.float32)
        return logits.softmax(dim=1), logits


def deploy(network: nn.Module, manifest: Manifest) -> Deployed:
    """Return a network of a manifest with its preprocessing."""
    return Deployed(network, manifest.preprocessing, manifest.input_shape, manifest.table)
