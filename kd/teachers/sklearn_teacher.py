"""Logits of teachers for tabular data: scikit-learn classifiers, via their probabilities, and networks."""

from __future__ import annotations

import copy
import warnings
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
from kd.losses.logit_kind import require_logits_kind, require_probabilities
from kd.models.inference import Predictions, predict
from kd.teachers.cache import TEACHER_BATCH_SIZE
from kd.teachers.label_agreement import measure_agreement

# Lower bound of probabilities before the logarithm. Forests and nearest neighbours return many exact zeros; smaller
# positive values mean the same for teachers that count leaves or neighbours.
FLOOR = 1e-6
_CAUSES = (
    "It gets these rows unscaled: if it was fitted on scaled or encoded rows, put these steps in front of it, in a "
    "fitted pipeline or in the network"
)


def prepare_teacher(teacher: Any, X: Any, y: NDArray[Any], random: np.random.RandomState) -> Any:
    """Return the teacher if it is fitted, else a clone fitted on X and y; see ``fit_unfitted``.

    Args:
        teacher: classifier with ``predict_proba``, trained ``nn.Module``, or None, which is returned as is.

    Raises:
        ValueError: the teacher is none of these.
    """
    allowed = "None, a trained nn.Module, or a classifier with predict_proba"
    advice = "wrap a classifier with only a decision_function in sklearn.calibration.CalibratedClassifierCV"
    is_other = teacher is None or isinstance(teacher, nn.Module)
    require(is_other or hasattr(teacher, "predict_proba"), "teacher", teacher, allowed, advice)
    return fit_unfitted(teacher, X, y, random)


def fit_unfitted(teacher: Any, X: Any, y: NDArray[Any], random: np.random.RandomState) -> Any:
    """Return a clone fitted on X and y for an unfitted estimator; None, a network and a fitted estimator unchanged.

    Args:
        random: seeds every ``random_state`` of the clone that is None.
    """
    if teacher is None or isinstance(teacher, nn.Module) or is_fitted(teacher):
        return teacher
    return set_random_states(clone(teacher), random).fit(copy.deepcopy(X), y)


def teacher_logits(teacher: Any, X: Any, rows: NDArray[np.float64], classes: NDArray[Any]) -> Tensor:
    """Return the logits of the teacher, [N, K] float32, finite, with columns in the order of ``classes``.

    For a classifier, logits are the logarithms of its probabilities, clipped at ``FLOOR``. The softened probabilities
    at temperature T are then proportional to the probabilities raised to the power 1 / T.

    Args:
        X: rows in the form on which a classifier was fitted (``rows_as_fitted``), which may select columns by name. It
            gets a copy, because some classifiers change their input in place.
        rows: [N, F], the same rows as numbers, for a network.

    Raises:
        ValueError: the classes or the shape differ, or values are not finite.
    """
    if isinstance(teacher, nn.Module):
        logits = network_logits(teacher, torch.tensor(rows, dtype=torch.float64)).float()
        require_logits_kind("outputs of the teacher", logits)
    else:
        columns = _find_class_columns(teacher, classes)
        outputs = _in_order(teacher.predict_proba(copy.deepcopy(X)), np.ravel(teacher.classes_).tolist())
        logits = _take_logarithm(outputs, classes)[:, columns]
    shape = [rows.shape[0], len(classes)]  # a sparse matrix has no length
    require(
        list(logits.shape) == shape, "teacher logits", list(logits.shape), f"of shape {shape}, one column per class"
    )
    require_finite_logits("teacher logits", logits, "Check the teacher and the rows for non-finite numbers.")
    return logits


def warn_of_useless_logits(logits: Tensor, labels: NDArray[np.intp]) -> None:
    """Warn if a fitted teacher's logits [N, K] are right on no more of the labels [N] than by chance."""
    agreement = measure_agreement(Predictions(logits, torch.from_numpy(labels)))
    if agreement.at_chance:
        warnings.warn(
            f"the teacher is right on {agreement.accuracy:.1%} of {len(labels):,} rows, which is no better than chance "
            f"({agreement.chance:.1%} ± {agreement.spread:.1%}). {_CAUSES}. The columns of predict_proba must be in "
            "the order of classes_, and the outputs of a network in the order of the sorted labels.",
            stacklevel=2,
        )


