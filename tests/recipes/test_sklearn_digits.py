"""The scikit-learn recipe: at toy size it runs from end to end; its pairs differ in the teacher and in nothing else."""

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


@pytest.mark.slow  # a process that imports everything anew
def test_at_toy_size_it_ends_with_a_verdict_on_each_table(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(RECIPE), "--quick"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    for table, rows in (("digits", 899), ("breast cancer", 285)):
        assert f"{table}: errors on {rows} test rows" in ran.stdout
    assert ran.stdout.count("unseen − control") == 2


def test_one_table_is_judged_by_errors_of_the_same_students(recipe: dict[str, Any]) -> None:
    settings = recipe["Settings"](quick=True).apply_quick()
    result = recipe["run_table"]("breast cancer", settings)
    assert all(set(chosen) == {"temperature", "alpha"} for chosen in result.chosen.values())
    by_heart, unseen, between = (judgement.pairs for judgement in result.verdicts.values())
    assert [pairs.images for pairs in (by_heart, unseen, between)] == [285] * 3
    assert by_heart.control == unseen.control
    assert by_heart.distilled == between.control
    assert unseen.distilled == between.distilled
    assert all(judgement.margin == pytest.approx(0.5 / 100 * 285) for judgement in result.verdicts.values())


def test_a_pair_differs_in_its_teacher_and_in_nothing_else(recipe: dict[str, Any]) -> None:
    settings = recipe["Settings"](quick=True).apply_quick()
    control, twin = (recipe["make_student"](teacher, settings, 3) for teacher in (None, DecisionTreeClassifier()))
    first, second = control.get_params(deep=False), twin.get_params(deep=False)
    assert {name for name in first if first[name] != second[name]} == {"teacher"}
