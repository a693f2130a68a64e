"""Parameters, rows and labels that ``DistilledClassifier`` refuses or warns about."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from torch import nn

import kd
from kd.models.networks import MLP
from tests.classifiers import LINEAR, X, make_classifier, y


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, r"temperature must be a finite number above 0\. Got 0 instead"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\]\. Got 1\.5 instead"),
        ({"alpha": 1.5, "teacher": None}, r"alpha must be in \[0, 1\]"),
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
        ({"epochs": 2.5}, r"epochs must be an integer of at least 1\. Got 2.5 instead"),
        ({"temperature": "4"}, r"temperature must be a finite number above 0\. Got '4' instead"),
        ({"student": (4.5,)}, r"widths of an MLP must be one or more integers above 0\. Got \(4.5,\) instead"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0"),
        ({"student": 64}, r"student must be hidden sizes such as \(64,\), or a function .*Got 64 instead"),
        (
            {"student": MLP(8, input_shape=(4,), classes=3)},
            "pass a function that builds a new network, not the network",
        ),
        ({"student": (0,)}, r"widths of an MLP must be one or more integers above 0\. Got \(0,\)"),
        (
            {"student": lambda features, classes: nn.Linear(features, 7)},
            r"must be of shape \[1, 3\], one logit per class\. Got \[1, 7\]",
        ),
        ({"device": "gpu"}, r"^device must be cpu, cuda, cuda:N or mps\. Got 'gpu' instead"),
        ({"device": "cuda:99"}, r"device must be a device of this machine\. Got 'cuda:99'"),
        ({"teacher": "forest"}, r"teacher must be None, a trained nn\.Module, or a classifier with predict_proba"),
    ],
)
def test_invalid_parameters_are_refused_at_fit(changes: dict[str, Any], message: str) -> None:
    model = kd.DistilledClassifier(**{"teacher": LINEAR, **changes})
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


@pytest.mark.parametrize("missing", [None, np.nan, "NA", 7])
@pytest.mark.parametrize("student", [(8,), LogisticRegression()])
def test_labels_that_are_no_text_among_text_are_refused(missing: Any, student: Any) -> None:
    missing = pytest.importorskip("pandas").NA if missing == "NA" else missing
    names = ["ham" if label else "spam" for label in y]
    names[3] = missing
    for labels in (names, np.array(names, dtype=object)):
        with pytest.raises(ValueError, match=r"y must be text in every row.*at index 3, and 1 of \d+ labels"):
            kd.DistilledClassifier(None, student=student).fit(X, labels)


@pytest.mark.parametrize("estimator", [kd.DistilledClassifier, kd.DistilledRegressor])
def test_labels_in_another_order_than_the_rows_are_reported(estimator: Any) -> None:
    pd = pytest.importorskip("pandas")
    frame, labels, model = pd.DataFrame(X), pd.Series(y), estimator(None, epochs=1)
    with pytest.warns(UserWarning, match=r"paired by position, not by index.*pass y\.loc\[X\.index\]"):
        model.fit(frame, labels.sample(frac=1, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (labels, labels.set_axis(range(1, len(y) + 1)), labels.tolist()):
            model.fit(frame, same)


@pytest.mark.parametrize("estimator", [kd.DistilledClassifier, kd.DistilledRegressor])
def test_masked_arrays_are_refused(estimator: Any) -> None:
    for rows, labels, name in ((np.ma.masked_less(X, X.mean()), y, "X"), (X, np.ma.masked_equal(y, 1), "y")):
        with pytest.raises(ValueError, match=f"{name} must be an array without masked values"):
            estimator(None, epochs=1).fit(rows, labels)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"y must be labels of at least 2 classes\. Got '1 class' instead"):
        make_classifier().fit(X[:50], y[:50])


def test_values_that_overflow_are_refused_and_no_class_is_predicted() -> None:
    model = kd.DistilledClassifier(None, epochs=1).fit(X, y)
    rows = X.copy()
    rows[3, 0] = 1e300
    with pytest.raises(
        ValueError, match=r"range of torch\.float32 once standardised.*1 of \d+ rows, the first at index 3"
    ):
        model.predict(rows)
