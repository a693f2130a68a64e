"""``--teacher FILE.onnx``, ``hf:FOLDER`` and ``NAME=pretrained`` in whole commands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd
from kd import cli
from kd.commands.settings import RunSettings
from kd.commands.settings_paths import map_paths
from kd.commands.teacher_flags import parse_teachers
from tests.onnx_files import linear, write_onnx

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # the teachers are hardly trained

QUICK = ("--data", "sklearn:wine", "--epochs", "1", "--student", "mlp:4", "--out", "run")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an ONNX teacher for wine, and work beside it."""
    pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    monkeypatch.chdir(tmp_path)
    return write_onnx(tmp_path / "t.onnx", linear(13, 3), shape=("n", 13), after="Softmax").relative_to(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, fails: bool = False) -> str:
    """Run a command, and return what it prints, on one line."""
    capsys.readouterr()
    try:
        status = cli.main(list(arguments))
    except SystemExit as error:  # wrong flags
        status = error.code  # type: ignore[assignment]
    assert bool(status) == fails
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_an_onnx_teacher_through_a_run_and_the_commands_after_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(capsys, "run", *QUICK, "--teacher", str(file))
    assert "t.onnx: inputs [13] of torch.float32, the input of the softmax before output 'scores' as logits" in printed
    assert "teacher: accuracy" in printed
    saved = torch.load("run/models/teacher_model.pth", weights_only=True)
    assert bytes(saved["file"].numpy()) == file.read_bytes()
    manifest = json.loads(Path("run/models/manifest.json").read_text())
    assert manifest["models"]["teacher_model.pth"]["parameters"] == 13 * 3 + 3
    page = Path("run/results/report.html").read_text()
    rows = [re.sub("<[^>]+>", " ", row).split() for row in re.findall("<tr>.*?</tr>", page, re.DOTALL)]
    assert ["parameters", "42"] in [row[:2] for row in rows]
    assert ["multiply-adds", "per", "item", "–"] in [row[:4] for row in rows]
    before = Path("run/models/student_distilled.pth").read_bytes()
    run(capsys, "cache", "verify", "--out", "run")
    run(capsys, "evaluate", "--out", "run")
    again = run(capsys, "run", "--config", "run/run.toml", "--out", "run")
    assert "reused" in again
    assert Path("run/models/student_distilled.pth").read_bytes() == before
    write_onnx(file, linear(13, 3, seed=1), shape=("n", 13), after="Softmax")
    run(capsys, "run", *QUICK, "--teacher", str(file))
    assert Path("run/models/student_distilled.pth").read_bytes() != before


