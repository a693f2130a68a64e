"""Predictions for the validation split, which set the limits of inputs unlike the training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from kd.data.loaders import in_order
from kd.evaluation.unlike import Validation, collect_moments
from kd.training.run_steps import predict_models


def predict_validation(models: Mapping[str, nn.Module], loader: DataLoader[Any]) -> Validation:
    """Run the models, by name, on the validation split, as a step of its own; labels are not used."""
    predictions = predict_models(models, in_order(loader), title="validation")
    return Validation({name: result.logits for name, result in predictions.items()}, collect_moments(loader.dataset))
