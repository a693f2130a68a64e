"""Teachers for tabular data: fitting, order of columns, and invalid teachers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from kd.teachers.sklearn_teacher import FLOOR, network_logits, out_of_fold_logits, prepare_teacher, teacher_logits

X, y = load_iris(return_X_y=True)
CLASSES = np.array([0, 1, 2])


def generator() -> np.random.RandomState:
    return np.random.RandomState(0)


class Reversed(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression with its classes in reverse order; scikit-learn always sorts them."""

    def fit(self, X: Any, y: Any) -> Reversed:
        self.model_ = LogisticRegression(max_iter=1000).fit(X, y)
        self.classes_ = self.model_.classes_[::-1]
        return self

    def predict_proba(self, X: Any) -> Any:
        return self.model_.predict_proba(X)[:, ::-1]


def test_an_unfitted_classifier_is_cloned_and_the_clone_fitted() -> None:
    teacher = KNeighborsClassifier()
    fitted = prepare_teacher(teacher, X, y, generator())
    assert fitted is not teacher
    assert not hasattr(teacher, "classes_")
    assert fitted.score(X, y) > 0.95


@pytest.mark.parametrize("wrap", [lambda fitted: fitted, FrozenEstimator, lambda fitted: make_pipeline(fitted)])
def test_a_fitted_classifier_is_used_unchanged(wrap: Any) -> None:
    teacher = wrap(KNeighborsClassifier().fit(X[::2], y[::2]))
    assert prepare_teacher(teacher, X, y, generator()) is teacher


def test_a_network_and_none_are_returned_unchanged() -> None:
    network = nn.Linear(4, 3)
    assert prepare_teacher(network, X, y, generator()) is network
    assert prepare_teacher(None, X, y, generator()) is None


def test_only_random_states_that_are_none_are_set() -> None:
    forest = RandomForestClassifier(2)
    pipeline = make_pipeline(StandardScaler(), CalibratedClassifierCV(forest, cv=2))
    first, second = (prepare_teacher(pipeline, X, y, generator()) for _ in range(2))
    name = "calibratedclassifiercv__estimator__random_state"
    assert first.get_params()[name] == second.get_params()[name] is not None
    assert np.array_equal(first.predict_proba(X), second.predict_proba(X))
    assert forest.random_state is None
    assert prepare_teacher(forest.set_params(random_state=5), X, y, generator()).random_state == 5


def test_logits_are_clipped_log_probabilities() -> None:
    teacher = RandomForestClassifier(5, random_state=0).fit(X, y)
    probabilities = teacher.predict_proba(X)
    assert (probabilities == 0).any()
    with warnings.catch_warnings(action="error"):
        logits = teacher_logits(teacher, X, X, CLASSES)
    assert logits.dtype == torch.float32
    assert logits.exp().numpy() == pytest.approx(np.maximum(probabilities, FLOOR), rel=1e-5)


def test_out_of_fold_logits_come_from_clones_fitted_without_the_row() -> None:
    teacher = ExtraTreesClassifier(20, random_state=0).fit(X, y)
    fitted_on_all, unseen = teacher_logits(teacher, X, X, CLASSES), out_of_fold_logits(teacher, X, y, 3)
    expected = np.empty((150, 3))
    for train, test in StratifiedKFold(3).split(X, y):
        expected[test] = clone(teacher).fit(X[train], y[train]).predict_proba(X[test])
    assert np.array_equal(fitted_on_all.exp().numpy().round(3), np.eye(3)[y])  # equal to the labels
    assert unseen.exp().numpy() == pytest.approx(np.maximum(expected, FLOOR), rel=1e-5)
    assert ((expected > 0.05) & (expected < 0.95)).any(axis=1).sum() > 10


