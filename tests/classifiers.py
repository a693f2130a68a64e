"""Data and models for the tests of ``DistilledClassifier``."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn.datasets
from sklearn.linear_model import LogisticRegression
from torch import nn

import kd

X, y = sklearn.datasets.load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[y]
LINEAR = LogisticRegression(max_iter=1000)


def make_classifier(teacher: Any = None, student: Any = (8,), **changes: Any) -> kd.DistilledClassifier:
    """Return a small model that trains fast."""
    settings: dict[str, Any] = {"epochs": 5, "learning_rate": 0.02, "random_state": 0}
    return kd.DistilledClassifier(teacher, student, **(settings | changes))


def weights(model: kd.DistilledClassifier) -> bytes:
    return kd.weights_bytes(model.student_)


def teacher_network() -> nn.Module:
    """Return a network trained on the unscaled rows of iris."""
    return make_classifier(standardize=False, epochs=30).fit(X, y).student_
