"""End-to-end training on tables, sequences, tokens, colour images and lazily decoded images.

As in every run: a teacher, its logits cached and verified by sample, a control and a distilled student.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kd
from kd.data.sources import Splits, open_source, split_source
from kd.data.sources.arrays import from_arrays
from kd.teachers.cache import with_teacher_logits
from kd.training.run_steps import train_pair
from kd.types import Objective
from tests.data.sources.image_trees import save_tree

RANDOM = np.random.default_rng(0)
LABELS = np.arange(60) % 3


class MeanOverTime(nn.Module):
    """A classifier of sequences [B, T, F]: the mean of a recurrent layer's outputs, then a linear layer."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.recurrent, self.output = nn.GRU(features, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, steps: Tensor) -> Tensor:
        logits: Tensor = self.output(self.recurrent(steps)[0].mean(dim=1))
        return logits


def split_arrays(inputs: np.ndarray) -> Splits:
    return split_source(from_arrays("own", {"train": inputs}, {"train": LABELS}))


def sequences(folder: Path) -> Splits:
    return split_arrays(RANDOM.normal(size=(60, 7, 4)))


def tokens(folder: Path) -> Splits:
    return split_arrays(RANDOM.integers(0, 20, (60, 7)))


def colours(folder: Path) -> Splits:
    return split_arrays(RANDOM.integers(0, 256, (60, 9, 7, 3), dtype=np.uint8))


def wine(folder: Path) -> Splits:
    return split_source(open_source("sklearn:wine"))


def image_files(folder: Path) -> Splits:
    return split_source(open_source(save_tree(folder, per_class=15)))


MODELS: dict[Callable[[Path], Splits], Callable[[], nn.Module]] = {
    wine: lambda: nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3)),
    sequences: lambda: MeanOverTime(4),
    tokens: lambda: nn.Sequential(nn.Embedding(20, 4), MeanOverTime(4)),
    colours: lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 5, 3)),
    image_files: lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 5, 2)),
}


@pytest.mark.parametrize("data", MODELS, ids=lambda data: data.__name__)
def test_training_works_for_any_inputs(data: Callable[[Path], Splits], tmp_path: Path) -> None:
    splits = data(tmp_path)
    train, val = kd.make_loader(splits.train, batch_size=16, shuffle=True), kd.make_loader(splits.val, batch_size=16)

    def train_model(title: str, model: nn.Module, objective: Objective, *loaders: object) -> kd.History:
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        return kd.fit(model, objective, *loaders, optimizer=adam, epochs=4, seed=0)  # type: ignore[arg-type]

    with kd.seeded(0):
        teacher, student = MODELS[data](), MODELS[data]()
    history = train_model("teacher", teacher, kd.supervised, train, val)
    assert history["train_loss"][-1] < history["train_loss"][0]
    loaders = with_teacher_logits(teacher, {"training": (splits.train, train), "validation": (splits.val, val)})
    distilled = kd.distilled(temperature=4, alpha=0.5)
    pair = train_pair(
        student, distilled, (train, val), (loaders["training"], loaders["validation"]), train=train_model, seed=0
    )
    assert not pair.distilled_history.notes  # no note: both students saw the same batches
    predictions = kd.predict(pair.distilled, kd.make_loader(splits.test, batch_size=8))
    assert predictions.logits.shape == (len(splits.test), len(splits.classes))  # type: ignore[arg-type]