def test_columns_follow_the_order_of_the_classes() -> None:
    teacher = Reversed().fit(X, y)
    assert teacher.classes_.tolist() == [2, 1, 0]
    logits = teacher_logits(teacher, X, X, CLASSES)
    assert torch.equal(logits, teacher_logits(teacher.model_, X, X, CLASSES))
    assert (logits.argmax(dim=1).numpy() == y).mean() > 0.95


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([0, 1, 2, 3]), np.array(["0", "1", "2"])])
def test_other_classes_raise(labels: Any) -> None:
    teacher = LogisticRegression(max_iter=1000).fit(X, y)
    with pytest.raises(
        ValueError, match=r"classes of the teacher must be the classes of y, \[.*\]\. Got \[0, 1, 2\] instead"
    ):
        teacher_logits(teacher, X, X, labels)


def test_a_classifier_without_probabilities_raises_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"teacher must be .* with predict_proba\. Got LinearSVC\(\) .*Calibrated"):
        prepare_teacher(LinearSVC(), X, y, generator())
    fitted = prepare_teacher(CalibratedClassifierCV(LinearSVC()), X, y, generator())
    assert teacher_logits(fitted, X, X, CLASSES).shape == (150, 3)


def test_a_network_runs_in_eval_mode_and_does_not_change() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    before = [tensor.clone() for tensor in network.state_dict().values()]
    logits = teacher_logits(network, X, X, CLASSES)
    with torch.no_grad():
        expected = network[0](torch.tensor(X, dtype=torch.float32))
    assert torch.allclose(logits, expected)
    assert all(module.training for module in network.modules())
    assert all(map(torch.equal, before, network.state_dict().values()))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(4, 2), r"teacher logits must be of shape \[150, 3\], one column per class\. Got \[150, 2\] instead"),
        (
            nn.Sequential(nn.Linear(4, 3), nn.Threshold(1e9, float("nan"))),
            "Got NaN or infinity in 150 of 150 rows, the first at row 0",
        ),
    ],
)
def test_network_logits_with_wrong_shape_or_nan_raise(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        teacher_logits(network, X, X, CLASSES)


def test_network_logits_follow_the_order_of_the_rows() -> None:
    rows = torch.arange(1200.0).reshape(600, 2)
    assert torch.equal(network_logits(nn.Identity(), rows), rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: np.log(p), "must be probabilities, at least 0 and with sum 1.*negative values are logits"),
        (lambda p: 100 * p, "must be probabilities.*shares of 100, divide each row by its sum"),
        (lambda p: p[:, :1], r"must be an array of probabilities \[N, 3\].*Got \[90, 1\]"),
        (lambda p: p[:, 0], r"must be an array of probabilities \[N, 3\].*Got \[90\]"),
        (lambda p: [p, p, p], "must be an array of probabilities.*Got .a list of 3"),
        (lambda p: p * np.nan, "NaN or infinity"),
        (lambda p: scipy.sparse.csr_matrix(p), "must be an array of probabilities.*Got a csr_matrix"),
        (lambda p: torch.tensor(p, requires_grad=True), "must be an array of probabilities.*Got a Tensor"),
        (lambda p: (p[0], p[0][:2]), "must be an array of probabilities.*Got a tuple"),
        (lambda p: None, r"must be an array of probabilities.*Got \[\]"),
    ],
)
def test_predict_proba_that_returns_no_probabilities_raises(change: Any, message: str) -> None:
    class Teacher:
        classes_ = np.arange(3)

        def predict_proba(self, X: Any) -> Any:
            return change(np.full((len(X), 3), 1 / 3))

    rows = np.zeros((90, 2))
    with pytest.raises(ValueError, match=message):
        teacher_logits(Teacher(), rows, rows, np.arange(3))


@pytest.mark.parametrize("fitted", [False, True])
def test_a_classifier_that_works_in_place_does_not_change_the_rows(fitted: bool) -> None:
    teacher = make_pipeline(StandardScaler(copy=False), LogisticRegression())
    rows = X.copy()
    prepared = prepare_teacher(teacher.fit(X.copy(), y) if fitted else teacher, rows, y, generator())
    first = teacher_logits(prepared, rows, rows, CLASSES)
    assert np.array_equal(rows, X)
    assert torch.equal(teacher_logits(prepared, rows, rows, CLASSES), first)
