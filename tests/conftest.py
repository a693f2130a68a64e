"""Fixtures and hooks of all tests: quick runs, one thread per process, blank figures, and strict skips."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

# Tests run in one process per core (pytest-xdist), so every process uses one thread. torch reads the variable at
# import, so it must be set before the imports below.
os.environ["OMP_NUM_THREADS"] = "1"

import cloudpickle
import pytest
import torch
from hypothesis import settings
from torch import nn

import config
import kd
import main
from kd.training import students
from tests.cheap import figures, no_flushes, remove_small_mnist, short_timings, small_mnist

# Hypothesis uses the same examples in every clone, so failures are reproducible. HYPOTHESIS_SEARCH=1 draws new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("search" if os.environ.get("HYPOTHESIS_SEARCH") else "same")


def pytest_configure() -> None:
    """Give this process a cache of images of its own. Enable bytecode caches, so that child processes start faster."""
    gc.disable()  # until all tests are collected: imports leave little garbage, and a search for it visits all objects
    _keep_files_in_memory()
    os.environ["KD_CACHE_DIR"] = tempfile.mkdtemp(prefix="kd-cache-")  # removed at the end
    os.environ["KD_CONFIG_DIR"] = os.environ["KD_CACHE_DIR"]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def _keep_files_in_memory() -> None:
    """Create temporary files in memory, if there is room: some disks take milliseconds to delete a folder."""
    memory = Path("/dev/shm")  # on Linux
    if "TMPDIR" in os.environ or not memory.is_dir():
        return
    # Containers often forbid programs there, which some tests write and run.
    runs_programs = not os.statvfs(memory).f_flag & os.ST_NOEXEC
    if runs_programs and shutil.disk_usage(memory).free > 4 * 2**30:
        os.environ["TMPDIR"] = str(memory)
        tempfile.tempdir = None  # reads the variable again


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Leave modules and tests, which stay, out of later garbage collections, and collect less often than by default."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 10, 20)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files of this folder first: they run whole programs and would keep a single process busy at the end."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


def pytest_sessionfinish() -> None:
    remove_small_mnist()
    shutil.rmtree(os.environ["KD_CACHE_DIR"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Use blank figures, a small MNIST and short timings, unless marked ``pictures``, ``whole_mnist`` or ``timed``.

    Otherwise these, and flushing files to the disk, take most of the time of a quick run. Fixtures of all scopes are
    set up inside this hook.
    """
    marked = {mark.name for mark in item.iter_markers()}
    data = nullcontext() if "whole_mnist" in marked else small_mnist()
    times = nullcontext() if "timed" in marked else short_timings()
    with figures(drawn="pictures" in marked), no_flushes(), data, times:
        return (yield)


@pytest.fixture(autouse=True)
def _constants_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore all constants in ``config`` after each test."""
    for name, value in vars(config).items():
        if name.isupper():
            monkeypatch.setattr(config, name, value)


@pytest.fixture
def toy(tmp_path: Path) -> ModuleType:
    """Return ``config`` with settings for a quick run in the test's temporary folder."""
    _toy_size(tmp_path)
    return config


@pytest.fixture
def no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train students in this process instead of in a process pool, whose workers must import torch first.

    Objects that a pool would send to a worker are still pickled and unpickled.
    """

    def in_this_process(work: Any, shared: Any, items: Mapping[str, Any], **_: Any) -> Iterator[tuple[str, Any]]:
        work, shared = cloudpickle.loads(cloudpickle.dumps((work, shared)))
        for name, item in items.items():
            yield name, work(shared, cloudpickle.loads(cloudpickle.dumps(item)))

    monkeypatch.setattr(students, "run_in_pool", in_this_process)


class ToyRun(NamedTuple):
    folder: Path
    data: main.Data
    teacher: main.TeacherTraining
    loaders: main.DistillLoaders
    students: main.StudentTraining
    test: main.TestMetrics


@pytest.fixture(scope="session")
def toy_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """Run the seven documented functions once, quickly. Shared by all tests that only read the results.

    Figures are drawn if a test that uses this fixture is marked ``pictures``.
    """
    users = [item for item in request.session.items if "toy_run" in getattr(item, "fixturenames", ())]
    drawn = any(item.get_closest_marker("pictures") for item in users)
    with pytest.MonkeyPatch.context() as patch, figures(drawn=drawn), small_mnist():
        for name, value in vars(config).items():
            if name.isupper():
                patch.setattr(config, name, value)
        folder = tmp_path_factory.mktemp("toy_run")
        _toy_size(folder)
        main.initialize_directories()
        data = main.load_and_split_data()
        teacher = main.train_teacher(data.train_loader, data.val_loader)
        loaders = main.prepare_distillation_data(
            teacher.model, data.train_loader, data.val_loader, data.train_subset, data.val_subset
        )
        students = main.train_students(teacher.model, data.train_loader, data.val_loader, *loaders)
        models = (teacher.model, students.student_regular, students.student_distilled)
        test = main.evaluate_all_models(*models, data.test_loader)
        histories = main.TrainMetrics(teacher.history, students.regular_history, students.distilled_history)
        main.save_and_visualize_results(*models, histories, test, data.test_loader)
    return ToyRun(folder, data, teacher, loaders, students, test)


def _toy_size(folder: Path) -> None:
    config.LIMIT = 300
    config.EPOCHS = 2
    config.DEVICE = torch.device("cpu")
    config.MODELS_DIR = folder / "models"
    config.RESULTS_DIR = folder / "results"
    config.STATE_DIR = folder / ".kd"


CLASSES = 4


@pytest.fixture
def digits() -> kd.ImageDataset:
    """Return 96 random 1 × 6 × 6 images of 4 classes; the class is a brighter quadrant, which is easy to learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % CLASSES
    images = torch.randint(0, 100, (96, 1, 6, 6), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[0, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 100
    return kd.ImageDataset(images.to(torch.uint8), labels, mean=0.4, std=0.25)


def tiny_model(seed: int = 0, *, dropout: float = 0.0, batch_norm: bool = False) -> nn.Module:
    """Return a small network for the ``digits`` fixture."""
    with kd.seeded(seed):
        norm: list[nn.Module] = [nn.BatchNorm1d(16)] if batch_norm else []
        return nn.Sequential(
            nn.Flatten(), nn.Linear(36, 16), *norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES)
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn skips into failures if ``KD_NO_SKIPS`` is set, as in CI."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("KD_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which KD_NO_SKIPS does not allow: {call.excinfo and call.excinfo.value}"
    return report
