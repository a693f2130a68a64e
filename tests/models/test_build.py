"""Models from specifications: adapted to shape and classes, a function of the seed, checked without side effects."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models as vision

import kd
from kd.models.build import build, require_logits_output
from kd.models.networks import CNN, MLP, ConvNet
from kd.storage.fingerprint import describe, digest

ROOT = Path(__file__).resolve().parents[2]
few_examples = settings(max_examples=40)
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3)

SPECS = [
    ("convnet", (3, 25, 30)),
    ("convnet:4,6,8", (3, 25, 30)),
    ("mlp:8", (13,)),
    ("mlp:16,8", (2, 5, 7)),
    ("cnn:4", (2, 5, 7)),
    ("torchvision:resnet18", (3, 64, 64)),
    ("torchvision:densenet121", (1, 64, 64)),
    ("torchvision:swin_t", (4, 64, 64)),
    ("timm:resnet10t", (1, 64, 64)),
]


def build_model(spec: str, shape: Sequence[int], classes: int = 5, seed: int = 0) -> nn.Module:
    if spec.startswith("timm"):
        pytest.importorskip("timm", reason="needs the timm extra")
    return build(spec, input_shape=shape, classes=classes, seed=seed)


def run_model(model: nn.Module, shape: Sequence[int], batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    output: Tensor = model.eval()(torch.randn(batch, *shape, generator=generator))
    return output


# --- built models


@pytest.mark.parametrize(("spec", "shape"), SPECS)
@pytest.mark.slow
def test_every_model_fits_the_data_and_is_a_function_of_the_seed(spec: str, shape: tuple[int, ...]) -> None:
    before = torch.get_rng_state()
    model, same, other = (build_model(spec, shape, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert run_model(model, shape).shape == (2, 5)
    assert torch.equal(run_model(model, shape), run_model(same, shape))
    assert not torch.equal(run_model(model, shape), run_model(other, shape))
    assert digest(describe(model)) == digest(describe(same))


@few_examples
@given(shape=shapes, widths=st.lists(st.integers(1, 6), min_size=1, max_size=4), classes=st.integers(2, 5))
def test_an_mlp_equals_its_formula_for_any_shape(shape: list[int], widths: list[int], classes: int) -> None:
    model = build(f"mlp:{','.join(map(str, widths))}", input_shape=shape, classes=classes, seed=0)
    weights = list(model.parameters())
    sizes = [int(torch.tensor(shape).prod()), *widths, classes]
    assert [list(w.shape) for w in weights[::2]] == [[outputs, inputs] for inputs, outputs in itertools.pairwise(sizes)]
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    expected = x.reshape(3, -1)
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        expected = (expected @ weight.T + bias).clamp(min=0)
    torch.testing.assert_close(model(x), expected @ weights[-2].T + weights[-1])


@few_examples
@given(channels=st.integers(1, 5), height=st.integers(1, 20), width=st.integers(1, 20))
def test_a_cnn_takes_any_image_and_its_three_stages_halve_the_sides(channels: int, height: int, width: int) -> None:
    model = build("cnn:2", input_shape=(channels, height, width), classes=3, seed=0).eval()
    sides, maps = (height, width), 2
    x = torch.randn(2, channels, height, width)
    for name in ("layer1", "layer2", "layer3"):
        x = model.get_submodule(name)(x)
        assert x.shape == (2, maps, *sides)
        sides, maps = (-(-sides[0] // 2), -(-sides[1] // 2)), 2 * maps
    assert model.get_submodule("output")(x.mean(dim=(2, 3))).shape == (2, 3)


def test_a_cnn_trains(digits: kd.ImageDataset) -> None:
    model = build("cnn:8", input_shape=(1, 6, 6), classes=4, seed=0)
    loader = kd.make_loader(digits, batch_size=16, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    history = kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, epochs=3, seed=0)
    assert history["val_acc"][-1] > 0.9


def test_the_initial_weights_of_the_pipelines_models_have_not_changed() -> None:
    """The order of random draws is part of a documented result, so initial weights must not change."""
    with kd.seeded(7):
        convnet = ConvNet()
    with kd.seeded(7):
        layers = {
            "conv1": nn.Conv2d(1, 16, 5, stride=2),
            "conv2": nn.Conv2d(16, 48, 5, bias=False),
            "norm2": nn.BatchNorm2d(48),
            "conv3": nn.Conv2d(48, 128, 3, bias=False),
            "norm3": nn.BatchNorm2d(128),
            "hidden": nn.Linear(128 * 2 * 2, 256),
            "output": nn.Linear(256, 10),
        }
    with kd.seeded(7):
        mlp = MLP(33)
    with kd.seeded(7):
        dense = {"hidden": nn.Linear(784, 33), "output": nn.Linear(33, 10)}
    for model, parts in ((convnet, layers), (mlp, dense)):
        expected = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        state = model.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[name], value) for name, value in expected.items())
    x = torch.randn(2, 1, 28, 28)
    flat = torch.relu(x.flatten(1) @ dense["hidden"].weight.T + dense["hidden"].bias)
    torch.testing.assert_close(mlp(x), dense["output"](flat))
    assert convnet.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_documented_name_is_the_documented_model() -> None:
    built = build("convnet", input_shape=(1, 28, 28), classes=10, seed=7).state_dict()
    with kd.seeded(7):
        documented = ConvNet().state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in documented.items())


def test_with_three_channels_torchvisions_model_is_unchanged() -> None:
    built = build("torchvision:resnet18", input_shape=(3, 64, 64), classes=5, seed=2).state_dict()
    with kd.seeded(2):
        original = vision.resnet18(weights=None, num_classes=5).state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in original.items())


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v3_small"])
def test_only_the_first_convolution_is_adapted_to_the_channels(name: str) -> None:
    built = build(f"torchvision:{name}", input_shape=(2, 96, 96), classes=5, seed=2)
    first = next(module for module in built.modules() if isinstance(module, nn.Conv2d))
    extra = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    original = vision.get_model(name, weights=None, num_classes=5, **extra)
    old = next(module for module in original.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.shape == (old.weight.shape[0], 2, *old.weight.shape[2:])
    for setting in ("stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(first, setting) == getattr(old, setting)
    assert list(built.state_dict()) == list(original.state_dict())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_model_with_auxiliary_heads_has_one_output_in_training(name: str) -> None:
    model = build(f"torchvision:{name}", input_shape=(3, 96, 96), classes=4, seed=0).train()
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 4)


def test_small_images_get_a_warning() -> None:
    expected = (
        r"torchvision:resnet18 is designed for images of about 224 × 224 pixels. Got 28 × 28.*cnn:32 is better suited"
    )
    with pytest.warns(UserWarning, match=expected):
        build("torchvision:resnet18", input_shape=(1, 28, 28), classes=10, seed=0)


# --- checks of the output


class Odd(nn.Module):
    """Returns ``output``, or raises it; batch norm counts forward passes in training mode."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output, self.norm = output, nn.BatchNorm1d(3)
        self.unused = nn.Dropout().eval()

    def forward(self, inputs: Tensor) -> object:
        self.norm(inputs)
        if isinstance(self.output, Exception):
            raise self.output
        return self.output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(1, 4), r"odd must return logits \[1, 5\] for one sample \[1, 3\]\. Got \[1, 4\] instead"),
        (torch.zeros(5), r"odd must return logits \[1, 5\] for one sample \[1, 3\]\. Got \[5\] instead"),
        ({"logits": torch.zeros(1, 5)}, r"odd must return logits \[1, 5\] .*\. Got a dict instead"),
        (
            torch.tensor([[0.0, 1.0, float("nan"), 0.0, 0.0]]),
            r"odd must return finite .*\. Got \[\[0.0, 1.0, nan",
        ),
        (
            RuntimeError("wrong size.\nmore"),
            r"odd failed on .* \(RuntimeError: wrong size\)\. Choose .*mlp:256",
        ),
    ],
)
def test_a_model_with_bad_output_is_refused_and_unchanged(output: object, message: str) -> None:
    model = Odd(output)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        require_logits_output(model, "odd", (3,), 5)
    assert model.training
    assert not model.unused.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "convnett",
            r"there is no model 'convnett'\. Did you mean convnet\? Allowed: convnet, convnet:32,64,128, mlp:",
        ),
        ("zzz", r"there is no model 'zzz'\. Choose another\. Allowed"),
        ("convnet:3", r"channels in convnet:A,B,C must be three integers above 0.*Got '3'"),
        ("convnet:a,b,c", r"'convnet:a,b,c' must contain widths"),
        ("mlp", r"'mlp' must contain widths, integers above 0: mlp:256"),
        ("mlp:8,0", r"'mlp:8,0' must contain widths"),
        ("cnn:-3", r"'cnn:-3' must contain widths"),
        ("cnn:8,8", r"the width in cnn:WIDTH must be one integer above 0\. Got '8,8' instead"),
        ("torchvision:resnet81", r"torchvision has no classifier 'resnet81' among its \d+\. Did you mean resnet18"),
        ("torchvision:fcn_resnet50", r"torchvision has no classifier 'fcn_resnet50'"),
        ("torchvision:", r"torchvision has no classifier ''.*It has alexnet, "),
        ("torchvision:alexnet", r"failed on one sample \[1, 1, 28, 28\] \(RuntimeError: .*too small"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is designed for images")
def test_an_invalid_spec_is_refused_with_the_allowed_ones(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec, input_shape=(1, 28, 28), classes=3, seed=0)


def test_an_example_is_what_the_model_is_tried_on(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\ndef net(classes):\n"
        "    return nn.Sequential(nn.Embedding(9, classes), nn.Flatten(), nn.LazyLinear(classes))\n"
    )
    arguments: dict[str, Any] = {"input_shape": (4,), "classes": 3, "seed": 0}
    with pytest.raises(ValueError, match=r"RuntimeError: .*A model of integers.* needs an example of the data"):
        build(f"{file}:net", **arguments)
    first, second = (build(f"{file}:net", **arguments, example=tokens) for tokens in torch.tensor([[0] * 4, [8] * 4]))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"shape of the example must be the input shape \[4\]\. Got \[5\]"):
        build(f"{file}:net", **arguments, example=torch.zeros(5).long())


