"""benchmarks/gpu.py works where only torch, numpy and scipy are installed, and its checks can fail."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import config
import kd
from kd.training.step_numbers import READ_EVERY, StepNumbers

ROOT = Path(config.__file__).parent
SCRIPT = ROOT / "benchmarks" / "gpu.py"
sys.path.insert(0, str(SCRIPT.parent))

import gpu  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_times  # noqa: E402

# Runs the script in sys.argv[2] as if the modules in sys.argv[1] were not installed, also for importlib's find_spec.
WITHOUT = """
import runpy, sys

class Finder:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in missing else self.finder.find_spec(name, *rest)

missing = set(sys.argv[1].split(","))
sys.meta_path[:] = map(Finder, sys.meta_path)
sys.argv = sys.argv[2:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
KEYS = {"machine", "parts", "left_out", "seconds"}


def module_names(requirements: list[str]) -> set[str]:
    imported_as = {"pillow": "PIL", "scikit-learn": "sklearn"}
    names = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements}  # type: ignore[index]
    return {imported_as.get(name, name.replace("-", "_")) for name in names}


def run_without(missing: set[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script in a process in which these modules are not installed."""
    command = [sys.executable, "-c", WITHOUT, ",".join(sorted(missing)), str(SCRIPT)]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.fixture(scope="module")
def declared() -> set[str]:
    """Return all packages of pyproject.toml but the three that the script may use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    names = module_names(requirements) - {"torch", "numpy", "scipy", "paired_distillation"}
    assert {"tyro", "PIL", "rich", "cloudpickle", "torchvision", "matplotlib", "sklearn"} <= names
    return names


@pytest.fixture
def setup() -> gpu_checks.Setup:
    data = kd.load_mnist(train=True)
    return gpu_checks.Setup(torch.device("cpu"), *gpu.stratified_split(data, held_back=0.1, seed=0, limit=600))


def test_the_defaults_are_the_pipelines() -> None:
    ours = ("BATCH_SIZE", "LEARNING_RATE", "TEMPERATURE", "ALPHA", "STUDENT_WIDTH")
    assert {name: getattr(gpu_checks, name) for name in ours} == {name: getattr(config, name) for name in ours}


def test_all_parts_fit_into_the_budget() -> None:
    assert sum(part.seconds for part in gpu.list_parts(torch.device("cpu"), toy=True).values()) <= 480


@pytest.mark.slow
def test_the_script_starts_without_other_packages_and_leaves_out_parts_that_do_not_fit(
    declared: set[str], tmp_path: Path
) -> None:
    out = tmp_path / "gpu.json"
    ended = run_without(declared, "--cpu", "--budget", "0", "--out", out)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report) == KEYS
    assert report["left_out"] == [*gpu.list_parts(torch.device("cpu"), toy=True)]
    assert ended.stdout.count("left out  ") == len(report["left_out"])


def test_without_cuda_the_error_names_the_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert "--cpu tests the script" in capsys.readouterr().err


@pytest.mark.slow
def test_every_part_succeeds_on_a_cpu(declared: set[str], tmp_path: Path) -> None:
    of_torch = module_names([r for r in importlib.metadata.requires("torch") or [] if "extra ==" not in r])
    out = tmp_path / "gpu.json"
    ended = run_without(declared - of_torch, "--cpu", "--out", out)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report) == KEYS
    assert report["left_out"] == []
    states = {name: part["ok"] for name, part in report["parts"].items()}
    assert [name for name, ok in states.items() if ok is None] == ["host syncs", "host syncs of methods"]
    assert all(ok is not False for ok in states.values())
    for name in ("student step", "teacher step"):
        figures = report["parts"][name]["figures"]
        assert figures["unavailable"]["CUDA graph, batches on the device"] == "needs CUDA"
        assert {"kd.fit", "kd.fit, reading at each step", gpu_times.BARE} <= set(figures["seconds_per_step"])
        assert all(seconds > 0 for seconds in figures["seconds_per_step"].values())
    assert len(report["parts"]["teacher logits"]["figures"]["images_per_second"]) == 2


