"""Recipe on Letter Recognition: matched pairs, data from an R file, and a reason if the data are missing."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kd

RECIPE = Path(kd.__file__).parent.parent / "recipes" / "letter_recognition.py"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def make_table(recipe: dict[str, Any], rows: int = 240) -> Any:
    """Return a table like the letters, of three classes."""
    rng = np.random.default_rng(0)
    labels = np.array(list("ABC"))[np.arange(rows) % 3]
    return recipe["Table"](np.round(rng.normal(5, 2, (rows, 16)) + 2 * (np.arange(rows) % 3)[:, None]), labels)


def quick(recipe: dict[str, Any], **changes: Any) -> Any:
    return recipe["Settings"](quick=True, **changes).apply_quick()


def test_a_missing_file_is_a_reason_to_skip(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["main"](quick(recipe, data=tmp_path / "none.rda"))
    assert "letter_recognition: skipped, there is no file" in capsys.readouterr().out


def test_an_r_file_is_read_and_the_split_is_fixed(recipe: dict[str, Any], tmp_path: Path) -> None:
    rdata, pd = pytest.importorskip("rdata"), pytest.importorskip("pandas")
    table = make_table(recipe)
    frame = pd.DataFrame(table.rows, columns=[f"x{k}" for k in range(16)])
    frame.insert(0, "lettr", pd.Categorical(table.labels))
    rdata.write_rda(tmp_path / "letters.rda", {"LetterRecognition": frame})
    loaded = recipe["load_letters"](tmp_path / "letters.rda")
    assert np.array_equal(loaded.rows, table.rows)
    assert loaded.labels.tolist() == table.labels.tolist()
    training, test = recipe["split_letters"](loaded)
    assert (len(training.labels), len(test.labels)) == (192, 48)
    assert recipe["split_letters"](loaded)[1].labels.tolist() == test.labels.tolist()


def test_the_students_of_a_pair_differ_in_the_teacher_only(recipe: dict[str, Any]) -> None:
    table = make_table(recipe)
    teacher = recipe["StoredTeacher"](table, np.eye(3)[np.arange(240) % 3])
    first, second = (recipe["make_students"](each, quick(recipe), 3) for each in (None, teacher))
    for name in ("network", "tree"):
        ours, theirs = first[name].get_params(deep=False), second[name].get_params(deep=False)
        changed = {key for key in ours if key != "student" and ours[key] is not theirs[key]}
        assert changed == {"teacher"}
        taught, alone = second[name].set_params(alpha=1).fit(*table), first[name].fit(*table)
        assert np.array_equal(taught.predict_proba(table.rows), alone.predict_proba(table.rows))


def test_a_quick_run_ends_with_a_verdict_for_each_student(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = quick(recipe)
    training, test = recipe["split_letters"](make_table(recipe))
    errors = [recipe["run_seed"](training, test, settings, seed) for seed in range(2)]
    assert set(errors[0]) == {
        "teacher",
        *(f"{name}, {arm}" for name in ("network", "tree") for arm in ("distilled", "control")),
    }
    recipe["report"](errors, 48, 0.5)
    out = capsys.readouterr().out
    assert "letters: errors on 48 test rows" in out
    assert "network: distilled − control" in out
    assert "tree: distilled − control" in out