@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("layer(classes).bfloat16()", r"same dtype.* may cast it to the type of its weights\. A model of integers"),
        ("layer(classes).to('meta')", r"must hold dense tensors.* on meta under '1\.weight'\. Build .* on the CPU"),
        ("quantize_dynamic(layer(classes))", r"must hold dense tensors.*The model is quantised.*--teacher FILE\.onnx"),
        ("WithTensor(classes)", r"cannot be copied \(RuntimeError: Only Tensors.*Compute tensors from parameters in f"),
        ("WithHook(classes)", r"returns other outputs in a copy\. A hook .* Compute such values in forward"),
        ("TwoHeads(classes)", r"net: the model must return logits.*several of these.* or as \{'logits': …\}$"),
    ],
)
def test_what_is_wrong_with_a_users_model_is_said_without_other_advice(code: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\nfrom torch.ao.quantization import quantize_dynamic\n"
        "def layer(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))\n"
        "class TwoHeads(nn.Module):\n"
        "    def __init__(self, classes):\n        super().__init__()\n        self.layer = layer(classes)\n"
        "    def forward(self, x):\n        return self.layer(x), self.layer(x)\n"
        "class WithTensor(TwoHeads):\n"
        "    def __init__(self, classes):\n        super().__init__(classes)\n"
        "        self.twice = 2 * self.layer[1].weight\n"
        "    def forward(self, x):\n        return x.flatten(1) @ self.twice.T\n"
        "class WithHook(TwoHeads):\n"
        "    def __init__(self, classes):\n        super().__init__(classes)\n"
        "        self.layer.register_forward_hook(lambda m, i, o: setattr(self, 'kept', o))\n"
        "    def forward(self, x):\n        self.layer(x)\n        return self.kept\n"
        f"def net(classes):\n    return {code}\n"
    )
    with pytest.raises(ValueError, match=message):
        build(f"{file}:net", input_shape=(1, 6, 6), classes=3, seed=0)