def fail(*_: object) -> Any:
    raise RuntimeError("no kernel\nfor this device")


def test_a_part_that_raises_has_failed() -> None:
    ok, text, _ = gpu.run_part(gpu.Part(fail, 0))
    assert (ok, text) == (False, "RuntimeError: no kernel\nfor this device")


def test_a_method_that_fails_is_named(setup: gpu_checks.Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "METHODS", {name: gpu_checks.METHODS[name] for name in ("kd", "fitnet")})
    assert gpu_checks.check_methods(setup).ok
    monkeypatch.setattr("kd.methods.fitnet.hint_loss", fail)
    outcome = gpu_checks.check_methods(setup)
    assert outcome.ok is False
    assert "fitnet: RuntimeError: no kernel" in outcome.text
    assert "kd:" not in outcome.text


def test_a_method_whose_gradient_does_not_reach_the_student_fails(
    setup: gpu_checks.Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_checks, "METHODS", {"kd": gpu_checks.METHODS["kd"]})
    take_step = gpu_checks.take_method_step

    def without_gradients(*arguments: Any, **settings: Any) -> tuple[nn.Module, float]:
        student, loss = take_step(*arguments, **settings)
        student.zero_grad()
        return student, loss

    monkeypatch.setattr(gpu_checks, "take_method_step", without_gradients)
    assert "kd: no finite gradient" in gpu_checks.check_methods(setup).text


@pytest.mark.parametrize("check", [gpu_checks.check_default_pair, gpu_checks.check_resume])
def test_a_check_fails_if_two_runs_start_from_different_weights(
    setup: gpu_checks.Setup, monkeypatch: pytest.MonkeyPatch, check: Callable[..., gpu_checks.Outcome]
) -> None:
    assert check(setup).ok
    make_model, factors = gpu_checks.make_model, iter((1.0, 1.5, 2.0, 2.5))

    def scaled(*arguments: Any, **settings: Any) -> nn.Module:
        model, factor = make_model(*arguments, **settings), next(factors)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        return model

    monkeypatch.setattr(gpu_checks, "make_model", scaled)
    assert check(setup).ok is False


def test_a_deferred_read_that_lets_a_bad_step_through_fails(
    setup: gpu_checks.Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_checks.check_reading(setup).ok
    monkeypatch.setattr("kd.training.step.step_if_finite", lambda optimizer, _: optimizer.step())
    assert gpu_checks.check_reading(setup).ok is False


def test_bfloat16_without_autocast_fails(setup: gpu_checks.Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_checks.check_bfloat16(setup).ok
    monkeypatch.setattr(gpu_checks, "in_bfloat16", lambda objective: objective)
    assert gpu_checks.check_bfloat16(setup).ok is False


def test_synchronisations_are_counted_by_step(setup: gpu_checks.Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated on a CPU: each read of the numbers issues torch's warning."""
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda _: None)
    read = StepNumbers.read

    def read_with_warning(numbers: StepNumbers) -> None:
        if numbers._pending:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        read(numbers)

    monkeypatch.setattr(StepNumbers, "read", read_with_warning)
    loader, counts = gpu_times.make_loader(setup, steps=110, logits=True), {}
    for steps in (1, READ_EVERY):
        model = gpu_checks.make_model(setup.device, gpu_checks.make_student)
        with gpu_checks.reading_every(steps):
            counts[steps] = gpu_times.count_syncs(model, gpu_checks.DISTILLED, loader)
    assert counts[1] == [1] * 109
    assert [number for number, count in enumerate(counts[READ_EVERY], 2) if count] == [50, 100]
    assert gpu_times.judge_syncs(counts[READ_EVERY]).ok
    assert gpu_times.judge_syncs(counts[1]).figures["unexpected"] == [n for n in range(2, 111) if n not in (50, 100)]


def test_an_unavailable_variant_is_reported(setup: gpu_checks.Setup) -> None:
    variants = gpu_times.Variants(setup, gpu_checks.make_student, gpu_checks.DISTILLED, steps=2, logits=True)
    assert variants.try_out("compiled", fail) == {}
    assert variants.unavailable == {"compiled": "RuntimeError: no kernel"}
