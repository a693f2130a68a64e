"""Distill gradient boosting into a small network and into a single decision tree, on 20,000 rows of letters.

    python recipes/letter_recognition.py           # 10 pairs of each student
    python recipes/letter_recognition.py --quick   # quick run, to try the script

Look at ``run_seed``: each seed draws its own training rows, since a tree has almost no randomness of its own. The
teacher, scikit-learn's ``HistGradientBoostingClassifier``, predicts every row out of fold. Both students learn from the
same predictions; their controls learn from the labels of the same rows with the same random state. The tree is fitted
on 26 weighted rows for each row of the data, one per class.

The data are Letter Recognition (Frey & Slate 1991) of the R package mlbench (GPL-2), which is not part of this
repository: ``apt install r-cran-mlbench`` and ``pip install 'paired-distillation[recipes]'``. Without them the recipe
is skipped.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tyro
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.tree import DecisionTreeClassifier

import kd
from kd.commands.trials import verdict_cells
from kd.console import print_table, say
from kd.evaluation.paired_seeds import pair_errors
from kd.evaluation.verdict import judge_counts

DATA = Path("/usr/lib/R/site-library/mlbench/data/LetterRecognition.rda")  # of Debian's r-cran-mlbench


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Gradient boosting distilled into a small network and into a single tree, on Letter Recognition."""

    data: Path = DATA
    """LetterRecognition.rda of the R package mlbench"""
    pairs: int = 10
    """pairs of each student, each on its own training rows"""
    rows: int = 12_000
    """training rows of a pair, drawn from the 16,000 that are not for testing"""
    units: int = 64
    """hidden units of the network"""
    epochs: int = 30
    """epochs of the network"""
    leaves: int = 512
    """leaves of the tree"""
    iterations: int = 50
    """iterations of the teacher, with a tree per letter in each"""
    folds: int = 3
    """number of folds, for the teacher's out-of-fold predictions"""
    temperature: float = 1.0
    """temperature of the distillation"""
    alpha: float = 0.5
    """weight of the labels"""
    margin: float = 0.5
    """equivalence margin in percentage points of the test rows"""
    quick: bool = False
    """quick run, too small to conclude anything from"""

    def apply_quick(self) -> Settings:
        """Return the settings of a quick run if ``--quick`` is given, else these settings."""
        quick: dict[str, Any] = {"pairs": 2, "rows": 600, "epochs": 2, "leaves": 32, "iterations": 2, "folds": 2}
        return dataclasses.replace(self, **quick) if self.quick else self


class Table(NamedTuple):
    """Rows [N, 16] of whole numbers from 0 to 15, and letters [N]."""

    rows: NDArray[np.float64]
    labels: NDArray[Any]

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Return some of the rows."""
        return Table(self.rows[rows], self.labels[rows])


class StoredTeacher(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A fitted classifier that returns stored probabilities [N, K] for the rows [N, F] they belong to."""

    def __init__(self, table: Table, probabilities: NDArray[np.float64]) -> None:
        self.table = table
        self.probabilities = probabilities
        self.classes_ = np.unique(table.labels)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any) -> StoredTeacher:
        raise NotImplementedError("stored probabilities belong to the rows that they were computed for")

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        assert np.array_equal(X, self.table.rows)
        return self.probabilities


def load_letters(path: Path) -> Table:
    """Return the table of an ``.rda`` file: a column ``lettr`` and 16 columns of numbers."""
    import rdata

    frame = rdata.read_rda(path, default_encoding="ascii")["LetterRecognition"]
    return Table(frame.drop(columns="lettr").to_numpy(np.float64), frame["lettr"].to_numpy(str))


def explain_missing(settings: Settings) -> str:
    """Return the reason why the recipe cannot run here, or "" if it can."""
    if not settings.data.is_file():
        return f"there is no file {settings.data}: apt install r-cran-mlbench, or --data"
    try:
        import rdata  # noqa: F401
    except ImportError:
        return "rdata is not installed: pip install 'paired-distillation[recipes]'"
    return ""


def split_letters(table: Table) -> tuple[Table, Table]:
    """Return 80 % of the rows for training and 20 % for testing, stratified by letter; always the same."""
    training, test = train_test_split(
        np.arange(len(table.labels)), test_size=0.2, stratify=table.labels, random_state=0
    )
    return table.take(training), table.take(test)


def make_students(teacher: Any, settings: Settings, seed: int) -> dict[str, kd.DistilledClassifier]:
    """Return the two students of a seed, by name; ``teacher=None`` makes their controls."""
    shared: dict[str, Any] = {"temperature": settings.temperature, "alpha": settings.alpha, "random_state": seed}
    tree = DecisionTreeClassifier(max_leaf_nodes=settings.leaves)
    return {
        "network": kd.DistilledClassifier(teacher, (settings.units,), epochs=settings.epochs, batch_size=64, **shared),
        "tree": kd.DistilledClassifier(teacher, tree, **shared),
    }


def run_seed(training: Table, test: Table, settings: Settings, seed: int) -> dict[str, int]:
    """Train teacher, students and controls on the rows of a seed, and return their test errors."""
    size = min(settings.rows, len(training.labels))
    chosen = np.random.default_rng(seed).permutation(len(training.labels))[:size]
    table = training.take(chosen)
    boosting = HistGradientBoostingClassifier(max_iter=settings.iterations, early_stopping=False, random_state=seed)
    probabilities = cross_val_predict(boosting, *table, cv=settings.folds, method="predict_proba")
    errors = {"teacher": count_errors(boosting.fit(*table), test)}
    for arm, teacher in (("distilled", StoredTeacher(table, probabilities)), ("control", None)):
        for name, student in make_students(teacher, settings, seed).items():
            errors[f"{name}, {arm}"] = count_errors(student.fit(*table), test)
    return errors


def count_errors(model: Any, test: Table) -> int:
    """Count the misclassified test rows."""
    return int(np.count_nonzero(model.predict(test.rows) != test.labels))


def report(errors: Sequence[Mapping[str, int]], test_rows: int, margin: float) -> None:
    """Print a verdict for each student, Holm-adjusted for both."""
    by_arm = {arm: [row[arm] for row in errors] for arm in errors[0]}
    names = ("network", "tree")
    pairs = {
        f"{n}: distilled − control": pair_errors(by_arm[f"{n}, control"], by_arm[f"{n}, distilled"], test_rows)
        for n in names
    }
    verdicts = judge_counts(pairs, margin=margin)
    header = ("pairs", "first", "second", "difference (interval that decides)", "verdict")
    rows = {name: verdict_cells(judgement) for name, judgement in verdicts.items()}
    print_table(f"letters: errors on {test_rows:,} test rows", header, rows)
    say(f"{len(errors)} pairs; errors of the teachers: {by_arm['teacher']}")


def main(settings: Settings) -> None:
    if reason := explain_missing(settings):
        say(f"letter_recognition: skipped, {reason}")
        return
    training, test = split_letters(load_letters(settings.data))
    errors = []
    for seed in range(settings.pairs):
        start = time.perf_counter()
        errors.append(run_seed(training, test, settings, seed))
        listed = ", ".join(f"{arm} {count}" for arm, count in errors[-1].items())
        say(f"seed {seed}: {listed} ({time.perf_counter() - start:.0f} s)")
    report(errors, len(test.labels), settings.margin)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__).apply_quick())