@pytest.mark.parametrize("name", ["hf-hub:someone/resnet", "local-dir:/tmp", "resnet18.a1_in1k", "resnet81"])
def test_timm_gets_plain_names_only(name: str) -> None:
    pytest.importorskip("timm", reason="needs the timm extra")
    with pytest.raises(ValueError, match=r"timm has no classifier '.*' among its \d+"):
        build(f"timm:{name}", input_shape=(3, 64, 64), classes=3, seed=0)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm:resnet18 needs timm.*pip install 'paired-distillation\[timm\]'"):
        build("timm:resnet18", input_shape=(3, 64, 64), classes=3, seed=0)


@pytest.mark.parametrize("spec", ["convnet", "cnn:4", "torchvision:resnet18", "timm:resnet18"])
def test_tabular_input_is_refused_by_image_models(spec: str) -> None:
    with pytest.raises(ValueError, match=r"must be images \[channels, height, width\].*Got \[13\] instead.*mlp:256"):
        build_model(spec, (13,))


def test_convnet_refuses_small_images() -> None:
    assert run_model(build("convnet", input_shape=(1, 23, 23), classes=2, seed=0), (1, 23, 23)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"at least 23 × 23 pixels\. Got \[1, 22, 28\] instead \(cnn:32 takes"):
        build("convnet", input_shape=(1, 22, 28), classes=2, seed=0)


