"""Capturing what a model computes: the very values, nothing left behind, and stages found without naming them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kd
from kd.features import capture, matched_stages, penultimate, shapes, stages
from kd.models import CNN, MLP, MNIST_SHAPE, ConvNet

IMAGES = torch.rand(3, 1, 28, 28)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_layers_output_and_input_are_those_of_the_pass() -> None:
    model = CNN(4, MNIST_SHAPE, 10).eval()
    with capture(model, "layer3", "output:input") as found:
        logits = model(IMAGES)
    maps = model.layer3(model.layer2(model.layer1(IMAGES)))
    assert torch.equal(found["layer3"], maps)
    assert torch.equal(found["output:input"], maps.mean(dim=(2, 3)))
    assert torch.equal(model.output(found["output:input"]), logits)
    found["layer3"].sum().backward()
    assert model.layer1[0].weight.grad is not None


def test_no_hook_is_left_whatever_happens() -> None:
    model = CNN(4, MNIST_SHAPE, 10)
    before = kd.weights_bytes(model)
    with pytest.raises(RuntimeError, match="stop"), capture(model, "layer1"):
        raise RuntimeError("stop")
    with (
        pytest.raises(ValueError, match=r"CNN has no layer 'layer9'\. It has layer"),
        capture(model, "layer1", "layer9"),
    ):
        pass
    stages(model, IMAGES)
    assert hooks(model) == 0
    assert model.training
    assert kd.weights_bytes(model) == before


def test_the_stages_of_the_toolkits_models_are_found() -> None:
    found = [(stage.layer, stage.shape) for stage in stages(CNN(4, MNIST_SHAPE, 10), IMAGES)]
    assert found == [("layer1", (4, 28, 28)), ("layer2", (8, 14, 14)), ("layer3", (16, 7, 7))]
    assert [stage.layer for stage in stages(ConvNet(), IMAGES)] == ["conv1", "conv2", "norm2", "norm3"]
    assert stages(MLP(8), IMAGES) == []


def test_one_pixel_dropout_and_layers_used_twice_are_no_stages() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu = nn.Conv2d(1, 2, 3), nn.ReLU()
            self.drop, self.pool, self.output = nn.Dropout2d(), nn.AdaptiveAvgPool2d(1), nn.Linear(2, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.relu(self.relu(self.drop(self.first(images))))
            logits: torch.Tensor = self.output(self.pool(maps).flatten(1))
            return logits

    model = Twice()
    assert [stage.layer for stage in stages(model, IMAGES)] == ["first"]
    assert penultimate(model, IMAGES) == "output:input"
    assert shapes(model, ["pool", "output:input"], IMAGES) == [(2, 1, 1), (2,)]


def test_stages_are_matched_from_the_last_one_back() -> None:
    student, teacher = CNN(4, MNIST_SHAPE, 10), ConvNet()
    expected = [("layer1", "conv2"), ("layer2", "norm2"), ("layer3", "norm3")]
    assert matched_stages(student, teacher, IMAGES) == expected
    named = matched_stages(student, teacher, IMAGES, student_layers="layer2", teacher_layers="conv1")
    assert named == [("layer2", "conv1")]


def test_models_without_maps_and_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the student, MLP, has none\. A student with --student cnn has"):
        matched_stages(MLP(8), ConvNet(), IMAGES)
    with pytest.raises(ValueError, match=r"as many\. Got 2 and 1"):
        matched_stages(MLP(8), ConvNet(), IMAGES, student_layers="a,b", teacher_layers="c")
    with pytest.raises(ValueError, match="no linear layer"):
        penultimate(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), IMAGES)


def test_a_captured_model_can_be_copied() -> None:
    model = CNN(4, MNIST_SHAPE, 10).eval()
    with capture(model, "layer1"):
        model(IMAGES)
    assert torch.equal(copy.deepcopy(model)(IMAGES), model(IMAGES))
