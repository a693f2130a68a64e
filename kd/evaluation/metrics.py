"""Numbers about predictions and models."""

from __future__ import annotations

import functools
import operator

import torch
from torch import Tensor, nn

from kd.evaluation.multiply_adds import MultiplyAdds
from kd.models.inference import device_of, evaluating
from kd.types import Batch, Objective


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """[K, K] counts: row = true class, column = predicted class."""
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes**2).reshape(classes, classes)


def count_parameters(model: nn.Module) -> int:
    """The number of values in the model's parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_multiply_adds(model: nn.Module, objective: Objective, batch: Batch) -> int:
    """Multiply-add operations of one training step on a batch, forward and backward; the optimizer's are not counted.

    The model's gradients are left as they were.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = device_of(model)
    counter = MultiplyAdds()
    with evaluating(model), counter:
        _, terms = objective(model, tuple(tensor.to(device) for tensor in batch))
        if trained:
            torch.autograd.grad(functools.reduce(operator.add, terms.values()), trained)
    return counter.total


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiply-add operations of one forward pass on a batch of examples: products, convolutions and attention."""
    counter = MultiplyAdds()
    with evaluating(model), torch.no_grad(), counter:
        model(example.to(device_of(model)))
    return counter.total
