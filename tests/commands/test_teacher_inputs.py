"""Teachers with inputs of their own in the commands: given, found by accuracy, decoded at their size, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kd import cli
from kd.commands.data import Task, load_data
from kd.commands.models import new_teachers
from kd.commands.run.command import name_architectures
from kd.commands.settings import RunSettings
from kd.commands.teacher_flags import ModelChoice
from kd.commands.teacher_inputs import data_for_teacher, find_inputs, forget_inputs
from kd.models.build import build
from kd.teachers.class_map import MappedOutputs
from kd.teachers.class_order import Reordered
from kd.teachers.contract import InputContract, InputScale, OwnInputs, contract_of
from kd.teachers.ensemble import Ensemble
from kd.teachers.fitted_head import attach_head

TOY = ("--epochs", "1", "--student", "mlp:4")
IMAGENET = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)


@pytest.fixture(autouse=True)
def _forget() -> None:
    forget_inputs()


@pytest.fixture(name="stripes")
def _stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of images of 32 × 32 pixels whose classes are stripes, which are lost at 4 × 4."""
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for label, width in enumerate((1, 2)):
        folder = tmp_path / f"photos/class{label}"
        folder.mkdir(parents=True)
        for number in range(30):
            pixels = generator.integers(60, 100, (32, 32, 3)).astype(np.uint8)
            pixels[np.arange(32) // width % 2 == 0] += 80
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


PLUGIN = """
import torch
from torch import nn
class Stripes(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
    def forward(self, x):
        rows = x.mean(dim=(1, 3))
        fine = (rows[:, 1:] - rows[:, :-1]).abs().mean(dim=1)
        coarse = (rows[:, 2:] - rows[:, :-2]).abs().mean(dim=1)
        assert tuple(x.shape[1:]) == (3, 24, 24), x.shape
        return self.weight * torch.stack([fine, coarse], dim=1)
"""


@pytest.fixture(name="plugin")
def _plugin(tmp_path: Path) -> str:
    file = tmp_path / "stripes.py"
    file.write_text(PLUGIN)
    return f"{file}:Stripes"


def settings_for(stripes: Path, plugin: str, **changes: Any) -> RunSettings:
    values: dict[str, Any] = {"data": str(stripes), "image_size": 4, "teacher": (plugin,)}
    values["teacher_input"] = ("imagenet", "size=24", "crop=0.75")
    return RunSettings(**values | changes)


def test_images_are_decoded_at_the_size_of_the_teacher(stripes: Path, plugin: str) -> None:
    settings = settings_for(stripes, plugin)
    data = load_data(settings)
    (teacher,) = new_teachers(settings, data)
    assert contract_of(teacher.model) == InputContract((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (24, 24), 0.75)
    own = data_for_teacher(settings, data, teacher.model)
    for split, own_split in (
        (data.train_set, own.train_set),
        (data.val_set, own.val_set),
        (data.test_set, own.test_set),
    ):
        assert [label for _, label in split] == [label for _, label in own_split]  # type: ignore[attr-defined]
        assert own_split[0][0].shape == (3, 32, 32)
    # the very pixels of the file, cropped and normalised by the teacher's own numbers
    row = data.rows["test"][0]
    assert data.source.all_ids is not None
    pixels = np.asarray(Image.open(stripes / data.source.all_ids[row])).transpose(2, 0, 1)[:, 4:28, 4:28]
    expected = (torch.tensor(pixels.copy()).float() / 255 - IMAGENET[0]) / IMAGENET[1]
    prepared: Tensor = teacher.model.prepare(own.test_set[0][0][None])[0]  # type: ignore[operator]
    torch.testing.assert_close(prepared, expected)


@pytest.mark.slow
def test_a_run_with_a_teacher_of_its_own_size(
    stripes: Path, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data", str(stripes), "--image-size", "4", "--teacher", plugin, *TOY, "--out", str(tmp_path / "run"))
    own = ("--teacher-input", "imagenet", "size=24", "crop=0.75")
    assert cli.main(["run", *flags, *own]) == 0
    output = " ".join(capsys.readouterr().out.split())
    before = output.split("control epoch")[0]
    assert "teacher: accuracy 100.0%" in before
    assert "its inputs: mean 0.485 0.456 0.406, std 0.229 0.224 0.225, 24 × 24 pixels" in before
    assert "images are decoded for it at 32 × 32 pixels" in before
    summary = json.loads((tmp_path / "run/results/metrics/metrics.json").read_text())
    assert summary["config"]["TEACHER_INPUTS_USED"][0].startswith(f"{plugin}: mean 0.485")
    assert cli.main(["cache", "verify", "--out", str(tmp_path / "run")]) == 0
    assert "rows match the saved teacher" in capsys.readouterr().out
    assert cli.main(["evaluate", "--out", str(tmp_path / "run")]) == 0
    assert "evaluation-teacher: up to date, reused" in capsys.readouterr().out
    state = torch.load(tmp_path / "run/models/teacher_model.pth", weights_only=True)
    assert json.loads(bytes(state["contract"].tolist()))["size"] == [24, 24]
    assert "TEACHER_INPUT" in (tmp_path / "run/results/report.html").read_text()


@pytest.mark.filterwarnings("ignore:.*chance level")  # untrained
def test_a_loaded_teacher_of_its_own_size_is_evaluated_and_is_no_network_by_name(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its inputs, the network in the teacher's file would predict from other pixels."""
    file, run = tmp_path / "t.pth", tmp_path / "run"
    torch.save(build("cnn:4", input_shape=(3, 16, 16), classes=2, seed=0).state_dict(), file)
    flags = ("--data", str(stripes), "--image-size", "8", "--teacher", f"cnn:4={file}", *TOY, "--out", str(run))
    assert cli.main(["run", *flags, "--teacher-input", "0-1", "size=16"]) == 0
    entries = json.loads((run / "models/manifest.json").read_text())["models"]
    assert {name: "unlike" in entry for name, entry in entries.items()} == {
        "teacher_model.pth": False, "student_regular.pth": True, "student_distilled.pth": True
    }  # fmt: skip
    assert entries["teacher_model.pth"]["architecture"] is None
    capsys.readouterr()
    image = str(stripes / "class0" / "0.png")
    assert cli.main(["predict", "--model", str(run), "--arm", "teacher", image]) == 1
    assert "its architecture has no name" in capsys.readouterr().err


def test_only_a_bare_teacher_has_an_architecture() -> None:
    task = Task((3, 8, 8), ("a", "b"))
    bare = build("cnn:4", input_shape=(3, 8, 8), classes=2, seed=0)
    contract = InputContract((0.0,) * 3, (1.0,) * 3, (16, 16))
    wrapped = (
        OwnInputs(bare, contract, InputScale(torch.zeros(()), torch.ones(()), is_bytes=True, is_image=True)),
        Reordered(bare, [1, 0]),
        MappedOutputs(bare, [[0], [1]]),
        Ensemble([bare], temperature=5.0),
        attach_head(bare, torch.zeros(2, 3, 8, 8), classes=2),
    )
    own = RunSettings(teacher=("FILE.py:Net",))
    assert name_architectures(own, teacher=bare, task=task)["teacher_model"] == "FILE.py:Net"
    for model in wrapped:
        assert "teacher_model" not in name_architectures(own, teacher=model, task=task), type(model)
    assert name_architectures(RunSettings(), teacher=bare, task=task)["teacher_model"] == "cnn:32"  # of auto
    assert "teacher_model" not in name_architectures(RunSettings(teacher=("hf:vit",)), teacher=bare, task=task)


def test_a_teacher_that_runs_on_the_students_images_gets_them_scaled(
    stripes: Path, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(stripes, plugin, augment=("flip",))
    data = load_data(settings)
    (teacher,) = new_teachers(settings, data)
    assert data_for_teacher(settings, data, teacher.model) is data
    data_for_teacher(settings, data, teacher.model)
    assert capsys.readouterr().out.count("because it runs on their images") == 1
    assert teacher.model(data.val_set[0][0][None]).shape == (1, 2)


def test_several_teachers_share_a_size_or_get_the_students_images(
    stripes: Path, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(stripes, plugin)
    data = load_data(settings)
    teacher = new_teachers(settings, data)[0].model
    both = Ensemble([teacher, teacher], temperature=2.0)
    for own in (data_for_teacher(settings, data, both), data_for_teacher(settings, data, teacher, teacher)):
        assert own.val_set[0][0].shape == (3, 32, 32)
        assert both(own.val_set[0][0][None]).shape == (1, 2)
    plain = nn.Flatten()
    assert data_for_teacher(settings, data, Ensemble([teacher, plain], temperature=2.0)) is data
    assert "of different sizes" in capsys.readouterr().out
    forget_inputs()
    assert data_for_teacher(settings, data, teacher, plain) is data
    assert "the students' images of 4 × 4 pixels are scaled for each" in capsys.readouterr().out


@pytest.fixture(name="digits")
def _digits(tmp_path: Path) -> Path:
    """Return an archive of dim digits, whose normalisation is far from every usual one."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez(tmp_path / "digits.npz", x=(80 + digits.images * 5.5).astype(np.uint8), y=digits.target)
    return tmp_path / "digits.npz"


def save_linear(file: Path, digits: Path, mean: float, std: float, *, channels: int = 1) -> None:
    """Save a linear classifier of the digits, (x / 255 − mean) / std, as weights of an MLP without hidden layers."""
    archive = np.load(digits)
    inputs, labels = torch.tensor(archive["x"]).double().flatten(1) / 255, torch.tensor(archive["y"])
    inputs = ((inputs - mean) / std).repeat(1, channels)
    targets = 10 * nn.functional.one_hot(labels, 10).double()
    design = torch.cat([inputs, torch.ones(len(inputs), 1).double()], dim=1)
    ridge = 1e-3 * torch.eye(design.shape[1]).double()
    weights = torch.linalg.solve(design.T @ design + ridge, design.T @ targets)
    torch.save({"0.weight": weights[:-1].T.float().contiguous(), "0.bias": weights[-1].float().contiguous()}, file)


LINEAR = """
from torch import nn
class Linear(nn.Sequential):
    def __init__(self, input_shape):
        super().__init__()
        self.add_module("0", nn.Linear(64 * input_shape[0], 10))
    def forward(self, x):
        return self[0](x.flatten(1))
"""


@pytest.fixture(name="linear")
def _linear(tmp_path: Path) -> str:
    (tmp_path / "linear.py").write_text(LINEAR)
    return f"{tmp_path / 'linear.py'}:Linear"


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [(0.0, 1.0, "numbers in [0, 1]"), (0.5, 0.5, "numbers in [-1, 1]"), (0.0, 1 / 255, "numbers in [0, 255]")],
)
def test_an_unknown_scale_is_found_and_said(
    mean: float, std: float, words: str, digits: Path, linear: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_linear(tmp_path / "t.pth", digits, mean, std)
    settings = RunSettings(data=str(digits), teacher=(f"{linear}={tmp_path / 't.pth'}",))
    data = load_data(settings)
    for _ in range(2):
        (teacher,) = new_teachers(settings, data)
    output = " ".join(capsys.readouterr().out.split())
    assert output.count(f"normalised as {words} (") == 1
    assert "of 512 training images;" in output
    assert "with the data's own)" in output
    contract = contract_of(teacher.model)
    assert contract is not None
    assert (contract.mean[0], contract.std[0]) == (mean, std)


def test_weights_of_the_datas_own_scale_get_no_wrapper(digits: Path, linear: str, tmp_path: Path) -> None:
    settings = RunSettings(data=str(digits), teacher=(f"{linear}={tmp_path / 't.pth'}",))
    data = load_data(settings)
    base = data.train_set.dataset  # type: ignore[attr-defined]
    save_linear(tmp_path / "t.pth", digits, float(base.mean), float(base.std))
    (teacher,) = new_teachers(settings, data)
    assert type(teacher.model).__name__ == "Linear"
    with_data = RunSettings(data=str(digits), teacher=settings.teacher, teacher_input=("data",))
    assert type(new_teachers(with_data, data)[0].model).__name__ == "Linear"


def test_a_contract_is_applied_inside_the_class_order(digits: Path, linear: str, tmp_path: Path) -> None:
    save_linear(tmp_path / "t.pth", digits, 0.5, 0.5)
    order = tuple("1234567890")
    file = torch.load(tmp_path / "t.pth", weights_only=True)
    torch.save({name: value.roll(-1, 0) for name, value in file.items()}, tmp_path / "t.pth")
    settings = RunSettings(data=str(digits), teacher=(f"{linear}={tmp_path / 't.pth'}",), label_order=order)
    data = load_data(settings)
    (teacher,) = new_teachers(settings, data)
    assert contract_of(teacher.model) == InputContract((0.5,), (0.5,))
    inputs, label = data.val_set[0]
    assert int(teacher.model(inputs[None]).argmax()) == label


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--teacher", "LINEAR=one.pth", "--teacher-input", "imagenet"), "Give --teacher-input channels=1"),
        (("--teacher", "LINEAR=three.pth"), "Give --teacher-input channels=3, with its mean=… and std=… or a name"),
        (("--teacher", "LINEAR=one.pth", "--teacher-input", "0.5", "size=9"), "failed on one sample [1, 1, 9, 9]"),
        (("--teacher", "LINEAR=one.pth", "--teacher-input", "imagnet"), "Did you mean imagenet"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(
    flags: tuple[str, ...],
    message: str,
    digits: Path,
    linear: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_linear(Path("one.pth"), digits, 0.5, 0.5)
    save_linear(Path("three.pth"), digits, 0.5, 0.5, channels=3)
    given = [flag.replace("LINEAR", linear) for flag in flags]
    assert cli.main(["run", "--data", str(digits), *given, *TOY, "--out", "run"]) == 1
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert "epoch" not in captured.out


def test_a_teacher_trained_here_has_no_inputs_of_its_own() -> None:
    with pytest.raises(ValueError, match="--teacher-input must be omitted without a loaded teacher"):
        RunSettings(teacher=("cnn:4",), teacher_input=("imagenet",)).check()


def test_a_mean_for_a_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(build("mlp:4", input_shape=(13,), classes=3, seed=0).state_dict(), tmp_path / "t.pth")
    flags = ("--data", "sklearn:wine", "--teacher", f"mlp:4={tmp_path / 't.pth'}", "--teacher-input", "imagenet")
    assert cli.main(["run", *flags, *TOY, "--out", str(tmp_path / "run")]) == 1
    assert "for inputs that are not images [C, H, W]" in " ".join(capsys.readouterr().err.split())


def test_weights_that_come_with_their_contract_need_no_flag(digits: Path, tmp_path: Path) -> None:
    config = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": 16} | {
        "image_processor_type": "ViTImageProcessor"
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    settings = RunSettings(data=str(digits))
    inputs = find_inputs(settings, ModelChoice(f"hf:{tmp_path}", None), load_data(settings))
    assert inputs.is_known
    assert inputs.contract == InputContract((0.5,) * 3, (0.25,) * 3, size=(16, 16), channels=3)
    assert inputs.task.input_shape == (3, 16, 16)
    assert not find_inputs(settings, ModelChoice("cnn:4", Path("t.pth")), load_data(settings)).is_known


def test_values_without_a_name_complete_what_comes_with_the_weights(digits: Path, tmp_path: Path) -> None:
    config = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": 16} | {
        "image_processor_type": "ViTImageProcessor"
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    settings = RunSettings(data=str(digits), teacher_input=("size=12",))
    data = load_data(settings)
    inputs = find_inputs(settings, ModelChoice(f"hf:{tmp_path}", None), data)
    assert inputs.contract == InputContract((0.5,) * 3, (0.25,) * 3, size=(12, 12), channels=3)


def test_values_alone_keep_the_datas_normalisation_until_it_is_chosen(digits: Path) -> None:
    settings = RunSettings(data=str(digits), teacher_input=("size=12", "channels=3"))
    data = load_data(settings)
    inputs = find_inputs(settings, ModelChoice("cnn:4", Path("t.pth")), data)
    base = data.train_set.dataset  # type: ignore[attr-defined]
    own = InputContract((float(base.mean),), (float(base.std),), size=(12, 12), channels=3)
    assert (inputs.is_known, inputs.contract, inputs.task.input_shape) == (False, own, (3, 12, 12))


def test_the_normalisation_of_given_channels_is_chosen_by_accuracy(
    digits: Path, linear: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_linear(tmp_path / "three.pth", digits, 0.5, 0.5, channels=3)
    settings = RunSettings(
        data=str(digits), teacher=(f"{linear}={tmp_path / 'three.pth'}",), teacher_input=("channels=3",)
    )
    data = load_data(settings)
    (teacher,) = new_teachers(settings, data)
    assert contract_of(teacher.model) == InputContract((0.5,), (0.5,), channels=3)
    assert "normalised as 0.5 channels=3 (" in " ".join(capsys.readouterr().out.split())
    inputs, label = data.val_set[0]
    assert int(teacher.model(inputs[None]).argmax()) == label


BLUE = """
import torch
from torch import nn
class Blue(nn.Module):
    "Classes are shades of the first channel, in numbers of this mean and standard deviation."
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter((torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]) - MEAN) / STD)
    def forward(self, x):
        return -(x[:, 0].mean(dim=(1, 2))[:, None] - self.centres) ** 2
"""


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.0, 1.0, ((0.0,), (1.0,))),
        (0.406, 0.225, ((0.406, 0.456, 0.485), (0.225, 0.224, 0.229))),
        (0.485, 0.229, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),  # numbers left in the order RGB
    ],
)
def test_an_order_alone_is_enough_for_a_teacher_of_unknown_normalisation(
    mean: float, std: float, expected: tuple[tuple[float, ...], tuple[float, ...]], tmp_path: Path
) -> None:
    random, labels = np.random.default_rng(0), np.arange(600) % 5
    pixels = random.integers(0, 256, (600, 3, 6, 6))
    pixels[:, 2] = (25.5 * labels + 25).reshape(-1, 1, 1) + random.integers(-2, 3, (600, 6, 6))
    np.savez(tmp_path / "blue.npz", x=pixels.astype(np.uint8), y=labels)
    (tmp_path / "blue.py").write_text(BLUE.replace("MEAN", str(mean)).replace("STD", str(std)))
    settings = RunSettings(
        data=str(tmp_path / "blue.npz"), teacher=(f"{tmp_path / 'blue.py'}:Blue",), teacher_input=("order=bgr",)
    )
    data = load_data(settings)
    (teacher,) = new_teachers(settings, data)
    contract = contract_of(teacher.model)
    assert contract == InputContract(*expected, channels=3, bgr=True)
    right = [int(teacher.model(image[None]).argmax()) == label for image, label in data.val_set]  # type: ignore[attr-defined]
    assert all(right)


def test_values_of_images_are_refused_for_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(build("mlp:4", input_shape=(13,), classes=3, seed=0).state_dict(), tmp_path / "t.pth")
    flags = ("--data", "sklearn:wine", "--teacher", f"mlp:4={tmp_path / 't.pth'}", "--teacher-input", "size=8")
    assert cli.main(["run", *flags, *TOY, "--out", str(tmp_path / "run")]) == 1
    assert "for inputs that are not images [C, H, W]" in " ".join(capsys.readouterr().err.split())


def test_a_relative_folder_of_a_preprocessor_counts_from_the_settings_file(tmp_path: Path) -> None:
    from kd.commands.settings_paths import paths_for_file

    moved = paths_for_file({"teacher_input": ("hf:vit", "size=9")}, tmp_path / "run")
    assert moved["teacher_input"][0].startswith("hf:")
    assert moved["teacher_input"][0].endswith("vit")
    assert moved["teacher_input"] != ["hf:vit", "size=9"]
