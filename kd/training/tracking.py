"""Curves of trainings in the files of TensorBoard, MLflow or Trackio, on this machine only.

A tracker never changes a training: if it fails, one warning is printed and nothing more is tracked. The files are
written anew by each command, from the histories. These hold all epochs, also of a training that is resumed or reused,
so no epoch is missing and none is there twice.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from torch.nn import functional as F

from kd.console import say
from kd.imports import MissingExtraError, import_extra
from kd.models.inference import Predictions
from kd.training.history import History


class Writer(Protocol):
    """Files of one tracker."""

    def write(self, training: str, epoch: int, numbers: Mapping[str, float]) -> None:
        """Write finite numbers of one training, measured after an epoch, counted from 1."""

    def close(self) -> None:
        """Write what is left."""


class _TensorBoard:
    """Event files, one folder per training. Written here and now: SummaryWriter's thread would hide a full disk."""

    def __init__(self, folder: Path) -> None:
        self._records = _import("tensorboard", "tensorboard.summary.writer.record_writer")
        self._events = _import("tensorboard", "tensorboard.compat.proto.event_pb2")
        self._summaries = _import("tensorboard", "tensorboard.compat.proto.summary_pb2")
        self._folder, self._files = folder, dict[str, Any]()

    def write(self, training: str, epoch: int, numbers: Mapping[str, float]) -> None:
        if training not in self._files:
            path = self._folder / training / f"events.out.tfevents.{time.time():.0f}.kd"
            path.parent.mkdir(parents=True)
            self._files[training] = path.open("wb")
            self._add(training, self._events.Event(wall_time=time.time(), file_version="brain.Event:2"))
        values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        summary = self._summaries.Summary(value=values)
        self._add(training, self._events.Event(wall_time=time.time(), step=epoch, summary=summary))

    def _add(self, training: str, event: Any) -> None:
        file = self._files[training]
        self._records.RecordWriter(file).write(event.SerializeToString())
        file.flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class _MLflow:
    """An SQLite file with one MLflow run per training."""

    def __init__(self, folder: Path) -> None:
        os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # of this process alone
        for name in ("mlflow", "alembic"):  # which announce each table that they create
            logging.getLogger(name).setLevel(logging.WARNING)
        client, self._entities = _import("mlflow", "mlflow.tracking"), _import("mlflow", "mlflow.entities")
        folder.mkdir(parents=True)
        store = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self._client = client.MlflowClient(tracking_uri=store, registry_uri=store)
        artifacts = (folder.resolve() / "artifacts").as_uri()
        self._experiment = self._client.create_experiment(folder.name, artifact_location=artifacts)
        self._runs: dict[str, str] = {}

    def write(self, training: str, epoch: int, numbers: Mapping[str, float]) -> None:
        if training not in self._runs:
            self._runs[training] = self._client.create_run(self._experiment, run_name=training).info.run_id
        now, allowed = int(time.time() * 1000), re.compile(r"[^\w\-. :/]", re.ASCII)
        metrics = [self._entities.Metric(allowed.sub("_", name), n, now, epoch) for name, n in numbers.items()]
        self._client.log_batch(self._runs[training], metrics=metrics)

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run)


class _Trackio:
    """Trackio's SQLite file. ``trackio.init`` asks the Hugging Face Hub for the user's name, and so is not called."""

    def __init__(self, folder: Path) -> None:
        storage = _import("trackio", "trackio.sqlite_storage")
        folder.mkdir(parents=True)
        storage.TRACKIO_DIR = folder.resolve()  # read from the environment when trackio was imported
        self._log, self._project = storage.SQLiteStorage.bulk_log, f"kd-{folder.name}"

    def write(self, training: str, epoch: int, numbers: Mapping[str, float]) -> None:
        self._log(project=self._project, run=training, metrics_list=[dict(numbers)], steps=[epoch])

    def close(self) -> None:
        """Do nothing: every call of ``write`` has written."""


_OPENED_BY: Mapping[str, str] = {  # {0}: the folder
    "tensorboard": "tensorboard --logdir {0}",
    "mlflow": "mlflow ui --backend-store-uri sqlite:///{0}/mlflow.db",
    "trackio": "TRACKIO_DIR={0} trackio show",
}
_WRITERS: Mapping[str, tuple[str, Callable[[Path], Writer]]] = {
    "tensorboard": ("tensorboard", _TensorBoard),
    "mlflow": ("mlflow", _MLflow),
    "trackio": ("trackio", _Trackio),
}


