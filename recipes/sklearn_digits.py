"""A scikit-learn forest teaches a network of 16 units: controls and distilled students in pairs, on two tables.

    python recipes/sklearn_digits.py               # 20 pairs on digits, 20 on breast cancer
    python recipes/sklearn_digits.py --quick       # at toy size, to try the script

Three kinds of student of each seed: the control; one whose teacher answers for rows it knows by heart, so that it only
repeats their labels, evenly smoothed by the temperature; and one whose teacher has not seen the rows it answers for.
Temperature and alpha are chosen for each kind by cross-validation on the half of the table that is for training. The
other half is for the verdicts, and is read once. docs/own_data.md has the outcome.
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
from kd.console import print_table, say
from kd.evaluation.paired_seeds import pair_errors
from kd.evaluation.verdict import Judgement, judge_all

TABLES: Mapping[str, Callable[..., Any]] = {"digits": load_digits, "breast cancer": load_breast_cancer}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A scikit-learn forest teaches a small network, on digits and on breast cancer."""

    tables: tuple[str, ...] = tuple(TABLES)
    """to learn from"""
    split: int = 1
    """seed of the division into halves"""
    pairs: int = 20
    """students of each kind, on each table"""
    units: int = 16
    """of the students' hidden layer"""
    trees: int = 100
    """of the teacher"""
    epochs: int = 100
    """of every student"""
    margin: float = 0.5
    """largest difference to be called none, in percentage points of the test rows"""
    temperatures: tuple[float, ...] = (1, 2, 4)
    """to choose from by cross-validation"""
    alphas: tuple[float, ...] = (0.1, 0.5)
    """to choose from, weights of the labels: loss = alpha * CE + (1 - alpha) * T^2 * KL"""
    folds: int = 5
    """of the cross-validation, and within it of the teacher where it is asked for rows that it has not seen"""
    quick: bool = False
    """toy size, which says nothing"""

    def sized(self) -> Settings:
        """These settings, or what ``--quick`` makes of them."""
        toy: dict[str, Any] = {
            "pairs": 2,
            "trees": 5,
            "epochs": 2,
            "temperatures": (1, 4),
            "alphas": (0.5,),
            "folds": 2,
        }
        return dataclasses.replace(self, **toy) if self.quick else self


class Halves(NamedTuple):
    """Rows and labels to train on, and to judge on."""

    rows: NDArray[Any]
    test_rows: NDArray[Any]
    labels: NDArray[Any]
    test_labels: NDArray[Any]

    def errors(self, model: Any) -> int:
        """Test rows that the model gets wrong."""
        return int(np.count_nonzero(model.predict(self.test_rows) != self.test_labels))


class Outcome(NamedTuple):
    """Of one table: what was chosen for each kind, the teacher's errors on the test rows, the verdicts on pairs."""

    chosen: Mapping[str, Mapping[str, float]]
    teacher: int
    verdicts: Mapping[str, Judgement]


def outcome(table: str, settings: Settings) -> Outcome:
    """Choose on the training half, train the students, and judge them on the other half."""
    rows, labels = TABLES[table](return_X_y=True)
    halves = Halves(*train_test_split(rows, labels, test_size=0.5, stratify=labels, random_state=settings.split))
    forest = ExtraTreesClassifier(settings.trees, random_state=0)  # so it is the same for each student that fits it
    kinds: dict[str, dict[str, Any]] = {"by heart": {"cv": None}, "unseen": {"cv": settings.folds}}
    chosen = {kind: choice(forest, halves, settings, **asked) for kind, asked in kinds.items()}
    errors = {kind: all_errors(forest, halves, settings, **asked, **chosen[kind]) for kind, asked in kinds.items()}
    errors["control"] = all_errors(None, halves, settings)
    teacher = halves.errors(forest.fit(halves.rows, halves.labels))
    against = (("by heart", "control"), ("unseen", "control"), ("unseen", "by heart"))
    pairs = {f"{a} − {b}": pair_errors(errors[b], errors[a], len(halves.test_labels)) for a, b in against}
    return Outcome(chosen, teacher, judge_all(pairs, margin=settings.margin))


def student(teacher: Any, settings: Settings, seed: int, **changes: Any) -> kd.DistilledClassifier:
    """The student of a seed: from the same weights and on the same batches with any teacher and with none."""
    return kd.DistilledClassifier(teacher, (settings.units,), epochs=settings.epochs, random_state=seed, **changes)


def choice(forest: Any, halves: Halves, settings: Settings, **asked: Any) -> dict[str, float]:
    """The temperature and alpha that do best in cross-validation; the forest is fitted anew on each fold."""
    grid = {"temperature": settings.temperatures, "alpha": settings.alphas}
    search = GridSearchCV(student(forest, settings, seed=0, **asked), grid, cv=settings.folds, refit=False)
    return dict(search.fit(halves.rows, halves.labels).best_params_)


def all_errors(teacher: Any, halves: Halves, settings: Settings, **changes: Any) -> list[int]:
    """The errors on the test rows of one kind of student, by seed."""
    students = (student(teacher, settings, seed, **changes) for seed in range(settings.pairs))
    return [halves.errors(each.fit(halves.rows, halves.labels)) for each in students]


def cells(judgement: Judgement) -> list[str]:
    """Errors of both as mean ± standard deviation, their difference, and the verdict."""
    pairs = judgement.pairs
    arms = [f"{arm.mean:.1f} ± {arm.sd or 0:.1f}" for arm in (pairs.distilled, pairs.control)]
    between = f"{pairs.interval.low:+.1f} to {pairs.interval.high:+.1f}" if pairs.interval else "no interval"
    verdict = judgement.verdict.replace("larger than d", f"larger than {judgement.margin:.1f} errors")
    return [*arms, f"{pairs.mean:+.1f} ({between})", verdict]


def main(settings: Settings) -> None:
    for table in settings.tables:
        chosen, teacher, verdicts = outcome(table, settings)
        header = ("pairs", "first", "second", "difference (95 %)", "verdict")
        rows = verdicts["unseen − control"].pairs.images
        print_table(f"{table}: errors on {rows} test rows", header, {name: cells(v) for name, v in verdicts.items()})
        say(f"{settings.pairs} pairs; the teacher has {teacher} errors. Chosen: {chosen}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__).sized())
