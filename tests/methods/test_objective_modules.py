"""Objectives with parameters, buffers or a schedule: support by the training loop and the optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.storage.snapshots import Snapshots
from kd.training.optimizers import adam
from tests.conftest import CLASSES, tiny_model


class Watching(nn.Module):
    """Cross-entropy through a projector; records ``set_epoch`` calls and the mode of each step."""

    def __init__(self) -> None:
        super().__init__()
        with kd.seeded(3):
            self.projector = nn.Linear(CLASSES, CLASSES)
        self.epochs_set: list[tuple[int, int]] = []
        self.modes: list[tuple[bool, bool, bool]] = []

    def set_epoch(self, epoch: int, epochs: int) -> None:
        self.epochs_set.append((epoch, epochs))

    def forward(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.modes.append((torch.is_grad_enabled(), model.training, self.training))
        output = model(batch[0])
        return output, {"own": nn.functional.cross_entropy(self.projector(output), batch[1])}


def fit(
    digits: kd.ImageDataset, objective: kd.Objective, *, epochs: int, snapshots: Snapshots | None = None
) -> kd.History:
    model = tiny_model()
    optimizer, scheduler = adam(model, learning_rate=0.01, steps=12 * epochs, objective=objective)
    loader = kd.make_loader(digits, batch_size=8, shuffle=True)
    return kd.fit(
        model,
        objective,
        loader,
        kd.make_loader(digits, batch_size=50),
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=epochs,
        seed=0,
        snapshots=snapshots,
    )


def test_set_epoch_is_called_before_the_first_step_of_each_epoch(digits: kd.ImageDataset) -> None:
    objective = Watching()
    fit(digits, objective, epochs=3)
    assert objective.epochs_set == [(0, 3), (1, 3), (2, 3)]


def test_the_objective_has_the_models_mode_at_every_step(digits: kd.ImageDataset) -> None:
    objective = Watching().eval()
    fit(digits, objective, epochs=2)
    training, validating = [(True, True, True)] * 12, [(False, False, False)] * 2
    assert objective.modes == 2 * (training + validating)
    assert objective.training


def test_evaluate_runs_it_in_eval_mode_and_restores_its_mode(digits: kd.ImageDataset) -> None:
    objective = Watching()
    kd.evaluate(tiny_model(), objective, kd.make_loader(digits, batch_size=50))
    assert objective.modes == [(False, False, False)] * 2
    assert objective.training


def test_adam_trains_its_parameters_and_the_models(digits: kd.ImageDataset) -> None:
    objective = Watching()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    fit(digits, objective, epochs=1)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())


def test_without_parameters_adam_has_only_the_models() -> None:
    model = tiny_model()
    for objective in (None, kd.supervised):
        optimizer, _ = adam(model, learning_rate=0.01, steps=1, objective=objective)
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_a_resumed_training_calls_set_epoch_with_the_current_epoch(digits: kd.ImageDataset, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    class Interrupted(Watching):
        def forward(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
            if len(self.modes) == 20:  # in the second epoch
                raise Cut
            return super().forward(model, batch)

    first, second = Interrupted(), Watching()
    with pytest.raises(Cut):
        fit(digits, first, epochs=3, snapshots=Snapshots(tmp_path, key="k", interval=0))
    fit(digits, second, epochs=3, snapshots=Snapshots(tmp_path, key="k", interval=0))
    assert second.epochs_set == [(1, 3), (2, 3)]
