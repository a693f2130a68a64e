"""scikit-learn students: classifiers fitted on weighted rows, one for each class of a soft label."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone, is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_array, check_consistent_length, column_or_1d, get_tags
from sklearn.utils.validation import has_fit_parameter, validate_data
from torch import Tensor, nn

from kd.checks import require
from kd.teachers.sklearn_teacher import set_random_states


def is_estimator(student: Any) -> bool:
    """Return whether the student is an instance of a scikit-learn estimator, or of a class with the same methods."""
    return hasattr(student, "fit") and not isinstance(student, (type, nn.Module))


def require_student(student: Any) -> None:
    """Raise unless the student is hidden sizes, a function that builds a network, or a classifier with weights.

    Raises:
        ValueError: names the student and the reason.
    """
    if is_estimator(student):
        _require_weighted_classifier(student)
        return
    is_class = isinstance(student, type) and hasattr(student, "fit")
    is_network = isinstance(student, nn.Module)
    advice = "pass an instance, not the class" if is_class else ""
    if is_network:
        advice = "fit must not modify its parameters, so pass a function that builds a new network, not the network"
    is_supported = isinstance(student, (tuple, list)) or (callable(student) and not is_class and not is_network)
    allowed = "hidden sizes such as (64,), or a function (features, classes) → nn.Module, or a scikit-learn classifier"
    require(is_supported, "student", student, allowed, advice)


def _require_weighted_classifier(student: Any) -> None:
    advice = "kd.DistilledRegressor takes regressors"
    require(is_classifier(student), "student", student, "a classifier if it is an estimator", advice)
    advice = (
        "a soft label becomes one weighted row per class. Trees, forests, boosting, linear models, naive Bayes and "
        "support vector machines take weights; of a pipeline, the last step must. Put a search around the distilled "
        "classifier, not inside"
    )
    allowed = "a classifier whose fit takes sample_weight"
    require(find_weight_argument(student) is not None, "student", student, allowed, advice)
    advice = (
        "copies of a row would be in both parts of a fold. Put a search around the distilled classifier, not inside"
    )
    settings = student.get_params() if hasattr(student, "get_params") else {}
    is_crossed = any(name.rpartition("__")[2] == "cv" for name in settings)
    require(not is_crossed, "student", student, "a classifier without inner cross-validation (cv)", advice)
    last = "__".join([*_last_steps(student), "class_weight"])
    for name, value in settings.items():
        if name.rpartition("__")[2] == "class_weight" and isinstance(value, str):
            advice = "copies of a row have all classes. Pass a dictionary of weights by class"
            is_balanced = name == last and value == "balanced"
            require(
                is_balanced, f"{name} of the student", value, "'balanced' of its last step, or a dictionary", advice
            )


def _last_steps(student: Any) -> list[str]:
    """Return the names of the last steps of a pipeline, and of pipelines in it; none for another estimator."""
    if not isinstance(student, Pipeline):
        return []
    name, last = student.steps[-1]
    return [name, *_last_steps(last)]


def find_weight_argument(student: Any) -> str | None:
    """Return the argument of ``fit`` for the weights of rows: ``sample_weight``, or for a pipeline its last step's.

    Returns None if the estimator takes no weights, or if it passes them to an inner ``estimator`` that takes none.
    """
    if isinstance(student, Pipeline):
        name, last = student.steps[-1]
        argument = find_weight_argument(last)
        return f"{name}__{argument}" if argument else None
    inner = getattr(student, "estimator", None)
    if is_estimator(inner) and find_weight_argument(inner) is None:
        return None
    return "sample_weight" if has_fit_parameter(student, "sample_weight") else None


def fit_on_soft_labels(
    student: Any,
    X: Any,
    classes: NDArray[Any],
    weights: NDArray[np.float64],
    random: np.random.RandomState,
    *,
    labels: NDArray[np.intp] | None = None,
) -> Any:
    """Return a clone of the classifier, fitted on a weighted copy of each row for each class of its soft label.

    Copies with weight 0 are left out. Rows keep their order, so one-hot weights give the rows themselves.

    Args:
        X: [N, F] rows in any form that scikit-learn takes.
        classes: [K] labels.
        weights: [N, K] soft labels, at least 0.
        random: seeds every ``random_state`` of the clone that is None.
        labels: [N] from 0, for ``class_weight="balanced"``: among the copies, all classes are equally frequent.
    """
    rows, columns = np.nonzero(weights)
    argument = find_weight_argument(student)
    assert argument is not None
    copies = _safe_indexing(X, rows)
    fitted = set_random_states(clone(student), random)
    setting = "__".join([*_last_steps(student), "class_weight"])
    if labels is not None and isinstance(fitted.get_params().get(setting), str):
        balanced = len(labels) / (len(classes) * np.bincount(labels, minlength=len(classes)))
        fitted.set_params(**{setting: dict(zip(classes.tolist(), balanced.tolist(), strict=True))})
    return fitted.fit(copies, classes[columns], **{argument: weights[rows, columns]})


def soft_labels(labels: NDArray[np.intp], logits: Tensor, *, temperature: float, alpha: float) -> NDArray[np.float64]:
    """Return ``alpha · one-hot label + (1 − alpha) · softmax(logits / T)``, [N, K]; each row sums to 1.

    Args:
        labels: [N] from 0.
        logits: [N, K] of the teacher.
    """
    softened = (logits.double() / temperature).softmax(dim=1).numpy()
    weights: NDArray[np.float64] = alpha * np.eye(logits.shape[1])[labels] + (1 - alpha) * softened
    return weights


def order_columns(
    probabilities: NDArray[np.float64], classes: NDArray[Any], order: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the columns of ``classes`` in the order of all classes; 0 for a class that the student never saw."""
    ordered = np.zeros((len(probabilities), len(order)))
    ordered[:, np.searchsorted(order, classes)] = probabilities
    return ordered


