"""How this pipeline trains: Adam at config.LEARNING_RATE for config.EPOCHS epochs, with progress on the screen."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import config
import kd
from kd import stages


def train_model(
    title: str,
    model: nn.Module,
    objective: kd.Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
) -> kd.History:
    """Train the model in place towards the objective; the weights after the last epoch count.

    Inside an open run (``python main.py``) this is a stage: kept, resumed or done anew as its inputs demand.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
    return stages.train(
        title,
        model,
        objective,
        train_loader,
        val_loader,
        optimizer=optimizer,
        epochs=config.EPOCHS,
        seed=config.SEED,
    )
