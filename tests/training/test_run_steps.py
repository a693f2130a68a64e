"""The steps of a run give the same results as the toolkit's functions, and are reused in an open run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kd
from kd.data.loaders import in_order
from kd.storage.run_folder import open_run
from kd.teachers.cache import teacher_logits, with_teacher_logits
from kd.training import run_steps
from tests.conftest import tiny_model


@pytest.fixture
def loader(digits: kd.ImageDataset) -> DataLoader[Any]:
    return kd.make_loader(digits, batch_size=32, shuffle=True)


def adam(model: nn.Module, rate: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=rate)


def train_tiny(loader: DataLoader[Any], *, rate: float = 1e-2, seed: int = 0) -> tuple[nn.Module, kd.History]:
    model = tiny_model(dropout=0.2)
    history = run_steps.train(
        "tiny", model, kd.supervised, loader, loader, optimizer=adam(model, rate), epochs=2, seed=seed
    )
    return model, history


def test_training_equals_fit_and_prints_a_line_per_epoch(
    loader: DataLoader[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, history = train_tiny(loader)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  train")[0] for line in lines] == ["tiny       epoch 1/2", "tiny       epoch 2/2"]
    twin = tiny_model(dropout=0.2)
    expected = kd.fit(twin, kd.supervised, loader, loader, optimizer=adam(twin), epochs=2, seed=0)
    assert history == expected
    assert kd.weights_bytes(model) == kd.weights_bytes(twin)


def test_in_an_open_run_a_training_is_reused_until_optimizer_or_seed_changes(
    loader: DataLoader[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path):
        model, history = train_tiny(loader)
        capsys.readouterr()
        again, same_history = train_tiny(loader)
        assert "tiny: up to date, reused" in capsys.readouterr().out
        assert (kd.weights_bytes(again), same_history) == (kd.weights_bytes(model), history)
        train_tiny(loader, rate=0.5)
        assert "inputs changed (optimizer.groups.0.lr: 0.01 -> 0.5)" in (capsys.readouterr().out)
        train_tiny(loader, seed=1)
        assert "epoch 2/2" in capsys.readouterr().out


def test_each_loader_gets_the_logits_of_its_dataset(
    digits: kd.ImageDataset, loader: DataLoader[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tiny_model(3)
    splits = {"training": (digits, loader), "validation": (digits, kd.make_loader(digits, batch_size=50))}
    with_ids = with_teacher_logits(teacher, splits, ids=True)
    assert [len(next(iter(loader))) for loader in with_ids.values()] == [4, 4]
    assert "teacher logits: 192 rows" in capsys.readouterr().out
    loaders = with_teacher_logits(teacher, splits)
    assert list(loaders) == ["training", "validation"]
    assert [loader.batch_size for loader in loaders.values()] == [32, 50]
    assert "teacher logits: 192 rows" in capsys.readouterr().out
    for images, _, logits in loaders["training"]:
        torch.testing.assert_close(logits, kd.predict(teacher, [(images, images[:, 0, 0, 0])]).logits)


def test_a_pair_with_equal_objectives_is_bit_identical_without_a_note(loader: DataLoader[Any]) -> None:
    def train(title: str, model: nn.Module, *rest: Any) -> kd.History:
        return run_steps.train(title, model, *rest, optimizer=adam(model), epochs=1, seed=5)

    loaders = (loader, loader)
    pair = run_steps.train_pair(tiny_model(), kd.supervised, loaders, loaders, train=train, seed=5)
    assert pair.control is not pair.distilled
    assert kd.weights_bytes(pair.control) == kd.weights_bytes(pair.distilled)
    assert pair.control_history == pair.distilled_history
    assert pair.control_history.notes == pair.distilled_history.notes == []


def test_different_batches_of_a_pair_give_a_warning_and_a_note(
    digits: kd.ImageDataset, loader: DataLoader[Any]
) -> None:
    def train(title: str, model: nn.Module, *rest: Any) -> kd.History:
        return run_steps.train(title, model, *rest, optimizer=adam(model), epochs=1, seed=0)

    other = kd.make_loader(digits, batch_size=16)
    with pytest.warns(UserWarning, match="did not see the same batches: their samplers draw different indices"):
        pair = run_steps.train_pair(tiny_model(), kd.supervised, (loader, loader), (other, other), train=train, seed=0)
    for history in (pair.control_history, pair.distilled_history):
        (note,) = history.notes
        assert note.startswith("The control and the distilled student did not see the same batches")


def test_predictions_of_several_models_are_reused_in_an_open_run(
    digits: kd.ImageDataset, loader: DataLoader[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {"one": tiny_model(1), "other": tiny_model(2)}
    with open_run(tmp_path):
        for _ in range(2):
            predictions = run_steps.predict_models(models, in_order(loader))
            assert list(predictions) == list(models)
            for name, model in models.items():
                logits, labels = kd.predict(model, in_order(loader))
                assert torch.equal(predictions[name].logits, logits)
                assert torch.equal(predictions[name].labels, labels)
    assert "evaluation: up to date, reused" in capsys.readouterr().out


HIDDEN = {"shift": 0.0}  # changes the teacher's logits, but is not part of its description


def shift_logits(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
    return output + HIDDEN["shift"]


def test_cached_logits_are_verified_again(
    digits: kd.ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_model()
    with open_run(tmp_path):
        teacher.register_forward_hook(shift_logits)
        logits = teacher_logits("logits", teacher, digits)
        assert torch.equal(teacher_logits("logits", teacher, digits), logits)
        monkeypatch.setitem(HIDDEN, "shift", 1.0)
        with pytest.raises(ValueError, match=r"cached logits are invalid: .* Use --fresh to collect them again"):
            teacher_logits("logits", teacher, digits)


def test_a_shuffling_validation_loader_depends_on_seed_and_epoch(digits: kd.ImageDataset) -> None:
    orders: list[list[int]] = [[], []]
    for order in orders:
        numbered = TensorDataset(digits.images.float(), digits.labels, torch.arange(len(digits)))
        shuffled = kd.make_loader(numbered, batch_size=32, shuffle=True)
        next(iter(shuffled))  # earlier draws must have no effect

        def record_order(model: nn.Module, batch: kd.Batch, order: list[int] = order) -> Any:
            order += [] if model.training else batch[2].tolist()
            return kd.supervised(model, batch)

        model = tiny_model()
        kd.fit(model, record_order, shuffled, shuffled, optimizer=adam(model), epochs=2, seed=5)
    assert orders[0] == orders[1]
    assert orders[0][: len(digits)] != orders[0][len(digits) :]
