"""The documented contract: the functions, constants, return values, examples and files of docs/pipeline.rst."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

import config
import kd
import main
from kd.commands.help import help_texts
from kd.commands.settings import RunSettings
from models import StudentModel, TeacherModel
from tests.cheap import figures
from tests.conftest import ToyRun

ROOT = Path(main.__file__).parent
REFERENCE = (ROOT / "docs" / "pipeline.rst").read_text(encoding="utf-8")
NAMES = ("teacher", "control", "distilled")

SIGNATURES = {
    "initialize_directories": "",
    "load_and_split_data": "",
    "train_teacher": "train_loader val_loader",
    "prepare_distillation_data": "teacher train_loader val_loader train_subset val_subset",
    "train_students": "teacher train_loader val_loader train_distill_loader val_distill_loader",
    "evaluate_all_models": "teacher student_reg student_dist test_loader",
    "save_and_visualize_results": "teacher student_reg student_dist train_metrics test_metrics test_loader",
}

RETURNS: dict[type[Any], str] = {
    main.Data: "train_loader val_loader test_loader train_subset val_subset test_dataset",
    main.TeacherTraining: "model train_loss val_loss train_acc val_acc",
    main.DistillLoaders: "train_distill_loader val_distill_loader",
    main.StudentTraining: "student_regular student_distilled regular_history distilled_history",
    main.TestMetrics: "teacher regular distilled",
    main.TrainMetrics: "teacher regular distilled",
    main.Result: "accuracy errors logits",
}

_FILES = """
models/teacher_model.pth models/student_regular.pth models/student_distilled.pth models/manifest.json
results/plots/teacher_training.png results/plots/training_curves.png results/plots/accuracy_comparison.png
results/plots/prediction_examples.png results/plots/confusion_matrices.png
results/metrics/metrics.json results/metrics/timings.json results/metrics/test_metrics.csv
results/metrics/curves.csv
results/metrics/per_class_accuracy.csv results/metrics/confusion_matrices.csv
results/predictions/test_predictions.csv results/report.html
"""
FILES = _FILES.split()


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _fresh_config() -> ModuleType:
    """Execute ``config.py`` again, independent of fixtures."""
    spec = importlib.util.spec_from_file_location("fresh_config", config.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _code_block(language: str, containing: str) -> str:
    blocks: list[str] = re.findall(rf"\.\. code-block:: {language}\n\n((?:   .*\n|\s*\n)+)", REFERENCE)
    (block,) = [block for block in blocks if containing in block]
    return inspect.cleandoc("\n" + block)


@pytest.mark.parametrize("name", SIGNATURES)
def test_each_function_has_the_documented_arguments_in_the_documented_order(name: str) -> None:
    parameters = inspect.signature(getattr(main, name)).parameters
    assert list(parameters) == SIGNATURES[name].split()
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters.values())


def test_the_reference_describes_exactly_these_functions() -> None:
    documented = re.findall(r"\.\. py:function:: (\w+)\((.*?)\)", REFERENCE)
    assert {name: arguments.replace(",", "") for name, arguments in documented} == SIGNATURES


@pytest.mark.parametrize("kind", RETURNS, ids=lambda kind: kind.__name__)
def test_each_returned_tuple_has_the_documented_fields_in_order(kind: Any) -> None:
    assert issubclass(kind, tuple)
    assert list(kind._fields) == RETURNS[kind].split()


def test_the_returns_written_in_the_reference_are_the_fields_of_the_tuples() -> None:
    documented = re.findall(r"Returns: \((.*?)\)", REFERENCE)
    assert [fields.replace(",", "") for fields in documented] == [
        RETURNS[kind] for kind in (main.Data, main.TeacherTraining, main.DistillLoaders)
    ]


def test_the_functions_return_these_tuples(toy_run: ToyRun) -> None:
    returned: tuple[object, ...] = (toy_run.data, toy_run.teacher, toy_run.loaders, toy_run.students, toy_run.test)
    assert [type(value) for value in returned] == list(RETURNS)[:5]
    assert all(isinstance(result, main.Result) for result in toy_run.test)


@pytest.mark.usefixtures("toy")
def test_the_programmatic_example_runs_unchanged() -> None:
    names: dict[str, Any] = {}
    exec(_code_block("python", "from main import"), names)
    assert isinstance(names["teacher"], TeacherModel)
    assert isinstance(names["val_loader"], DataLoader)


def test_the_main_program_without_arguments_runs_the_steps_in_the_documented_order(
    toy: ModuleType, toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    results = (None, toy_run.data, toy_run.teacher, toy_run.loaders, toy_run.students, toy_run.test, None)

    def step(name: str, result: object) -> Callable[..., object]:
        signature = inspect.signature(getattr(main, name))
        return lambda *args, **kwargs: (signature.bind(*args, **kwargs), called.append(name), result)[2]  # type: ignore[func-returns-value]

    for name, result in zip(SIGNATURES, results, strict=True):
        monkeypatch.setattr(main, name, step(name, result))
    assert _code_block("bash", "main.py") == "python main.py"
    assert main._cli([]) == 0
    assert called == list(SIGNATURES)


def test_the_constants_have_their_documented_names_and_defaults() -> None:
    documented = {
        name: value.split("#")[0].strip()
        for name, value in re.findall(r"^([A-Z_]+) = (.*)$", _code_block("python", "ALPHA"), flags=re.MULTILINE)
    }
    assert list(documented) == ["DEVICE", "BATCH_SIZE", "TEST_SIZE", "RANDOM_STATE", "EPOCHS", "TEMPERATURE", "ALPHA"]
    fresh = vars(_fresh_config())
    assert {name: fresh[name] for name in documented} == {
        name: eval(value, {"torch": torch}) for name, value in documented.items()
    }


def test_the_run_is_full_size_and_writes_into_the_documented_folders_by_default() -> None:
    fresh = vars(_fresh_config())
    assert (fresh["LIMIT"], fresh["MODELS_DIR"], fresh["RESULTS_DIR"]) == (None, Path("models"), Path("results"))


def test_every_constant_has_a_help_text_of_its_own_or_of_kd_run(toy: ModuleType) -> None:
    hints = inspect.get_annotations(toy)
    constants = [name for name in vars(toy) if name.isupper()]
    assert sorted(constants) == sorted(hints)
    texts = {name: hints[name].__metadata__[0] for name in constants if hasattr(hints[name], "__metadata__")}
    assert set(texts) == {
        "STUDENT",
        "BFLOAT16",
        "MODELS_DIR",
        "RESULTS_DIR",
        "STATE_DIR",
    }  # kd run does not have these settings
    shared = help_texts(RunSettings)
    assert all(len(texts.get(name) or shared[name.lower()]) > 15 for name in constants)


@pytest.mark.usefixtures("toy")
def test_setting_epochs_takes_effect_and_train_teacher_saves_its_curves() -> None:
    config.EPOCHS, config.LIMIT = 1, 200
    train_loader, val_loader, *_ = main.load_and_split_data()
    _, *curves = main.train_teacher(train_loader, val_loader)
    assert [len(curve) for curve in curves] == [1, 1, 1, 1]
    written = [path for path in config.RESULTS_DIR.parent.rglob("*") if path.is_file()]
    assert written == [config.RESULTS_DIR / "plots" / "teacher_training.png"]


@pytest.mark.usefixtures("toy")
def test_setting_temperature_and_alpha_takes_effect(toy_run: ToyRun) -> None:
    config.EPOCHS, config.LEARNING_RATE = 1, 1e-12  # weights hardly change, so the loss terms can be compared
    soft = {}
    for temperature, alpha in ((5, 0.5), (5, 0.75), (2, 0.5)):
        config.TEMPERATURE, config.ALPHA = temperature, alpha
        *_, history = main.train_students(toy_run.teacher.model, *toy_run.data[:2], *toy_run.loaders)
        soft[temperature, alpha] = history["val_soft"][0]
        assert history["val_hard"][0] == pytest.approx(alpha * history["val_ce"][0])
    assert soft[5, 0.75] == pytest.approx(soft[5, 0.5] / 2)
    assert soft[2, 0.5] != pytest.approx(soft[5, 0.5], rel=1e-3)


@pytest.mark.usefixtures("toy")
def test_setting_batch_size_split_and_student_width_takes_effect() -> None:
    config.BATCH_SIZE, config.TEST_SIZE, config.STUDENT_WIDTH = 32, 0.25, 16
    data = main.load_and_split_data()
    assert [loader.batch_size for loader in data[:3]] == [32, 32, 32]
    assert (len(data.train_subset), len(data.val_subset)) == (225, 75)
    assert StudentModel().hidden.out_features == 16


@pytest.mark.usefixtures("toy")
def test_the_folders_are_created_and_may_exist_already() -> None:
    main.initialize_directories()
    main.initialize_directories()
    assert config.MODELS_DIR.is_dir()
    assert sorted(path.name for path in config.RESULTS_DIR.iterdir()) == ["metrics", "plots", "predictions"]


def test_histories_hold_one_entry_per_epoch_and_accuracies_are_shares(toy_run: ToyRun) -> None:
    histories = [toy_run.teacher.history, toy_run.students.regular_history, toy_run.students.distilled_history]
    for history in histories:
        assert {"train_loss", "val_loss", "train_acc", "val_acc"} <= set(history)
        assert {len(values) for values in history.values()} == {2}
        assert all(0 <= value <= 1 for split in ("train", "val") for value in history[f"{split}_acc"])
    assert histories[2]["train_loss"] == pytest.approx(
        [hard + soft for hard, soft in zip(histories[2]["train_hard"], histories[2]["train_soft"], strict=True)]
    )


def test_the_loaders_and_subsets_are_torchs_classes(toy_run: ToyRun) -> None:
    assert all(isinstance(value, DataLoader) for value in (*toy_run.data[:3], *toy_run.loaders))
    assert all(isinstance(value, Dataset) for value in toy_run.data[3:])
    assert all(isinstance(loader.dataset, kd.DistillDataset) for loader in toy_run.loaders)
    samplers = [type(loader.sampler) for loader in (*toy_run.data[:3], *toy_run.loaders)]
    assert samplers == [RandomSampler, SequentialSampler, SequentialSampler, RandomSampler, SequentialSampler]


def test_the_reference_names_only_files_that_a_run_writes(toy_run: ToyRun) -> None:
    documented = set(re.findall(r"``(\w+\.(?:pth|png))``", REFERENCE))
    assert len(documented) == 7
    assert documented <= {path.name for path in toy_run.folder.rglob("*")}


def test_a_run_writes_exactly_these_files(toy_run: ToyRun) -> None:
    files = (path.relative_to(toy_run.folder).as_posix() for path in toy_run.folder.rglob("*") if path.is_file())
    assert sorted(files) == sorted([*FILES, ".kd/report/run.json"])  # the last file is for reports of later commands


@pytest.mark.usefixtures("toy")
def test_the_plots_can_be_opened_and_have_the_red_stamp_of_a_quick_run(toy_run: ToyRun, tmp_path: Path) -> None:
    with figures(drawn=True):
        teacher, students = main.train_teacher(*toy_run.data[:2]), toy_run.students
        histories = main.TrainMetrics(teacher.history, students.regular_history, students.distilled_history)
        models = (toy_run.teacher.model, students.student_regular, students.student_distilled)
        main.save_and_visualize_results(*models, histories, toy_run.test, toy_run.data.test_loader)
    for name in (name for name in FILES if name.endswith(".png")):
        red, green, blue = imread(tmp_path / name)[:, :, :3].transpose(2, 0, 1)
        assert min(red.shape) > 200
        assert ((red > 0.75) & (green < 0.05) & (blue < 0.05)).sum() > 100, name


def test_every_table_and_record_has_the_stamp_of_a_quick_run(toy_run: ToyRun) -> None:
    for path in (toy_run.folder / name for name in FILES):
        if path.suffix == ".csv":
            assert {row["run"] for row in _rows(path)} == {"LIMIT=300"}
        if path.suffix == ".json":
            assert _json(path)["toy"] == "LIMIT=300"
        if path.suffix == ".html":
            assert "<strong>Quick run</strong> (the run: LIMIT=300)" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("index", range(3), ids=NAMES)
def test_a_saved_model_loads_safely_and_reproduces_the_manifest(toy_run: ToyRun, index: int) -> None:
    path = toy_run.folder / FILES[index]
    model = (TeacherModel if index == 0 else StudentModel)()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state)
    logits, labels = kd.predict(model, toy_run.data.test_loader)
    errors = int((logits.argmax(dim=1) != labels).sum())
    entry = _json(toy_run.folder / "models" / "manifest.json")["models"][path.name]
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry["shapes"] == {name: list(tensor.shape) for name, tensor in state.items()}
    assert entry["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert entry["test"]["errors"] == errors == toy_run.test[index].errors
    assert toy_run.test[index].accuracy == pytest.approx(1 - errors / len(labels))


def test_the_predictions_are_every_test_image_with_the_errors_reported(toy_run: ToyRun) -> None:
    rows = _rows(toy_run.folder / "results" / "predictions" / "test_predictions.csv")
    assert [int(row["index"]) for row in rows] == list(range(len(toy_run.data.test_dataset)))
    assert [int(row["label"]) for row in rows] == kd.load_mnist(train=False).labels.tolist()
    for name, result in zip(NAMES, toy_run.test, strict=True):
        assert sum(row[f"{name}_prediction"] != row["label"] for row in rows) == result.errors
        confidences = torch.tensor([float(row[f"{name}_confidence"]) for row in rows])
        torch.testing.assert_close(confidences, result.logits.softmax(dim=1).amax(dim=1), atol=1e-6, rtol=0)


def test_the_metrics_are_consistent_and_record_their_origin(toy_run: ToyRun) -> None:
    folder = toy_run.folder / "results" / "metrics"
    summary, table, curves = (
        _json(folder / "metrics.json"),
        _rows(folder / "test_metrics.csv"),
        _rows(folder / "curves.csv"),
    )
    assert {row["model"]: int(row["errors"]) for row in table} == {n: m["errors"] for n, m in summary["test"].items()}
    for name, result in zip(NAMES, toy_run.test, strict=True):
        matrix = torch.tensor(summary["confusion_matrices"][name])
        assert int(matrix.sum() - matrix.trace()) == result.errors
        assert summary["per_class_accuracy"][name] == pytest.approx((matrix.diag() / matrix.sum(dim=1)).tolist())
        losses = [float(row["train_loss"]) for row in curves if row["model"] == name]
        assert losses == summary["curves"][name]["train_loss"]
    recorded = summary["config"]
    assert set(recorded) == set(inspect.get_annotations(config)) - {"FRESH", "SNAPSHOT_SECONDS"}
    assert (recorded["LIMIT"], recorded["EPOCHS"], recorded["SEED"], recorded["ALPHA"]) == (300, 2, 0, 0.5)
    assert summary["environment"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(_json(folder / "timings.json")["training_seconds"]) == set(NAMES)
