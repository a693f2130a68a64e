"""Recipe on scikit-learn: matched pairs, and a quick run from end to end."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sklearn.tree import DecisionTreeClassifier

import kd

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "sklearn_digits.py"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


@pytest.mark.slow  # starts a process with all imports
def test_a_quick_run_prints_a_verdict_for_each_dataset(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(RECIPE), "--quick"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    for table, rows in (("digits", 899), ("breast cancer", 285)):
        assert f"{table}: errors on {rows} test rows" in result.stdout
    assert result.stdout.count("out-of-fold − control") == 2


def test_all_verdicts_use_the_same_students(recipe: dict[str, Any]) -> None:
    settings = recipe["Settings"](quick=True).apply_quick()
    result = recipe["run_table"]("breast cancer", settings)
    assert all(set(chosen) == {"temperature", "alpha"} for chosen in result.chosen.values())
    in_sample, out_of_fold, between = (judgement.pairs for judgement in result.verdicts.values())
    assert [pairs.images for pairs in (in_sample, out_of_fold, between)] == [285] * 3
    assert in_sample.control == out_of_fold.control
    assert in_sample.distilled == between.control
    assert out_of_fold.distilled == between.distilled
    assert all(judgement.margin == pytest.approx(0.5 / 100 * 285) for judgement in result.verdicts.values())


def test_the_students_of_a_pair_differ_in_the_teacher_only(recipe: dict[str, Any]) -> None:
    settings = recipe["Settings"](quick=True).apply_quick()
    control, twin = (recipe["make_student"](teacher, settings, 3) for teacher in (None, DecisionTreeClassifier()))
    first, second = control.get_params(deep=False), twin.get_params(deep=False)
    assert {name for name in first if first[name] != second[name]} == {"teacher"}
