"""``--track``: every epoch once, whether it was trained, resumed or reused; a tracker that fails harms nothing."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from kd import cli
from kd.data.datasets import ArrayDataset
from kd.data.loaders import make_loader
from kd.methods.objectives import supervised
from kd.models.build import build
from kd.models.inference import Predictions
from kd.storage.run_folder import open_run
from kd.training import run_steps, tracking
from kd.training.history import History

QUICK = ("--data", "sklearn:digits", "--teacher", "mlp:16", "--student-width", "8", "--epochs", "2")
Rows = dict[str, list[tuple[str, int, float]]]


def call(*arguments: str) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def read_events(folder: Path) -> Rows:
    """Return (tag, epoch, value) of each training, read by TensorBoard itself."""
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader", reason="needs the tensorboard extra"
    )
    rows: Rows = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = list(loader.LegacyEventFileLoader(str(file)).Load())
        rows[file.parent.name] = [(v.tag, event.step, v.simple_value) for event in events for v in event.summary.value]
    return rows


def read_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def test_tensorboard_reads_the_curves_and_test_metrics_of_the_results_also_when_all_steps_are_reused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
    out = ("--out", str(tmp_path))
    assert call("run", *QUICK, *out) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "models").iterdir()}
    assert not (tmp_path / "track").exists()
    assert call("run", *QUICK, *out, "--track", "tensorboard") == 0
    output = capsys.readouterr().out
    assert f"curves of all trainings: {tmp_path / 'track'}" in output
    assert "open them with tensorboard --logdir" in output
    assert "distilled: up to date, reused" in output
    expected: Rows = {}
    for row in read_csv(tmp_path / "results" / "metrics" / "curves.csv"):
        numbers = [(k, int(row["epoch"]), float(v)) for k, v in row.items() if k[:6] in ("train_", "val_ac") and v]
        expected.setdefault(row["model"], []).extend(numbers)
    events = read_events(tmp_path / "track" / "tensorboard" / "run")
    assert set(events) == set(expected) == {"teacher", "control", "distilled"}
    for training, rows in expected.items():
        read = {(tag, epoch): value for tag, epoch, value in events[training]}
        assert len(read) == len(events[training])  # nothing twice
        assert all(math.isclose(read[tag, epoch], value, rel_tol=1e-6) for tag, epoch, value in rows)
    table = read_csv(tmp_path / "results" / "metrics" / "test_metrics.csv")
    tested = {row["model"]: float(row["accuracy"]) for row in table}
    found = {name: [v for tag, _, v in rows if tag == "test_acc"] for name, rows in events.items()}
    assert {name: pytest.approx([accuracy], rel=1e-6) for name, accuracy in tested.items()} == found
    assert {path: path.read_bytes() for path in before} == before
    assert "TRACK" not in json.loads((tmp_path / "results" / "metrics" / "metrics.json").read_bytes())["config"]


class Recorder:
    """A writer that keeps what it is given; fails after ``limit`` writes."""

    rows: Rows
    limit = math.inf

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        type(self).rows = {}

    def write(self, training: str, epoch: int, numbers: dict[str, float]) -> None:
        if sum(map(len, self.rows.values())) >= self.limit:
            raise OSError(28, "No space left on device")
        self.rows.setdefault(training, []).extend((name, epoch, value) for name, value in numbers.items())

    def close(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """Use ``Recorder`` as the tracker ``tensorboard``; its package is the standard library."""
    monkeypatch.setattr(tracking, "_WRITERS", {"tensorboard": ("json", Recorder)})
    monkeypatch.setattr(Recorder, "rows", {}, raising=False)
    monkeypatch.setattr(Recorder, "limit", math.inf)
    return Recorder


def train(title: str = "student", epochs: int = 4) -> dict[str, Any]:
    data = ArrayDataset(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2)
    loaders = make_loader(data, batch_size=8, shuffle=True), make_loader(data, batch_size=8)
    model = build("mlp:4", input_shape=(3,), classes=2, seed=0)
    run_steps.train_with_adam(title, model, supervised, *loaders, learning_rate=0.01, epochs=epochs, seed=0)
    return model.state_dict()


def epochs_of(rows: Rows, training: str = "student") -> list[int]:
    return [epoch for tag, epoch, _ in rows[training] if tag == "train_loss"]


def test_a_resumed_training_is_written_whole_and_once(
    tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_after_two(*_: object) -> Any:
        def hook(done: int, _: History) -> None:
            if done == 3:
                raise KeyboardInterrupt

        return hook

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(run_steps, "print_epoch", stop_after_two)
        with tracking.track("tensorboard", tmp_path / "t"), open_run(tmp_path / "kd", interval=0):
            train()
    assert epochs_of(recorder.rows) == [1, 2]
    with tracking.track("tensorboard", tmp_path / "t"), open_run(tmp_path / "kd", interval=0):
        train()
    assert epochs_of(recorder.rows) == [1, 2, 3, 4]


@pytest.mark.parametrize("limit", [0, 5])
def test_a_tracker_that_fails_gives_one_warning_and_the_same_weights(
    limit: int, tmp_path: Path, recorder: type[Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = train()
    recorder.limit = limit
    capsys.readouterr()
    with tracking.track("tensorboard", tmp_path / "t"):
        weights = train()
        train("another")
        tracking.track_test("another", Predictions(torch.eye(2), torch.arange(2)))
    captured = capsys.readouterr()
    assert captured.err.count("warning:") == captured.err.count("No space left on device") == 1
    assert "--track tensorboard failed and is off" in captured.err
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_a_folder_that_cannot_be_replaced_is_a_failure_like_any_other(
    tmp_path: Path, recorder: type[Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    (tmp_path / "t").symlink_to(tmp_path / "elsewhere")
    with tracking.track("tensorboard", tmp_path / "t"):
        train()
    assert "warning: --track tensorboard failed" in capsys.readouterr().err
    assert (tmp_path / "elsewhere" / "precious").exists()


def test_numbers_that_are_not_finite_are_left_out_and_the_test_is_written_once(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    predictions = Predictions(torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), torch.tensor([0, 0, -1]))
    with tracking.track("tensorboard", tmp_path / "t"):
        history = History({"train_loss": [1.0, 0.5], "val_acc": [math.nan, 0.5]})
        for _ in range(2):
            tracking.track_training("a", history, predictions)
    names = [(tag, epoch) for tag, epoch, _ in recorder.rows["a"]]
    assert names == [("train_loss", 1), ("train_loss", 2), ("val_acc", 2), ("test_acc", 2), ("test_ce", 2)]
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    assert [value for *_, value in recorder.rows["a"]][3:] == pytest.approx([0.5, expected])


def test_without_a_tracker_nothing_is_written(tmp_path: Path, recorder: type[Recorder]) -> None:
    with tracking.track(None, tmp_path / "t"):
        train()
    assert not recorder.rows
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio"])
def test_a_missing_package_is_named_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "out"
    assert call("run", *QUICK, "--out", str(out), "--track", name) == 1
    text = f"--track {name} needs {name}, which is not installed: pip install 'paired-distillation[{name}]'"
    assert text in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


def test_mlflow_gets_a_local_store_allowed_names_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Client:
        def __init__(self, tracking_uri: str, registry_uri: str) -> None:
            calls.append(("client", tracking_uri, registry_uri))

        def create_experiment(self, name: str, artifact_location: str) -> str:
            calls.append(("experiment", name, artifact_location))
            return "1"

        def create_run(self, experiment: str, run_name: str) -> Any:
            return SimpleNamespace(info=SimpleNamespace(run_id=f"id of {run_name}"))

        def log_batch(self, run: str, metrics: list[Any]) -> None:
            calls.extend((run, *metric) for metric in metrics)

        def set_terminated(self, run: str) -> None:
            calls.append(("end", run))

    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=Client))
    entities = SimpleNamespace(Metric=lambda name, value, time, step: (name, value, step))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "false")
    with tracking.track("mlflow", tmp_path / "run"):
        for curve in ([0.5], [0.5, 0.25]):
            tracking.track_training("control", History({"train_α·kd": curve}))
    assert calls[0] == ("client", *[f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}"] * 2)
    assert calls[1][2].startswith("file://")
    assert calls[2:] == [
        ("id of control", "train___kd", 0.5, 1),
        ("id of control", "train___kd", 0.25, 2),
        ("end", "id of control"),
    ]
    assert tracking.os.environ["MLFLOW_DISABLE_TELEMETRY"] == tracking.os.environ["DO_NOT_TRACK"] == "true"


def test_trackio_writes_its_local_store_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []
    storage = SimpleNamespace(TRACKIO_DIR=None, SQLiteStorage=SimpleNamespace(bulk_log=lambda **o: logged.append(o)))
    monkeypatch.setitem(sys.modules, "trackio", ModuleType("trackio"))
    monkeypatch.setitem(sys.modules, "trackio.sqlite_storage", storage)
    with tracking.track("trackio", tmp_path / "run"):
        tracking.track_training("control", History({"train_loss": [0.5, 0.25]}))
    assert tmp_path / "run" == storage.TRACKIO_DIR
    assert [(o["project"], o["run"], o["metrics_list"], o["steps"]) for o in logged] == [
        ("kd-run", "control", [{"train_loss": 0.5}], [1]),
        ("kd-run", "control", [{"train_loss": 0.25}], [2]),
    ]


@pytest.mark.slow
def test_students_of_worker_processes_are_written_by_the_command(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
    flags = ("--pairs", "2", "--smoothing", "0.1", "--no-longer", "--processes", "2", "--out", str(tmp_path))
    assert call("compare", *QUICK, *flags, "--track", "tensorboard") == 0
    events = read_events(tmp_path / "track" / "tensorboard" / "compare")
    arms = ("control", "distilled", "smoothed")
    students = {name for name in events if name.startswith(arms)}
    assert len(students) == 6
    assert {"teacher"} == set(events) - students
    for rows in events.values():
        assert [epoch for tag, epoch, _ in rows if tag == "train_loss"] == [1, 2]
        assert [epoch for tag, epoch, _ in rows if tag == "test_acc"] == [2]
