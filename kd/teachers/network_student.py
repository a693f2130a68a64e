"""Network students of the scikit-learn estimators: built from hidden sizes or a function, and trained on rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.checks import require
from kd.data.loaders import make_loader
from kd.models.networks import MLP
from kd.seeding import seeded
from kd.teachers.sklearn_teacher import network_logits
from kd.training.batch_metrics import METRICS
from kd.training.history import History
from kd.training.loop import fit
from kd.training.optimizers import adam
from kd.types import Metric, Objective


def prepare_inputs(
    rows: NDArray[np.float64], scaler: StandardScaler | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return a network's inputs [N, F] for these rows, standardised if there is a scaler.

    Without one, warn about features that the type cannot represent, such as time stamps as float32.

    Raises:
        ValueError: values that overflow: the outputs would be NaN.
    """
    if scaler is None and dtype == torch.float32:
        from kd.data.sources.arrays import warn_of_lost_values  # here: most uses need none of its imports

        with np.errstate(over="ignore"):
            warn_of_lost_values("X with standardize=False", rows, rows.astype(np.float32))
    inputs = torch.tensor(rows if scaler is None else scaler.transform(rows), dtype=dtype)
    overflown = (~inputs.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if overflown:
        raise ValueError(
            f"X must be in the range of {dtype} once standardised. Got too large values in {len(overflown):,} of "
            f"{len(inputs):,} rows, the first at index {overflown[0]}. Rescale the columns, or leave out these rows."
        )
    return inputs


def build_network(student: Any, arguments: tuple[int, ...], example: Tensor, *, outputs: int, seed: int) -> nn.Module:
    """Build an untrained student, and check the shape of its output for one row.

    Args:
        student: units of each hidden layer, or a function that builds the network.
        arguments: of that function.
        example: one prepared row [1, F].
        outputs: number of outputs; above 1 it is the number of classes.

    Raises:
        ValueError: the output is not of shape [1, outputs].
    """
    with seeded(seed):
        if callable(student):
            network: nn.Module = student(*arguments)
        else:
            network = MLP(*student, input_shape=(example.shape[1],), classes=outputs)
        shape = list(network_logits(network, example).shape)
    allowed = f"of shape [1, {outputs}]" + (", one logit per class" if outputs > 1 else "")
    require(shape == [1, outputs], "the student's output for one row", shape, allowed)
    return network


def train_network(
    network: nn.Module,
    objective: Objective,
    dataset: Dataset[Any],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    metrics: Mapping[str, Metric] = METRICS,
    on_epoch: Callable[[int, History], None] | None = None,
) -> History:
    """Train a student with Adam, whose learning rate decays linearly to 0, and leave it in eval mode.

    Args:
        metrics, on_epoch: see ``kd.fit``.
    """
    loader = make_loader(dataset, batch_size=batch_size, shuffle=True)
    optimizer, scheduler = adam(network, learning_rate=learning_rate, steps=epochs * len(loader))
    history = fit(
        network,
        objective,
        loader,
        None,
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=epochs,
        seed=seed,
        metrics=metrics,
        on_epoch=on_epoch,
    )
    network.eval()  # for callers that use it directly
    return history
