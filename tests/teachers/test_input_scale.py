"""A loaded teacher that expects another input scale is noticed, with the numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.teachers.input_scale import explain_input_scale
from kd.teachers.load import teacher_accuracy
from kd.teachers.lookup import build_lookup
from kd.training.optimizers import adam
from tests.conftest import CLASSES


class Rescaled(nn.Module):
    """A teacher of the normalised inputs, as it would be if it had been trained on another scale."""

    def __init__(self, teacher: nn.Module, to_stored: Any, dataset: kd.ImageDataset) -> None:
        super().__init__()
        self.teacher, self.to_stored, self.mean, self.std = teacher, to_stored, dataset.mean, dataset.std

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.teacher((self.to_stored(inputs) / 255 - self.mean) / self.std)
        return logits


@pytest.fixture(name="shades")
def _shades() -> kd.ImageDataset:
    """Return images of one shade each; the class is the shade, which another scale changes."""
    labels = torch.arange(200) % CLASSES
    noise = torch.randint(0, 20, (200, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    return kd.ImageDataset((60 * labels.reshape(-1, 1, 1, 1) + noise).to(torch.uint8), labels, mean=0.4, std=0.25)


@pytest.fixture(scope="module", name="teacher")
def _teacher() -> nn.Module:
    with kd.seeded(0):
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, CLASSES))


def train(teacher: nn.Module, shades: kd.ImageDataset) -> nn.Module:
    loader = kd.make_loader(shades, batch_size=16, shuffle=True)
    optimizer, scheduler = adam(teacher, learning_rate=0.01, steps=390)
    kd.fit(teacher, kd.supervised, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=30, seed=0)
    return teacher


@pytest.mark.parametrize(("name", "inverse"), [("[0, 1]", 255), ("[0, 255]", 1), ("[-1, 1]", None)])
def test_another_scale_is_named_with_both_accuracies(
    name: str, inverse: float | None, teacher: nn.Module, shades: kd.ImageDataset
) -> None:
    train(teacher, shades)
    assert explain_input_scale(teacher, shades) is None

    def to_stored(inputs: Tensor) -> Tensor:
        return (inputs + 1) * 127.5 if inverse is None else inputs * inverse

    other = Rescaled(teacher, to_stored, shades)
    reason = explain_input_scale(other, shades)
    assert reason is not None
    assert f"but on 100.0% of them normalised as numbers in {name}" in reason
    with pytest.warns(UserWarning, match="but on 100.0% of them"):
        teacher_accuracy(other, shades)


def test_the_statistics_of_batch_norm_show_another_scale(teacher: nn.Module, shades: kd.ImageDataset) -> None:
    train(teacher, shades)
    with_offset = [(image + 20, label) for image, label in shades]
    reason = explain_input_scale(teacher, with_offset)  # type: ignore[arg-type]  # a list works like a dataset
    assert reason is not None
    assert "running mean of its first batch norm" in reason


def test_the_statistics_of_batch_norm_show_another_contrast_but_no_small_change(
    teacher: nn.Module, shades: kd.ImageDataset
) -> None:
    train(teacher, shades)
    head = teacher[-1]  # type: ignore[index]
    with torch.no_grad():
        head.bias.copy_(head.bias.flip(0) * 100)  # a poor teacher, whose accuracy shows nothing
    changed = {factor: [(factor * image, label) for image, label in shades] for factor in (0.8, 1.2, 5.0)}
    reasons = {factor: explain_input_scale(teacher, images) for factor, images in changed.items()}  # type: ignore[arg-type]
    assert (reasons[0.8], reasons[1.2]) == (None, None)
    assert reasons[5.0] is not None
    assert "the standard deviations differ by a factor of 5." in reasons[5.0]


def test_a_batch_norm_of_few_steps_shows_nothing(shades: kd.ImageDataset) -> None:
    """Its running statistics are still near 0 and 1, the values before training."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, CLASSES))
    far = [(image + 20, label) for image, label in shades]
    model(torch.stack([image for image, _ in far]))
    assert explain_input_scale(model, far) is None  # type: ignore[arg-type]


def test_an_untrained_teacher_raises_no_doubt(shades: kd.ImageDataset) -> None:
    with kd.seeded(3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    assert explain_input_scale(model, shades) is None


def test_stored_outputs_of_images_are_not_tried_on_other_scales(shades: kd.ImageDataset) -> None:
    """They know no other inputs, and a lookup of these raises an error."""
    teacher = build_lookup([(shades, range(len(shades)))], 5.0 * torch.eye(CLASSES)[shades.labels] - 1)
    assert explain_input_scale(teacher, shades) is None
    assert teacher_accuracy(teacher, shades).accuracy == 1
