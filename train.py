"""How this pipeline trains: Adam, from config.LEARNING_RATE down to 0 in config.EPOCHS epochs, with progress shown."""

from typing import Any

from torch import nn
from torch.utils.data import DataLoader

import config
import kd
from kd.training import run_steps
from kd.training.optimizers import adam


def train_model(
    title: str,
    model: nn.Module,
    objective: kd.Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
) -> kd.History:
    """Train the model in place towards the objective; the weights after the last epoch count.

    Inside an open run (``python main.py``) this is a step: kept, resumed or done anew as its inputs demand.
    """
    steps = config.EPOCHS * len(train_loader)
    optimizer, scheduler = adam(model, learning_rate=config.LEARNING_RATE, steps=steps, objective=objective)
    return run_steps.train(
        title,
        model,
        objective,
        train_loader,
        val_loader,
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=config.EPOCHS,
        seed=config.SEED,
    )
