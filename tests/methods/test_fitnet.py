"""FitNet: the regressor to which the usual weight of 100 belongs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import kd
from kd.methods.fitnet import FitNetLoss
from kd.models.networks import CNN
from tests.methods.test_feature import SHAPE, build_models, build_objective


def test_the_regressor_ends_with_a_relu_only_if_the_teachers_maps_have_no_negative_values() -> None:
    def layers(teacher: nn.Module, teacher_layers: str) -> list[type[nn.Module]]:
        student, _ = build_models()
        objective: Any = build_objective(
            "fitnet", student, teacher, student_layers="layer2", teacher_layers=teacher_layers
        )
        assert teacher.training  # the mode in which it was
        return [type(layer) for layer in objective.loss.projector]

    convnet = build_models()[1]
    assert layers(convnet, "norm2") == [nn.Conv2d, nn.BatchNorm2d]  # before the teacher's ReLU
    with kd.seeded(0):
        assert layers(CNN(4, SHAPE, 4), "layer2") == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


def test_the_size_of_the_students_maps_does_not_change_the_loss() -> None:
    loss = FitNetLoss((3, 5), weight=2.0, relu=True)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 3, 4, 4, generator=generator), torch.rand(6, 5, 4, 4, generator=generator)
    expected = loss([student], [teacher])
    torch.testing.assert_close(loss([100 * student], [teacher]), expected, rtol=1e-3, atol=0)
    assert float((loss.projector(student) < 0).sum()) == 0
    torch.testing.assert_close(expected, 2 * (loss.projector(student) - teacher).square().mean())
