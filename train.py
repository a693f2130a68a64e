"""Training in this pipeline: Adam for ``config.EPOCHS`` epochs; the learning rate decays from LEARNING_RATE to 0."""

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
    """Train the model in place; the final weights are those after the last epoch.

    Inside a run (``python main.py``) the training is one step of the run: it is reused, resumed or repeated, depending
    on its inputs.
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