def warn_of_useless_predictions(predictions: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
    """Warn if a fitted teacher's predictions [N] are clearly further from the targets [N] than their mean is."""
    error, variance = float(((predictions - targets) ** 2).mean()), float(targets.var())
    if error > 1.01 * variance > 0:
        warnings.warn(
            f"the teacher's predictions are further from y than the mean of y is: R² = {1 - error / variance:.3g} on "
            f"{len(targets):,} rows. {_CAUSES}.",
            stacklevel=2,
        )


def rows_as_fitted(teacher: Any, X: Any, rows: NDArray[np.float64]) -> Any:
    """Return the rows of a data frame in the form on which the classifier was fitted, if this is known.

    Args:
        teacher: a fitted classifier, or any other teacher.
        X: rows as passed by the user.
        rows: [N, F], the same rows as numbers, for a classifier that was fitted on an array.

    Returns:
        ``X`` with the columns of the classifier in their order, ``rows``, or ``X`` unchanged.
    """
    names = list(getattr(X, "columns", []))
    if not names or not all(isinstance(name, str) for name in names):
        return X  # scikit-learn records only names that are strings
    fitted = list(getattr(teacher, "feature_names_in_", []))
    if fitted:
        return X[fitted] if set(fitted) <= set(names) and fitted != names else X
    return rows if hasattr(teacher, "n_features_in_") else X


def out_of_fold_logits(teacher: Any, X: Any, y: NDArray[Any], cv: Any) -> Tensor:
    """Return out-of-fold logits: each row is predicted by a clone of the classifier that was fitted without it.

    Args:
        cv: number of folds, or a splitter whose test folds cover all rows.
    """
    probabilities = cross_val_predict(clone(teacher), X, y, cv=cv, method="predict_proba")
    return _take_logarithm(probabilities, np.unique(y))


def network_logits(network: nn.Module, rows: Tensor) -> Tensor:
    """Return the logits [N, K] of rows [N, F] on the CPU; the network does not change.

    The rows get the type of the network's first floating-point parameter, or float32.
    """
    types = (parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())
    inputs, labels = rows.to(next(types, torch.float32)), torch.zeros(len(rows), dtype=torch.int64)
    batches = zip(*(torch.split(values, TEACHER_BATCH_SIZE) for values in (inputs, labels)), strict=True)
    return predict(network, batches).logits


def _in_order(outputs: Any, classes: list[Any]) -> Any:
    """Return a data frame of probabilities whose columns are named by the classes in the order of these; others as is.

    Raises:
        ValueError: the columns are named by some of the classes, or by other ones too.
    """
    names = list(getattr(outputs, "columns", []))
    if not set(names) & set(classes) or names == list(range(len(names))):  # not named, at most numbered
        return outputs
    require(sorted(map(str, names)) == sorted(map(str, classes)), "columns of predict_proba", names, f"{classes}")
    return outputs[classes]


def _take_logarithm(outputs: Any, classes: NDArray[Any]) -> Tensor:
    """Return the logarithms of the outputs of ``predict_proba`` after checking that they are probabilities [N, K]."""
    name, allowed = (
        "predict_proba of the teacher",
        f"an array of probabilities [N, {len(classes)}], one column per class",
    )
    several = f"a list of {len(outputs)}" if isinstance(outputs, list) else ""  # scikit-learn's for several targets
    require(not several, name, several, allowed)
    try:
        probabilities = np.asarray(outputs, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # a sparse matrix, nested lists, a tensor with a gradient
        got = type(outputs).__name__
        raise ValueError(f"{name} must be {allowed}. Got a {got} instead, which is none: {error}") from error
    require(probabilities.shape[1:] == (len(classes),), name, list(probabilities.shape), allowed)
    require(bool(np.isfinite(probabilities).all()), name, "NaN or infinity", allowed)
    require_probabilities("predict_proba of the teacher", torch.from_numpy(np.ascontiguousarray(probabilities)))
    return torch.tensor(np.log(probabilities.clip(min=FLOOR)), dtype=torch.float32)


def _find_class_columns(teacher: Any, classes: NDArray[Any]) -> list[int]:
    """Return the column of the teacher for each class."""
    teacher_classes, labels = np.ravel(teacher.classes_).tolist(), classes.tolist()
    require(
        set(teacher_classes) == set(labels),
        "classes of the teacher",
        teacher_classes,
        f"the classes of y, {labels}",
        "fit teacher and student on rows of the same classes",
    )
    return [teacher_classes.index(label) for label in labels]


def is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def set_random_states(estimator: Any, random: np.random.RandomState) -> Any:
    """Set every ``random_state`` of an estimator that is None, nested ones included."""
    unset = [name for name, value in sorted(estimator.get_params().items()) if value is None]
    seeds = {name: int(random.randint(2**31 - 1)) for name in unset if name.split("__")[-1] == "random_state"}
    return estimator.set_params(**seeds)
