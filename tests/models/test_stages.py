"""Stages equal those that authors of distillation methods compare, whatever a layer returns."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.methods import try_method
from kd.models.features import capture, find_penultimate, find_stages, layer_shapes
from kd.models.stages import main_tensor

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


class ModelOutput(OrderedDict[str, Any]):
    """A dictionary with attributes, like the outputs of Hugging Face's models."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@dataclass
class Output:
    pooled: Tensor
    last_hidden_state: Tensor


PACKINGS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda maps: maps,
    "tuple": lambda maps: (maps, maps - 1),
    "list": lambda maps: [maps, maps - 1],
    "nested": lambda maps: (None, (maps,)),
    "dict": lambda maps: {"out": maps, "before": maps - 1},
    "ModelOutput": lambda maps: ModelOutput(pooled=maps.mean(dim=(2, 3)), last_hidden_state=maps, hidden=(maps - 1,)),
    "vector first": lambda maps: (maps.mean(dim=(2, 3)), maps),
    "scalar first": lambda maps: {"loss": maps.mean(), "out": maps},
    "dataclass": lambda maps: Output(maps.mean(dim=(2, 3)), maps),
}


class Block(nn.Module):
    """A residual block. Its output is packed, as in code that also returns the maps before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, packing: str = "tensor") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.packing = packing

    def forward(self, maps: Tensor) -> Any:
        return PACKINGS[self.packing](F.relu(self.conv2(F.relu(self.conv1(maps))) + self.shortcut(maps)))


class ResNet(nn.Module):
    """Stand-in with the module names of torchvision (``pool=True``) and of RepDistiller's resnet8x4 and resnet32x4."""

    def __init__(self, *, width: int = 4, blocks: int = 1, pool: bool = False, packing: str = "tensor") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2 if pool else 1, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        self.layer1 = self._stage(width, width, blocks, 1, packing)
        self.layer2 = self._stage(width, 2 * width, blocks, 2, packing)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2, packing)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4 * width, 3)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int, packing: str) -> nn.Sequential:
        more = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
        layers = [Block(inputs, outputs, stride), *more]
        layers[-1].packing = packing
        return nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3):
            maps = main_tensor(stage(maps))
        logits: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return logits


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Block(4, 4, 1), Block(4, 8, 2), Block(8, 16, 2)])

    def forward(self, maps: Tensor) -> ModelOutput:
        for stage in self.stages:
            maps = stage(maps)
        return ModelOutput(last_hidden_state=maps)


class ConvLayer(nn.Module):
    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.convolution, self.activation = nn.Conv2d(inputs, 4, 3, 2, 1), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.activation(self.convolution(images))
        return maps


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedder, self.pooler = ConvLayer(), nn.MaxPool2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.pooler(self.embedder(images))
        return maps


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedder, self.encoder, self.pooler = Embeddings(), Encoder(), nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> ModelOutput:
        maps = self.encoder(self.embedder(images)).last_hidden_state
        return ModelOutput(last_hidden_state=maps, pooler_output=self.pooler(maps))


