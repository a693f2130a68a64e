"""Teachers with inputs, a framework and classes of their own at once: each flag works with each kind of teacher."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

import kd
from kd import cli
from kd.commands.before_training import require_method, require_models
from kd.commands.data import Data, load_data
from kd.commands.models import Teacher, new_teachers
from kd.commands.settings import RunSettings
from kd.commands.steps import train_teacher
from kd.commands.teacher_inputs import data_for_teacher, forget_inputs
from kd.models.features import find_network
from kd.storage.weights import state_bytes
from kd.teachers.class_map import MappedOutputs
from kd.teachers.contract import contract_of
from kd.teachers.fitted_head import FittedHead
from tests.onnx_files import linear, write_onnx

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # most teachers are random, and some batches are small

NETWORKS = """
import torch
from torch import nn

class Digits(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(64, classes)
    def forward(self, x):
        return self.layer(x.flatten(1))

class Stripes(nn.Module):
    "Features of stripes on images of 24 x 24 pixels, and a random head for seven classes."
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 7)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    def forward(self, x):
        assert tuple(x.shape[1:]) == (3, 24, 24), x.shape
        rows = x.mean(dim=(1, 3))
        steps = [(rows[:, step:] - rows[:, :-step]).abs().mean(dim=1) for step in (1, 2, 4)]
        return self.head(torch.stack(steps, dim=1))
"""
QUICK = ("--epochs", "1", "--student", "mlp:4", "--out", "run")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the networks."""
    forget_inputs()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    Path("nets.py").write_text(NETWORKS)
    return tmp_path


def prepare(settings: RunSettings) -> tuple[Data, Teacher]:
    """Return the data, and the only teacher after the checks of a command before training."""
    settings.check()
    data = load_data(settings)
    teachers = new_teachers(settings, data)
    require_models(settings, data, teachers)
    return data, teachers[0]


def fit(settings: RunSettings) -> tuple[Data, nn.Module]:
    """Return the data, and the teacher with its fitted head, in eval mode."""
    data, teacher = prepare(settings)
    assert isinstance(teacher.model, FittedHead)
    model, history = train_teacher(settings, data, [teacher], torch.device("cpu"))
    assert history is None
    return data, model.eval()


def accuracy(model: nn.Module, dataset: Any) -> float:
    return float(np.mean([int(model(inputs[None]).argmax()) == label for inputs, label in dataset]))