def check_rows(estimator: Any, X: Any, *, reset: bool = False) -> Any:
    """Record (``reset``) or check number and names of the columns of X.

    A data frame is returned unchanged: it may hold text and missing values, which a pipeline encodes. Anything else
    becomes an array, or stays a sparse matrix.
    """
    if hasattr(X, "columns"):
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        return X
    return validate_data(estimator, X, accept_sparse="csr", dtype=None, ensure_all_finite=False, reset=reset)


def as_array(rows: Any, *, numeric: bool) -> Any:
    """Return the rows of a data frame as an array; with ``numeric``, any rows as finite float64 [N, F]."""
    if numeric:
        return check_array(rows, dtype=np.float64)
    return np.asarray(rows) if hasattr(rows, "columns") else rows


def check_rows_and_targets(estimator: Any, X: Any, y: ArrayLike, *, dtype: Any = None) -> tuple[Any, NDArray[Any]]:
    """Return X as ``check_rows`` does, and targets y as an array [N]; both are checked for ``fit``.

    Args:
        dtype: of the targets; None keeps their own.

    Raises:
        ValueError: different numbers of rows, or targets of another shape or not finite.
    """
    require(y is not None, "y", y, "given", "requires y to be passed, but the target y is None")
    rows = check_rows(estimator, X, reset=True)
    targets = column_or_1d(check_array(y, ensure_2d=False, dtype=dtype, input_name="y"), warn=True)
    check_consistent_length(rows, targets)
    return rows, targets


def require_complete(X: Any, y: Any) -> None:
    """Check what scikit-learn would ignore or take for a class: masked values, and missing labels beside text.

    Raises:
        ValueError: a masked array, or labels of which some are text and others are not.
    """
    for name, values in (("X", X), ("y", y)):
        advice = "leave these rows out, or fill the values in"
        require(not np.ma.is_masked(values), name, "a masked array", "an array without masked values", advice)
    labels = np.asarray(y, dtype=None if hasattr(y, "dtype") else object)  # a list of text and NaN would become text
    if labels.dtype != object or labels.ndim != 1:
        return
    others = [row for row, label in enumerate(labels) if not isinstance(label, str)]
    if 0 < len(others) < len(labels):
        got = f"{labels[others[0]]!r} at index {others[0]}, and {len(others):,} of {len(labels):,} labels without text"
        raise ValueError(f"y must be text in every row if it is in one. Got {got}. Leave out the rows without a label.")


def warn_of_other_order(X: Any, y: Any) -> None:
    """Warn if a data frame and its labels have the same index in different orders: rows are paired by position."""
    rows: Any = getattr(X, "index", None)
    labels: Any = getattr(y, "index", None)
    are_indices = hasattr(rows, "equals") and hasattr(labels, "equals") and len(rows) == len(labels)
    if are_indices and not rows.equals(labels) and rows.symmetric_difference(labels).empty:
        warnings.warn(
            "the indices of X and y are equal but for their order. Rows are paired by position, not by index. To pair "
            "them by index, pass y.loc[X.index].",
            stacklevel=3,
        )


def copy_input_tags(tags: Any, *estimators: Any) -> None:
    """Set in ``tags`` whether missing values and sparse matrices are allowed: only if all of these estimators do."""
    inner = [get_tags(estimator).input_tags for estimator in estimators]
    tags.input_tags.allow_nan = all(each.allow_nan for each in inner)
    tags.input_tags.sparse = all(each.sparse for each in inner)
