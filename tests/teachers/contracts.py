"""Inputs that a contract makes of images, for the tests of input contracts."""

from __future__ import annotations

from torch import Tensor, nn

from kd.data.datasets import ArrayDataset
from kd.teachers.contract import (
    InputContract,
    OwnInputs,
    find_scale,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepare(dataset: ArrayDataset, contract: InputContract) -> Tensor:
    scale = find_scale(dataset)
    assert scale is not None
    inputs = dataset.__getitems__(range(len(dataset))).tensors[0]
    return OwnInputs(nn.Identity(), contract, scale)(inputs)
