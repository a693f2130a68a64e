"""Distill a scikit-learn forest into a network of 16 units: pairs of control and distilled student on two datasets.

    python recipes/sklearn_digits.py               # 20 pairs on digits, 20 on breast cancer
    python recipes/sklearn_digits.py --quick       # quick run, to try the script

Look at ``run_table``: it compares three kinds of student for each seed. The control has no teacher. "In-sample"
students learn from a forest that predicts its own training rows: it only returns their labels, smoothed by the
temperature. "Out-of-fold" students learn from predictions by cross-validation. Temperature and alpha are chosen for
each kind by cross-validation on the training half of the data. The other half is used once, for the verdicts. Results
are in docs/scikit_learn.md.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tyro
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import GridSearchCV, train_test_split

import kd
from kd.commands.trials import verdict_cells
from kd.console import print_table, say
from kd.evaluation.paired_seeds import pair_errors
from kd.evaluation.verdict import Judgement, judge_counts

TABLES: Mapping[str, Callable[..., Any]] = {"digits": load_digits, "breast cancer": load_breast_cancer}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A scikit-learn forest distilled into a small network, on digits and on breast cancer."""

    tables: tuple[str, ...] = tuple(TABLES)
    """datasets: digits, breast cancer"""
    split: int = 1
    """seed of the split into halves"""
    pairs: int = 20
    """students of each kind on each dataset"""
    units: int = 16
    """hidden units of the students"""
    trees: int = 100
    """trees of the teacher"""
    epochs: int = 100
    """epochs of every student"""
    margin: float = 0.5
    """equivalence margin in percentage points of the test rows"""
    temperatures: tuple[float, ...] = (1, 2, 4)
    """temperatures to choose from by cross-validation"""
    alphas: tuple[float, ...] = (0.1, 0.5)
    """weights of the labels to choose from: loss = alpha * CE + (1 - alpha) * T^2 * KL"""
    folds: int = 5
    """number of folds, for the choice of settings as well as for the teacher's out-of-fold predictions"""
    quick: bool = False
    """quick run, too small to conclude anything from"""

    def apply_quick(self) -> Settings:
        """Return the settings of a quick run if ``--quick`` is given, else these settings."""
        quick: dict[str, Any] = {
            "pairs": 2,
            "trees": 5,
            "epochs": 2,
            "temperatures": (1, 4),
            "alphas": (0.5,),
            "folds": 2,
        }
        return dataclasses.replace(self, **quick) if self.quick else self


class Halves(NamedTuple):
    """Rows and labels of the training half and of the test half, in the order of ``train_test_split``."""

    rows: NDArray[Any]
    test_rows: NDArray[Any]
    labels: NDArray[Any]
    test_labels: NDArray[Any]

    def errors(self, model: Any) -> int:
        """Count the misclassified test rows."""
        return int(np.count_nonzero(model.predict(self.test_rows) != self.test_labels))


class Outcome(NamedTuple):
    """Results on one dataset: chosen settings by kind of student, the teacher's test errors, verdicts by pair."""

    chosen: Mapping[str, Mapping[str, float]]
    teacher: int
    verdicts: Mapping[str, Judgement]


def run_table(table: str, settings: Settings) -> Outcome:
    """Choose settings on the training half, train the students, and test them on the other half."""
    rows, labels = TABLES[table](return_X_y=True)
    halves = Halves(*train_test_split(rows, labels, test_size=0.5, stratify=labels, random_state=settings.split))
    forest = ExtraTreesClassifier(settings.trees, random_state=0)  # a fixed seed, so every student gets the same forest
    kinds: dict[str, dict[str, Any]] = {"in-sample": {"cv": None}, "out-of-fold": {"cv": settings.folds}}
    chosen = {kind: choose_settings(forest, halves, settings, **options) for kind, options in kinds.items()}
    errors = {
        kind: count_errors_by_seed(forest, halves, settings, **options, **chosen[kind])
        for kind, options in kinds.items()
    }
    errors["control"] = count_errors_by_seed(None, halves, settings)
    teacher = halves.errors(forest.fit(halves.rows, halves.labels))
    comparisons = (("in-sample", "control"), ("out-of-fold", "control"), ("out-of-fold", "in-sample"))
    pairs = {f"{a} − {b}": pair_errors(errors[b], errors[a], len(halves.test_labels)) for a, b in comparisons}
    return Outcome(chosen, teacher, judge_counts(pairs, margin=settings.margin))


def make_student(teacher: Any, settings: Settings, seed: int, **changes: Any) -> kd.DistilledClassifier:
    """Make the student of a seed; initial weights and batches depend on the seed alone, not on the teacher."""
    return kd.DistilledClassifier(teacher, (settings.units,), epochs=settings.epochs, random_state=seed, **changes)


def choose_settings(forest: Any, halves: Halves, settings: Settings, **options: Any) -> dict[str, float]:
    """Choose temperature and alpha by cross-validation; the forest is refitted on each fold."""
    grid = {"temperature": settings.temperatures, "alpha": settings.alphas}
    search = GridSearchCV(make_student(forest, settings, seed=0, **options), grid, cv=settings.folds, refit=False)
    return dict(search.fit(halves.rows, halves.labels).best_params_)


def count_errors_by_seed(teacher: Any, halves: Halves, settings: Settings, **changes: Any) -> list[int]:
    """Train the students of one kind and return their test errors by seed."""
    students = (make_student(teacher, settings, seed, **changes) for seed in range(settings.pairs))
    return [halves.errors(student.fit(halves.rows, halves.labels)) for student in students]


def main(settings: Settings) -> None:
    for table in settings.tables:
        chosen, teacher, verdicts = run_table(table, settings)
        header = ("pairs", "first", "second", "difference (interval that decides)", "verdict")
        tested = verdicts["out-of-fold − control"].pairs
        assert tested is not None
        rows = tested.images
        print_table(
            f"{table}: errors on {rows} test rows", header, {name: verdict_cells(v) for name, v in verdicts.items()}
        )
        say(f"{settings.pairs} pairs; teacher: {teacher} errors; chosen settings: {chosen}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__).apply_quick())
