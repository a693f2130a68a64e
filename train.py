"""How this pipeline trains: Adam at config.LEARNING_RATE for config.EPOCHS epochs, with progress on the screen."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import config
import kd
from kd.console import epoch_line, progress
from kd.run import stage
from kd.snapshots import Snapshots


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
    settings = {"epochs": config.EPOCHS, "learning_rate": config.LEARNING_RATE, "seed": config.SEED}
    loaders = {"train": train_loader, "validation": val_loader}

    def produce(snapshots: Snapshots | None) -> dict[str, Any]:
        optimizer = torch.optim.Adam(model.parameters(), lr=config.LEARNING_RATE)
        with progress(title, steps=config.EPOCHS * len(train_loader)) as advance:
            history = kd.fit(
                model,
                objective,
                train_loader,
                val_loader,
                optimizer=optimizer,
                epochs=config.EPOCHS,
                seed=config.SEED,
                on_batch=advance,
                on_epoch=epoch_line(title, config.EPOCHS),
                snapshots=snapshots,
            )
        return {"model": model.state_dict(), "history": history.state()}

    inputs = {"model": model, "objective": objective, "device": config.DEVICE, **settings, **loaders}
    outcome = stage(title, inputs, produce)
    model.load_state_dict(outcome["model"])
    return kd.History.from_state(outcome["history"])
