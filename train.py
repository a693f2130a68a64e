"""Training in this pipeline: Adam for ``config.EPOCHS`` epochs; the learning rate decays from LEARNING_RATE to 0."""

from typing import Any

from torch import nn
from torch.utils.data import DataLoader

import config
import kd
from kd.training import run_steps


def train_model(
    title: str,
    model: nn.Module,
    objective: kd.Objective,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
) -> kd.History:
    """Train the model in place; the final weights are those after the last epoch.

    Inside a run (``python main.py``) the training is one step of the run: it is reused, resumed or repeated, depending
    on its inputs.
    """
    rate, epochs, seed = config.LEARNING_RATE, config.EPOCHS, config.SEED
    loaders = (train_loader, val_loader)
    return run_steps.train_with_adam(title, model, objective, *loaders, learning_rate=rate, epochs=epochs, seed=seed)
