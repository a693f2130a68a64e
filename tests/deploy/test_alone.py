"""``infer.py`` in an environment that holds numpy and onnxruntime with their own requirements, and nothing else."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from kd import cli

pytestmark = pytest.mark.slow
EXTRAS = ("onnx", "onnxscript", "onnxruntime")


def with_requirements(*names: str) -> dict[str, Distribution]:
    """Return the installed distributions of these names and of everything that they require, without extras."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found[name] = distribution(name)
        for requirement in found[name].requires or []:
            match = re.match(r"[\w.-]+", requirement)
            assert match
            # Of other systems and Python versions, only what is installed can be required here.
            if "extra ==" not in requirement and (";" not in requirement or is_installed(match[0])):
                waiting.append(match[0])
    return found


def is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def link_files(package: Distribution, site: Path) -> None:
    """Put the files of an installed distribution into another environment's site-packages, as links."""
    for file in package.files or []:
        if ".." not in file.parts:  # programs and manual pages
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(str(file.locate())))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of the environment."""
    for name in EXTRAS:
        pytest.importorskip(name, reason="needs the export extra")
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    for package in with_requirements("numpy", "onnxruntime").values():
        link_files(package, Path(paths["purelib"]))
    return Path(paths["scripts"]) / Path(sys.executable).name


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)


def test_only_numpy_and_onnxruntime_are_there(python: Path, tmp_path: Path) -> None:
    program = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    listed = run(python, "-I", "-c", program, cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert {"numpy", "onnxruntime"} < set(listed.stdout.split()) == set(with_requirements("numpy", "onnxruntime"))
    for name in ("torch", "kd", "onnx", "scipy"):
        failed = run(python, "-I", "-c", f"import {name}", cwd=tmp_path)
        assert f"No module named '{name}'" in failed.stderr


def test_its_answers_are_the_predictions_of_the_run(python: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(180) % 3
    x = (random.normal(size=(180, 6)) + 2 * np.eye(3, 6)[labels]).astype(np.float32)
    names = np.array(["ant", "bee", "c,at"])
    np.savez(
        tmp_path / "data.npz", x_train=x[60:], y_train=names[labels[60:]], x_test=x[:60], y_test=names[labels[:60]]
    )
    np.save(tmp_path / "inputs.npy", x[:60])
    out = tmp_path / "run"
    flags = ("--teacher", "mlp:8", "--student", "mlp:8", "--epochs", "2", "--device", "cpu")
    assert cli.main(["run", "--data", str(tmp_path / "data.npz"), "--out", str(out), *flags]) == 0
    assert cli.main(["export", "--out", str(out), "--formats", "onnx"]) == 0
    # From another folder, and moved: nothing in it may depend on where it was written.
    (out / "export").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    done = run(python, "-I", tmp_path / "moved" / "infer.py", tmp_path / "inputs.npy", cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    answers = [line.split("\t") for line in done.stdout.splitlines()]
    with (out / "results" / "predictions" / "test_predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [name for name, _ in answers] == [row["distilled_prediction_name"] for row in rows]
    expected = [float(row["distilled_confidence"]) for row in rows]
    assert [float(share) for _, share in answers] == pytest.approx(expected, abs=1e-4)
