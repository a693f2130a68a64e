"""Captured activations: exact values, no hooks left behind, and automatic detection of stages."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import kd
from kd.models.features import capture, detach_at, find_penultimate, find_stages, layer_shapes, match_stages
from kd.models.networks import CNN, MLP, MNIST_SHAPE, ConvNet

IMAGES = torch.rand(3, 1, 28, 28)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_captured_outputs_and_inputs_equal_those_of_the_pass() -> None:
    model = CNN(4, MNIST_SHAPE, 10).eval()
    with capture(model, "layer3", "output:input") as captured:
        logits = model(IMAGES)
    maps = model.layer3(model.layer2(model.layer1(IMAGES)))
    assert torch.equal(captured["layer3"], maps)
    assert torch.equal(captured["output:input"], maps.mean(dim=(2, 3)))
    assert torch.equal(model.output(captured["output:input"]), logits)
    captured["layer3"].sum().backward()
    assert model.layer1[0].weight.grad is not None


def test_hooks_are_always_removed() -> None:
    model = CNN(4, MNIST_SHAPE, 10)
    before = kd.weights_bytes(model)
    with pytest.raises(RuntimeError, match="stop"), capture(model, "layer1"):
        raise RuntimeError("stop")
    with (
        pytest.raises(ValueError, match=r"CNN has no layer 'layer9'\. Did you mean layer"),
        capture(model, "layer1", "layer9"),
    ):
        pass
    find_stages(model, IMAGES)
    assert hooks(model) == 0
    assert model.training
    assert kd.weights_bytes(model) == before


def test_the_stages_of_the_built_in_models_are_found() -> None:
    stages = [(stage.layer, stage.shape) for stage in find_stages(CNN(4, MNIST_SHAPE, 10), IMAGES)]
    assert stages == [("layer1", (4, 28, 28)), ("layer2", (8, 14, 14)), ("layer3", (16, 7, 7))]
    assert [stage.layer for stage in find_stages(ConvNet(), IMAGES)] == ["conv1", "conv2", "norm2", "norm3"]
    assert find_stages(MLP(8), IMAGES) == []


def test_one_pixel_dropout_and_layers_used_twice_are_not_stages() -> None:
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
    assert [stage.layer for stage in find_stages(model, IMAGES)] == ["first"]
    assert find_penultimate(model, IMAGES) == "output:input"
    assert layer_shapes(model, ["pool", "output:input"], IMAGES) == [(2, 1, 1), (2,)]


@pytest.mark.parametrize(
    ("name", "pixels", "layers"),
    [
        ("resnet50", 64, ["layer1", "layer2", "layer3", "layer4"]),  # not layer2.0.bn1, which has layer1's size
        ("mobilenet_v2", 64, ["features.1", "features.3", "features.6", "features.13", "features.17"]),
        ("densenet121", 64, [f"features.denseblock{n}" for n in (1, 2, 3, 4)]),
        (
            "vgg11_bn",
            32,
            ["features.2", "features.6", "features.13", "features.20", "features.27"],
        ),  # without avgpool, which upsamples to 7 × 7
        (
            "convnext_tiny",
            64,
            ["features.1", "features.3", "features.5", "features.7"],
        ),  # without the blocks' [B, H, W, C]
        ("shufflenet_v2_x0_5", 64, ["stage2", "stage3", "stage4"]),
        ("efficientnet_b0", 64, [f"features.{n}" for n in (1, 2, 3, 5, 7)]),
        ("regnet_y_400mf", 64, [f"trunk_output.block{n}" for n in (1, 2, 3, 4)]),
        ("swin_t", 64, ["permute"]),  # the layers before it are channels last
        ("vit_b_16", 64, []),  # maps only of the patches, then tokens
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.slow
def test_the_stages_of_known_networks_match_their_papers(
    name: str, pixels: int, layers: list[str], *, wrapped: bool
) -> None:
    class Wrapped(nn.Module):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.backbone(images)
            return logits

    size = {"image_size": pixels} if name == "vit_b_16" else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=4, **size)
    stages = find_stages(Wrapped(model) if wrapped else model, torch.rand(2, 3, pixels, pixels))
    assert [stage.layer.removeprefix("backbone.") for stage in stages] == layers


def test_a_captured_output_is_not_changed_by_later_in_place_modules() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), capture(model, "0", "0:input") as captured:
            model(inputs)
        assert torch.equal(captured["0"], F.linear(inputs, model[0].weight, model[0].bias))
        assert captured["0"].min() < 0
    with torch.inference_mode(), capture(model, "0") as captured:
        model(inputs)
    assert captured["0"].min() < 0


def test_an_output_overwritten_by_a_function_is_refused() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.output = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.output(F.relu(self.hidden(inputs), inplace=True))
            return logits

    model = InPlace()
    with pytest.raises(ValueError, match="output of 'hidden' is overwritten"), capture(model, "hidden"):
        model(torch.randn(5, 6))
    with capture(model, "output") as captured:
        model(torch.randn(5, 6))
    assert captured["output"].shape == (5, 4)
    assert hooks(model) == 0


def test_layers_that_do_not_run_or_return_no_tensor_are_refused() -> None:
    class Lengths(nn.Module):
        def forward(self, inputs: torch.Tensor) -> dict[str, int]:
            return {"length": len(inputs)}

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.unused, self.lengths = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 8), Lengths()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.lengths(inputs)
            last: torch.Tensor = self.rnn(inputs)[0][:, -1]
            return last

    model, inputs = Recurrent(), torch.randn(2, 3, 6)
    with pytest.raises(ValueError, match="'unused' did not run"):
        layer_shapes(model, ["unused"], inputs)
    with pytest.raises(ValueError, match=r"'lengths' must return a tensor, or .*with one\. Got a dict"):
        layer_shapes(model, ["lengths"], inputs)
    assert layer_shapes(model, ["rnn"], inputs) == [(3, 8)]  # the first tensor of the tuple
    assert hooks(model) == 0


def test_stages_are_matched_from_the_last_one_backwards() -> None:
    student, teacher = CNN(4, MNIST_SHAPE, 10), ConvNet()
    expected = [("layer1", "conv2"), ("layer2", "norm2"), ("layer3", "norm3")]
    assert match_stages(student, teacher, IMAGES) == expected
    pairs = match_stages(student, teacher, IMAGES, student_layers="layer2", teacher_layers="conv1")
    assert pairs == [("layer2", "conv1")]


def test_models_without_maps_and_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"none were found in the student, MLP\. .*--student cnn"):
        match_stages(MLP(8), ConvNet(), IMAGES)
    with pytest.raises(ValueError, match=r"student_layers and teacher_layers .* Got 2 and 1"):
        match_stages(MLP(8), ConvNet(), IMAGES, student_layers="a,b", teacher_layers="c")
    with pytest.raises(ValueError, match="no linear layer"):
        find_penultimate(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), IMAGES)


def test_a_captured_model_can_be_copied() -> None:
    model = CNN(4, MNIST_SHAPE, 10).eval()
    with capture(model, "layer1"):
        model(IMAGES)
    assert torch.equal(copy.deepcopy(model)(IMAGES), model(IMAGES))


@pytest.mark.slow  # imports torch's compiler
def test_layers_of_a_compiled_model_are_captured_and_detached() -> None:
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    compiled, inputs = torch.compile(plain, backend="eager"), torch.randn(5, 4)
    compiled(inputs)  # compiled without hooks
    with capture(compiled, "_orig_mod.0", "_orig_mod.2:input") as features:
        compiled(inputs)
    assert torch.equal(features["_orig_mod.0"], plain[0](inputs))
    assert find_penultimate(compiled, inputs) == "_orig_mod.2:input"
    with detach_at(compiled, "_orig_mod.1"):
        compiled(inputs).sum().backward()
    assert plain[0].weight.grad is None