@pytest.mark.slow
def test_its_students_equal_those_of_the_same_network_in_torch(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "run", *QUICK, "--teacher", str(file))
    state = linear(13, 3).state_dict()
    Path("net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net(input_shape, classes):\n    layer = nn.Linear(13, 3)\n"
        "    layer.load_state_dict(torch.load('w.pth', weights_only=True))\n    return layer\n"
    )
    torch.save(state, "w.pth")
    run(capsys, "run", *QUICK[:-1], "torch", "--teacher", "net.py:net")
    first, second = (torch.load(f"{out}/models/student_distilled.pth", weights_only=True) for out in ("run", "torch"))
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--teacher", "t.onnx", "--method", "fitnet"),
            r"--method fitnet needs the teacher's features, but --teacher FI",
        ),
        (("--teacher", "t.onnx::x"), "has no output 'x'"),
        (("--teacher", "u.onnx"), "there is no file u.onnx. Did you mean t.onnx"),
        (("--teacher", "mlp:4=t.onnx"), "an ONNX file contains its network: --teacher t.onnx, without mlp:4="),
        (("--teacher", "hf:"), "must be followed by a folder or a name"),
        (("--teacher", "mlp:4", "--student", "t.onnx"), "--student must be a network that is trained here"),
        (("--teacher", "mlp:4", "--student", "timm:resnet18=pretrained"), "--student must be a network"),
        (("--teacher", "hf:./none"), "there is no folder none"),
        (("--teacher", "t.onnx", "--teacher-epochs", "3"), "omitted with a loaded teacher"),
    ],
)
def test_errors_name_the_flag_and_the_remedy(
    file: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in run(capsys, "run", *QUICK, *arguments, fails=True)


COMMANDS = [
    ("compare", "--pairs", "2", "--processes", "1"),
    ("sweep", "--temperatures", "2", "--alphas", "0.5", "--seeds", "1", "--final-pairs", "2", "--processes", "1"),
]


def assert_judged(command: str, printed: str) -> None:
    """Students of one epoch may be no better than the majority class; a sweep then names them instead of a verdict."""
    assert "Distillation (kd" in printed or (command == "sweep" and "No better than always predicting" in printed)
    assert Path(f"run/results/metrics/{'comparison' if command == 'compare' else 'sweep'}.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=["compare", "sweep"])
def test_the_commands_of_many_pairs_take_an_onnx_teacher(
    file: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(capsys, *command, *QUICK, "--teacher", str(file))
    assert "the input of the softmax before output 'scores' as logits" in printed
    if command[0] == "compare":
        footprint = json.loads(Path("run/results/metrics/comparison.json").read_text())["models"]["teacher"]
        assert footprint["parameters"] == 42
        assert re.search(r"teacher . 42 . – .", printed), printed
    assert_judged(command[0], printed)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=["compare", "sweep"])
def test_the_commands_of_many_pairs_take_a_folder_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the hf extra")
    monkeypatch.chdir(tmp_path)
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    config.id2label = {number: str(number) for number in range(10)}
    config.label2id = {name: number for number, name in config.id2label.items()}
    with kd.seeded(0):
        transformers.ViTForImageClassification(config).save_pretrained("vit")
    flags = ("--data", "sklearn:digits", "--limit", "300", *QUICK[2:], "--teacher", "hf:vit")
    printed = run(capsys, *command, *flags)
    assert "hf:vit: ViTForImageClassification with 10 classes" in printed
    assert_judged(command[0], printed)


@pytest.mark.slow
def test_an_augmented_run_and_an_ensemble_take_it(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "run", *QUICK, "--teacher", str(file), "--teacher", "mlp:4")
    images = write_onnx(tmp_path / "i.onnx", linear(784, 10), shape=(16, 28, 28, 1))
    flags = ("--limit", "200", "--epochs", "1", "--augment", "flip", "--teacher", str(images), "--student", "mlp:4")
    assert "16 at a time" in run(capsys, "run", *flags, "--out", "augmented")


def test_plain_names_say_that_they_start_from_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kd.commands.data import load_data
    from kd.commands.models import new_teachers

    settings = RunSettings(teacher=("torchvision:squeezenet1_1",), limit=100, out=tmp_path)
    new_teachers(settings, load_data(settings))
    printed = " ".join(capsys.readouterr().out.split())
    assert "trained from random weights; torchvision:squeezenet1_1=pretrained takes published ones" in printed


class Wine(nn.Module):
    """A stand-in for a classifier of transformers."""

    def __init__(self) -> None:
        super().__init__()
        names = ["class_2", "class_0", "class_1"]
        self.config = SimpleNamespace(id2label=dict(enumerate(names)), _name_or_path="")
        self.layer = linear(13, 3)

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(logits=self.layer(pixel_values))


def test_a_folder_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text("{}")
    (tmp_path / "vit" / "model.safetensors").write_bytes(b"")
    module: Any = ModuleType("transformers")
    module.__version__ = "5"
    nothing: dict[str, set[str]] = {"missing_keys": set(), "mismatched_keys": set()}
    module.AutoModelForImageClassification = SimpleNamespace(from_pretrained=lambda *_, **__: (Wine(), nothing))
    monkeypatch.setitem(sys.modules, "transformers", module)
    printed = run(capsys, "run", *QUICK, "--teacher", "hf:vit")
    assert "hf:vit: its outputs are reordered by name" in printed
    run(capsys, "cache", "verify", "--out", "run")
    run(capsys, "evaluate", "--out", "run")
    state = torch.load("run/models/teacher_model.pth", weights_only=True)
    assert state["columns"].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("t.onnx", "up/t.onnx"),
        ("a/t.onnx::logits", "up/a/t.onnx::logits"),
        ("hf:vit", "hf:up/vit"),
        ("hf:someone/vit", "hf:someone/vit"),
        ("timm:resnet18=pretrained", "timm:resnet18=pretrained"),
        ("timm:resnet18=w.pth", "timm:resnet18=up/w.pth"),
    ],
)
def test_paths_in_a_settings_file_move_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, moved: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit").mkdir()
    assert map_paths({"teacher": [text]}, lambda path: f"up/{path}") == {"teacher": [moved]}
    assert [str(choice) for choice in parse_teachers([text])] == [text]