class HuggingFaceResNet(nn.Module):
    """Stand-in with the module names and the outputs of transformers' ResNetForImageClassification."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet, self.classifier = Backbone(), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.resnet(images).pooler_output)
        return logits


def stage_names(model: nn.Module, images: Tensor = IMAGES) -> list[str]:
    return [stage.layer for stage in find_stages(model, images)]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("blocks", [1, 5])
@pytest.mark.parametrize("pool", [False, True])
def test_the_stages_of_a_resnet_are_its_groups_of_blocks(packing: str, blocks: int, *, pool: bool) -> None:
    model = ResNet(blocks=blocks, pool=pool, packing=packing)
    assert stage_names(model) == ["layer1", "layer2", "layer3"]
    assert find_penultimate(model, IMAGES) == "fc:input"


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_packing_of_an_output_changes_no_feature(packing: str) -> None:
    model = ResNet(packing=packing).eval()
    plain = copy.deepcopy(model)
    for stage in (plain.layer1, plain.layer2, plain.layer3):
        stage[-1].packing = "tensor"
    layers = ("layer1", "layer2", "layer3", "layer3.0")
    with capture(model, *layers) as features, capture(plain, *layers) as expected:
        assert torch.equal(model(IMAGES), plain(IMAGES))
    assert all(torch.equal(features[layer], expected[layer]) for layer in layers)
    assert layer_shapes(model, ["layer2"], IMAGES) == [(8, 16, 16)]


@pytest.mark.parametrize("method", ["at", "fitnet", "vid", "sp", "reviewkd"])
def test_methods_compare_the_same_layers_of_a_student_with_packed_outputs(method: str) -> None:
    students, teacher = [ResNet(packing=packing) for packing in ("tensor", "tuple", "dict")], ResNet(width=8)
    pairs = [try_method(method, student, teacher, (IMAGES, LABELS)) for student in students]
    assert pairs[0] == pairs[1] == pairs[2]
    assert pairs[0][-1] in {("layer3", "layer3"), ("layer2", "layer2")}


def test_the_stages_of_a_network_with_model_outputs_are_those_of_its_encoder() -> None:
    names = [f"resnet.encoder.stages.{number}" for number in range(3)]
    assert stage_names(HuggingFaceResNet()) == names


class ManyConvolutions(nn.Module):
    """Stand-in for GoogLeNet and Inception: a stem of several convolutions with activations, then blocks."""

    def __init__(self, *, blocks: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvLayer(), ConvLayer(4)
        self.blocks = nn.Sequential(*(Block(4, 4, 2) for _ in range(blocks)))
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(self.conv2(self.conv1(images))).mean(dim=(2, 3)))
        return logits


def test_a_stem_of_several_convolutions_is_left_out_if_two_stages_remain() -> None:
    assert stage_names(ManyConvolutions(blocks=2)) == ["blocks.0", "blocks.1"]
    assert stage_names(ManyConvolutions(blocks=1)) == ["conv1", "conv2", "blocks"]


class LateStride(nn.Module):
    """A block like those of timm's Xception: its last layer reduces the size, so that earlier ones have another."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stack, self.shortcut = Block(inputs, outputs, 1), nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, maps: Tensor) -> Tensor:
        return F.max_pool2d(self.stack(maps), 2) + self.shortcut(maps)


def test_a_layer_inside_a_stage_is_no_stage() -> None:
    model = nn.Sequential(*(LateStride(3, 4), LateStride(4, 4), LateStride(4, 4)))
    layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    assert stage_names(nn.Sequential(model, *layers)) == ["0.0", "0.1", "0.2"]


def test_a_layer_that_returns_maps_of_several_sizes_is_no_stage() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.ModuleList([Block(3, 4, 2), Block(4, 8, 2)]), nn.Linear(8, 3)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            first = self.body[0](images)
            return {"0": first, "1": self.body[1](first)}

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Pyramid()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.backbone.fc(self.backbone(images)["1"].mean(dim=(2, 3)))
            return logits

    assert stage_names(Classifier()) == ["backbone.body.0", "backbone.body.1"]


def test_tokens_in_a_dictionary_end_the_search_like_tokens_in_a_tensor() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, tokens: Tensor) -> dict[str, Tensor]:
            return {"last_hidden_state": self.layer(tokens)}

    class VisionTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.encoder, self.head = nn.Conv2d(3, 4, 8, 8), Tokens(), nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            logits: Tensor = self.head(self.encoder(tokens)["last_hidden_state"].mean(dim=1))
            return logits

    assert stage_names(VisionTransformer()) == []


def test_an_input_that_is_passed_by_keyword_is_captured() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.classifier(input=images.mean(dim=(2, 3)))
            return logits

    model = Keyword()
    with capture(model, find_penultimate(model, IMAGES)) as features:
        model(IMAGES)
    assert torch.equal(features["classifier:input"], IMAGES.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("output", "expected"), [(None, False), ("text", False), ({}, False), (({"a": torch.ones(1)},), True)]
)
def test_main_tensor_searches_nested_outputs_and_returns_none_without_a_tensor(output: Any, expected: bool) -> None:
    assert (main_tensor(output) is not None) == expected


def test_the_main_tensor_has_positions_if_any_has() -> None:
    vector, tokens, maps = torch.ones(2, 3), torch.ones(2, 5, 3), torch.ones(2, 3, 5, 5)
    attention = torch.ones(2, 4, 5, 5)
    assert main_tensor((vector, maps)) is main_tensor([None, {"loss": vector.mean(), "out": maps}]) is maps
    assert main_tensor((tokens, attention)) is tokens
    assert main_tensor((vector, vector + 1)) is vector


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *((name, 1) for name in ("resnet18", "resnet50d", "resnetv2_50", "regnetx_002", "mobilenetv3_small_100")),
        *((name, 0) for name in ("mobilenetv2_100", "efficientnet_b0", "convnext_atto", "poolformer_s12", "vgg11_bn")),
    ],
)
def test_the_stages_of_timm_are_those_of_its_feature_info_without_the_stem(name: str, stem: int) -> None:
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    model = timm.create_model(name, pretrained=False, num_classes=4)
    assert stage_names(model, torch.rand(2, 3, 64, 64)) == [info["module"] for info in model.feature_info][stem:]