@pytest.fixture(name="stripes")
def _stripes() -> Path:
    """Return a folder of images of 32 × 32 pixels whose classes are stripes, which are lost at 4 × 4."""
    generator = np.random.default_rng(0)
    for label, width in enumerate((1, 2)):
        Path(f"photos/class{label}").mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(60, 100, (32, 32, 3)).astype(np.uint8)
            pixels[np.arange(32) // width % 2 == 0] += 80
            Image.fromarray(pixels).save(f"photos/class{label}/{number}.png")
    return Path("photos")


@pytest.fixture(name="wine_map")
def _wine_map() -> Path:
    """Return a map from the five outputs of a teacher to the three classes of wine."""
    Path("map.csv").write_text("teacher,data\n4,class_0\n2,class_1\n0,class_1\n1,class_2\n")
    return Path("map.csv")


def test_a_head_is_fitted_on_images_of_the_teachers_own_size(stripes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("imagenet", "size=24", "crop=0.75")
    settings = RunSettings(
        data=str(stripes), image_size=4, teacher=("nets.py:Stripes",), teacher_input=own, teacher_head="fit"
    )
    data, model = fit(settings)
    assert accuracy(model, data_for_teacher(settings, data, model).test_set) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "linear head fitted on 3 features (input of head)" in printed
    assert "its inputs: mean 0.485 0.456 0.406" in printed


def test_features_of_a_teacher_behind_inputs_and_a_head_are_named_as_in_its_network(stripes: Path) -> None:
    changes: dict[str, Any] = {"teacher_head": "fit", "method": "rkd", "set": ("teacher_layers=head:input",)}
    settings = RunSettings(
        data=str(stripes), image_size=4, teacher=("nets.py:Stripes",), teacher_input=("0-1", "size=24"), **changes
    )
    data, teacher = prepare(settings)
    assert find_network(teacher.model) == "features.model.network"
    require_method(settings, data, [teacher])


def save_digits(file: Path) -> None:
    """Save dim digits, and a linear classifier of them for numbers in [0, 1].

    It has twelve outputs: the digits from 9 to 0, between two other classes.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    stored = (80 + digits.images * 5.5).astype(np.uint8)
    np.savez(file, x=stored, y=digits.target)
    inputs = torch.tensor(stored).double().flatten(1) / 255
    design = torch.cat([inputs, torch.ones(len(inputs), 1).double()], dim=1)
    targets = 10 * nn.functional.one_hot(torch.tensor(digits.target), 10).double()
    penalty = 1e-3 * torch.eye(65).double()
    solution = torch.linalg.solve(design.T @ design + penalty, design.T @ targets).flip(1)
    weights = torch.cat([torch.zeros(65, 1), solution.float(), torch.zeros(65, 1)], dim=1)
    torch.save({"layer.weight": weights[:-1].T.contiguous(), "layer.bias": weights[-1].clone()}, "digits.pth")


def test_an_unknown_scale_is_found_through_a_class_map(capsys: pytest.CaptureFixture[str]) -> None:
    save_digits(Path("digits.npz"))
    Path("map.csv").write_text("\n".join(f"{10 - digit},{digit}" for digit in range(10)))
    settings = RunSettings(data="digits.npz", teacher=("nets.py:Digits=digits.pth",), label_map=Path("map.csv"))
    data, teacher = prepare(settings)
    assert isinstance(teacher.model, MappedOutputs)
    contract = contract_of(teacher.model)
    assert contract is not None
    assert (contract.mean, contract.std) == ((0.0,), (1.0,))
    assert accuracy(teacher.model, data.val_set) > 0.9
    assert "nets.py:Digits: normalised as numbers in [0, 1]" in " ".join(capsys.readouterr().out.split())


def test_a_fitted_head_keeps_the_datas_scale_unless_another_is_given() -> None:
    save_digits(Path("digits.npz"))
    settings = RunSettings(data="digits.npz", teacher=("nets.py:Digits=digits.pth",), teacher_head="fit")
    assert contract_of(prepare(settings)[1].model) is None
    given = RunSettings(**vars(settings) | {"teacher_input": ("0-1",)})
    assert contract_of(prepare(given)[1].model) is not None


@pytest.mark.parametrize("flags", [("--label-map", "map.csv"), ("--teacher-head", "fit")])
def test_an_onnx_teacher_of_other_classes(
    flags: tuple[str, str], wine_map: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    write_onnx(Path("t.onnx"), linear(13, 5), shape=("n", 13), after="Softmax")
    command = ("run", "--data", "sklearn:wine", "--teacher", "t.onnx", *QUICK)
    assert cli.main([*command]) == 1
    assert "has 5 classes, the data has 3" in " ".join(capsys.readouterr().err.split())
    assert cli.main([*command, *flags]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    if flags[0] == "--teacher-head":
        assert "the layers of an ONNX file cannot be reached, so the head is fitted on its outputs" in printed
        assert "linear head fitted on 5 features" in printed
    else:
        assert "4 of its 5 outputs are mapped to the 3 classes of the data" in printed
    assert cli.main(["cache", "verify", "--out", "run"]) == 0
    assert "rows match the saved teacher" in capsys.readouterr().out


def test_the_mapped_outputs_of_an_onnx_teacher_are_those_of_the_file(wine_map: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    write_onnx(Path("t.onnx"), linear(13, 5), shape=("n", 13))
    settings = RunSettings(data="sklearn:wine", teacher=("t.onnx",), teacher_input=("data",), label_map=wine_map)
    data, teacher = prepare(settings)
    inputs = data.val_set[0][0][None]
    logits = linear(13, 5)(inputs)
    joined = torch.stack([logits[:, 4], logits[:, [2, 0]].logsumexp(dim=1), logits[:, 1]], dim=1)
    torch.testing.assert_close(teacher.model(inputs), joined)


def test_an_embedding_output_of_an_onnx_file_gets_a_head() -> None:
    pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    write_onnx(Path("t.onnx"), linear(13, 5), shape=("n", 13), outputs=("scores", "features"))
    data, model = fit(RunSettings(data="sklearn:wine", teacher=("t.onnx::features",), teacher_head="fit"))
    assert accuracy(model, data.test_set) > 0.85


class Wine(nn.Module):
    """A stand-in for a classifier of transformers, with a backbone and a head of five classes."""

    base_model_prefix = "wine"

    def __init__(self) -> None:
        super().__init__()
        names = ["Port", "red wine", "Rosé", "White", "Sherry"]
        self.config = SimpleNamespace(id2label=dict(enumerate(names)), _name_or_path="")
        self.wine, self.classifier = linear(13, 16), nn.Linear(16, 5)

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(logits=self.classifier(self.wine(pixel_values).tanh()))


@pytest.fixture(name="lacking")
def _lacking(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Replace transformers, and write a folder of its models; return the names that the folder lacks."""
    Path("vit").mkdir()
    Path("vit/config.json").write_text("{}")
    Path("vit/model.safetensors").write_bytes(b"")
    lacking: set[str] = set()
    module: Any = ModuleType("transformers")
    module.__version__ = "5"
    module.AutoModelForImageClassification = SimpleNamespace(
        from_pretrained=lambda *_, **__: (Wine(), {"missing_keys": lacking, "mismatched_keys": set()})
    )
    monkeypatch.setitem(sys.modules, "transformers", module)
    return lacking


def test_a_class_map_uses_the_names_of_a_teacher_of_transformers(lacking: set[str]) -> None:
    Path("map.csv").write_text("teacher,data\nred wine,class_2\nPort,class_0\nSherry,class_0\n3,class_1\n")
    settings = RunSettings(data="sklearn:wine", teacher=("hf:vit",), label_map=Path("map.csv"))
    _, teacher = prepare(settings)
    assert teacher.model.get_buffer("members").tolist() == [[0, 4], [3, -1], [1, -1]]
    Path("map.csv").write_text("teacher,data\nred vine,class_2\n")
    with pytest.raises(ValueError, match=r"'red vine', which is no class of the teacher\. Did you mean red wine"):
        prepare(settings)


def test_a_head_is_fitted_on_a_backbone_of_transformers(lacking: set[str]) -> None:
    settings = RunSettings(data="sklearn:wine", teacher=("hf:vit",), teacher_head="fit")
    lacking |= {"classifier.weight", "classifier.bias"}
    torch.manual_seed(1)
    data, model = fit(settings)
    assert accuracy(model, data.test_set) > 0.85
    torch.manual_seed(2)  # the head that is replaced is random; the teacher must not be
    for name, value in prepare(settings)[1].model.features.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, model.features.state_dict()[name])  # type: ignore[union-attr]
    lacking.add("wine.weight")
    with pytest.raises(ValueError, match="no weights for 3 tensors of its model"):
        prepare(settings)


class Striped(nn.Module):
    """A stand-in for a classifier of transformers: features of stripes on images of one size, and a random head."""

    base_model_prefix = "body"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(id2label={0: "a", 1: "b", 2: "c"}, _name_or_path="")
        self.classifier, self.size = linear(3, 3), size

    def forward(self, pixel_values: Tensor) -> Any:
        assert tuple(pixel_values.shape[1:]) == (3, self.size, self.size)
        rows = pixel_values.mean(dim=(1, 3))
        steps = [(rows[:, step:] - rows[:, :-step]).abs().mean(dim=1) for step in (1, 2, 4)]
        return SimpleNamespace(logits=self.classifier(torch.stack(steps, dim=1)))


def test_heads_are_fitted_on_two_teachers_of_different_own_sizes(
    stripes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (32, 24):
        Path(f"vit{size}").mkdir()
        config = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        Path(f"vit{size}/preprocessor_config.json").write_text(json.dumps({**config, "size": size}))
        Path(f"vit{size}/config.json").write_text("{}")
        Path(f"vit{size}/model.safetensors").write_bytes(b"")
    module: Any = ModuleType("transformers")
    module.__version__ = "5"
    nothing: dict[str, set[str]] = {"missing_keys": set(), "mismatched_keys": set()}
    module.AutoModelForImageClassification = SimpleNamespace(
        from_pretrained=lambda folder, **_: (Striped(int(str(folder)[-2:])), nothing)
    )
    monkeypatch.setitem(sys.modules, "transformers", module)
    settings = RunSettings(data=str(stripes), image_size=32, teacher=("hf:vit32", "hf:vit24"), teacher_head="fit")
    settings.check()
    data = load_data(settings)
    teachers = new_teachers(settings, data)
    require_models(settings, data, teachers)
    model, _ = train_teacher(settings, data, teachers, torch.device("cpu"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "teachers: they have inputs of different sizes, so the students' images of 32 × 32 pixels" in printed
    assert printed.count("linear head fitted on 3 features (input of ") == 2
    assert accuracy(model.eval(), data_for_teacher(settings, data, model).test_set) > 0.9


@pytest.mark.parametrize("kind", ["map", "fit"])
def test_published_weights_of_other_classes(kind: str, stripes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(Path.cwd()))
    Path("checkpoints").mkdir()
    weights = models.get_model_weights("squeezenet1_1").DEFAULT
    with kd.seeded(0):
        network = models.get_model("squeezenet1_1", weights=None)
    Path("checkpoints", weights.url.rpartition("/")[2]).write_bytes(state_bytes(network.state_dict()))
    Path("map.csv").write_text("teacher,data\ntench,class1\n5,class0\n")
    flags: dict[str, Any] = {"label_map": Path("map.csv")} if kind == "map" else {"teacher_head": "fit"}
    settings = RunSettings(data=str(stripes), image_size=4, teacher=("torchvision:squeezenet1_1=pretrained",), **flags)
    data, teacher = prepare(settings)
    contract, inputs = contract_of(teacher.model), data.val_set[0][0][None]
    assert contract is not None
    assert contract.size == (224, 224)
    with torch.no_grad():
        assert teacher.model.eval()(inputs).shape == (1, 2)
    if kind == "map":
        assert teacher.model.get_buffer("members").tolist() == [[5], [0]]  # tench is ImageNet's first class
