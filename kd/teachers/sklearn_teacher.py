"""Who may teach the student of a table: a scikit-learn classifier by its probabilities, a network by its logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_predict
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from kd.checks import require, require_finite_logits
from kd.data.datasets import ArrayDataset
from kd.teachers.cache import collect_logits

# A forest gives many classes a probability of exactly 0, whose logarithm no student can follow. Below this, to a
# teacher that counts leaves or neighbours, it is all "never seen".
FLOOR = 1e-6


def prepare_teacher(teacher: Any, X: Any, y: NDArray[Any], random: np.random.RandomState) -> Any:
    """The teacher, able to answer: itself where it is trained, else a clone that was fitted on X and y.

    Args:
        teacher: a classifier with ``predict_proba``, a trained ``nn.Module``, or None, which stays None.
        random: gives the clone a number for every ``random_state`` in it that is None.

    Raises:
        ValueError: it is nothing that could be asked for probabilities or logits.
    """
    if teacher is None or isinstance(teacher, nn.Module):
        return teacher
    allowed = "None, a trained nn.Module, or a classifier with predict_proba"
    advice = "one with only a decision_function can be wrapped in sklearn.calibration.CalibratedClassifierCV"
    require(hasattr(teacher, "predict_proba"), "teacher", teacher, allowed, advice)
    return teacher if _is_fitted(teacher) else _with_seeds(clone(teacher), random).fit(X, y)


def teacher_logits(teacher: Any, X: Any, rows: NDArray[np.float64], classes: NDArray[Any]) -> Tensor:
    """What the teacher says of each row: logits [N, K] float32, finite, with the columns in the order of ``classes``.

    A classifier's are the logarithms of its probabilities, none below log ``FLOOR``. Softened by a temperature T, they
    are its probabilities to the power of 1 / T.

    Args:
        X: the rows as the user gave them, which a classifier may know by the names of their columns.
        rows: [N, F], the same as numbers, for a network.

    Raises:
        ValueError: other classes than these, another shape, or numbers that are not finite.
    """
    if isinstance(teacher, nn.Module):
        logits = network_logits(teacher, torch.tensor(rows, dtype=torch.float32))
    else:
        columns = _columns(teacher, classes)
        logits = _logarithms(np.asarray(teacher.predict_proba(X), dtype=np.float64)[..., columns])
    wanted = [len(rows), len(classes)]
    require(list(logits.shape) == wanted, "the teacher's answers", list(logits.shape), f"{wanted}, a column per class")
    require_finite_logits(
        "the teacher's answers", logits, "Look for non-finite numbers in the teacher and in the rows."
    )
    return logits


def out_of_fold_logits(teacher: Any, X: Any, y: NDArray[Any], cv: Any) -> Tensor:
    """As ``teacher_logits``, but each row is answered for by a clone of the classifier that has not learned from it.

    Args:
        cv: how the rows are divided: a number of folds, or a splitter whose test folds make up all rows.
    """
    return _logarithms(cross_val_predict(clone(teacher), X, y, cv=cv, method="predict_proba"))


def network_logits(network: nn.Module, rows: Tensor) -> Tensor:
    """A network's answers [N, K] float32 to rows [N, F] float32, on the CPU; the network is left as it was."""
    return collect_logits(network, ArrayDataset(rows, torch.zeros(len(rows), dtype=torch.int64))).logits


def _logarithms(probabilities: NDArray[np.float64]) -> Tensor:
    return torch.tensor(np.log(probabilities.clip(min=FLOOR)), dtype=torch.float32)


def _columns(teacher: Any, classes: NDArray[Any]) -> list[int]:
    """Where the teacher has each of these classes among its own."""
    known, wanted = np.ravel(teacher.classes_).tolist(), classes.tolist()
    require(
        set(known) == set(wanted),
        "the classes of the teacher",
        known,
        f"those of y, {wanted}",
        "fit the teacher on rows of the same classes, or the student on those that the teacher knows",
    )
    return [known.index(label) for label in wanted]


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _with_seeds(estimator: Any, random: np.random.RandomState) -> Any:
    """The estimator, with a number for every ``random_state`` in it that is None; what the user has set stays."""
    unset = [name for name, value in sorted(estimator.get_params().items()) if value is None]
    seeds = {name: int(random.randint(2**31 - 1)) for name in unset if name.split("__")[-1] == "random_state"}
    return estimator.set_params(**seeds)