def _import(tracker: str, module: str) -> Any:
    return import_extra(module, library=tracker, name=tracker, needed_for=f"--track {tracker}")


class Tracker:
    """Writes each epoch of each training once, and stops at the first failure, with a warning.

    Args:
        name: ``tensorboard``, ``mlflow`` or ``trackio``.
        folder: replaced at the first epoch.

    Raises:
        MissingExtraError: the tracker's package is not installed.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._writer: Writer | None = None
        self._failed, self._epochs, self._tested = False, dict[str, int](), set[str]()
        with self._guarded():
            _import(name, _WRITERS[name][0])

    def record(self, training: str, history: History) -> None:
        """Write the epochs of a history that are not written yet."""
        with self._guarded():
            epochs = max(map(len, history.values()), default=0)
            for epoch in range(self._epochs.get(training, 0), epochs):
                self._write(training, epoch + 1, {k: v[epoch] for k, v in history.items() if len(v) == epochs})
                self._epochs[training] = epoch + 1

    def record_test(self, training: str, predictions: Predictions) -> None:
        """Write accuracy and cross-entropy on the test set, once, at the last epoch."""
        with self._guarded():
            if training not in self._tested:
                self._write(training, self._epochs.get(training, 0), _measure(predictions))
                self._tested.add(training)

    def close(self) -> None:
        with self._guarded():
            if self._writer is not None:
                self._writer.close()
                if not self._failed:
                    command = _OPENED_BY[self._name].format(shlex.quote(str(self._folder.resolve())))
                    say(f"curves of all trainings: {self._folder}; open them with {command}")

    def _write(self, training: str, epoch: int, numbers: Mapping[str, float]) -> None:
        if self._failed:
            return
        if self._writer is None:
            if self._folder.exists():
                shutil.rmtree(self._folder)
            self._writer = _WRITERS[self._name][1](self._folder)
        self._writer.write(training, epoch, {name: n for name, n in numbers.items() if math.isfinite(n)})

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn any failure of the tracker's package into one warning; its own warnings are not the user's."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except MissingExtraError:
            raise
        except Exception as error:  # other people's code, on a disk that may be full
            if not self._failed:
                reason = " ".join(str(error).split()) or "no reason given"
                say(
                    f"warning: --track {self._name} failed and is off ({type(error).__name__}: {reason}). "
                    f"Training continues. Run the same command again to write {self._folder} from the saved histories.",
                    to_stderr=True,
                )
            self._failed = True


def _measure(predictions: Predictions) -> dict[str, float]:
    labelled = predictions.labels >= 0
    logits, labels = predictions.logits[labelled].double(), predictions.labels[labelled]
    accuracy = float((logits.argmax(dim=1) == labels).double().mean())
    return {"test_acc": accuracy, "test_ce": float(F.cross_entropy(logits, labels))}


_current: ContextVar[Tracker | None] = ContextVar("the tracker of this process", default=None)


@contextmanager
def track(name: str | None, folder: Path) -> Iterator[None]:
    """Track all trainings of this process inside the block; None tracks nothing. Worker processes track nothing.

    Raises:
        MissingExtraError: the tracker's package is not installed.
    """
    tracker = Tracker(name, folder) if name else None
    token = _current.set(tracker)
    try:
        yield
    finally:
        _current.reset(token)
        if tracker:
            tracker.close()


def track_epochs(title: str, on_epoch: Callable[[int, History], None]) -> Callable[[int, History], None]:
    """Return a hook that calls ``on_epoch`` and then writes the epoch to the tracker, if there is one."""

    def and_track(done: int, history: History) -> None:
        on_epoch(done, history)
        track_training(title, history)

    return and_track


def track_training(title: str, history: History, test: Predictions | None = None) -> None:
    """Write the epochs of a training that are not written yet, and its test metrics if the model was tested."""
    if tracker := _current.get():
        tracker.record(title, history)
        if test is not None:
            tracker.record_test(title, test)


def track_test(title: str, test: Predictions) -> None:
    """Write the test metrics of a model, once."""
    if tracker := _current.get():
        tracker.record_test(title, test)