def test_shape_classes_and_seed_are_checked() -> None:
    for shape, classes, seed, message in (
        ((), 2, 0, r"input_shape must be one or more integers above 0\. Got \(\)"),
        ((0, 3), 2, 0, "input_shape must be"),
        ((3,), 1, 0, "classes must be an integer of at least 2. Got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            build("mlp:3", input_shape=shape, classes=classes, seed=seed)
    with pytest.raises(ValueError, match="widths of an MLP must be one or more"):
        MLP()
    with pytest.raises(ValueError, match=r"width of a CNN must be an integer above 0\. Got 0"):
        CNN(0, (1, 3, 3), 2)


def test_a_first_layer_that_is_not_a_plain_convolution_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Conv2d):
        pass

    for first, got in ((Own(3, 4, 1), "Own at 'stem.0' with 3 channels"), (nn.Linear(3, 4), "Got none")):
        model = nn.Module()
        model.stem = nn.Sequential(first)
        monkeypatch.setattr(vision, "get_model", lambda *_, network=model, **__: network)
        with pytest.raises(
            ValueError, match=rf"resnet18 cannot be adapted to images of 1 channels.*{got}.*Give the im"
        ):
            build("torchvision:resnet18", input_shape=(1, 64, 64), classes=3, seed=0)


@pytest.mark.slow
def test_torchvision_timm_and_safetensors_are_imported_only_if_used() -> None:
    program = (
        "import sys, kd.models.build, kd.teachers.load, kd.teachers.logit_files, kd.teachers.ensemble; "
        "print([name for name in ('torchvision', 'timm', 'safetensors', 'scipy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")


# --- training, a quick run


@pytest.mark.slow
@pytest.mark.parametrize(
    "specs",
    [("torchvision:resnet18", "torchvision:shufflenet_v2_x0_5"), ("timm:resnet10t", "timm:mobilenetv3_small_050")],
)
def test_two_models_of_the_zoo_can_be_distilled(specs: tuple[str, str], digits: kd.ImageDataset) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is designed for images")
        images = digits.images.repeat_interleave(6, dim=2).repeat_interleave(6, dim=3)
        data = kd.ImageDataset(images, digits.labels, mean=0.4, std=0.25)
        teacher, student = (build_model(spec, (1, 36, 36), classes=4, seed=1) for spec in specs)

    def fit(model: nn.Module, objective: kd.Objective, dataset: torch.utils.data.Dataset) -> kd.History:
        loader = kd.make_loader(dataset, batch_size=32, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        return kd.fit(model, objective, loader, loader, optimizer=optimizer, epochs=8, seed=0)

    assert fit(teacher, kd.supervised, data)["train_acc"][-1] > 0.8
    cached = kd.collect_logits(teacher, data)
    kd.verify_logits(teacher, data, cached)
    history = fit(student, kd.distilled(temperature=4, alpha=0.5), kd.DistillDataset(data, cached.logits))
    assert history["train_loss"][-1] < history["train_loss"][0]
