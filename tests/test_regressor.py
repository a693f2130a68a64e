"""``kd.DistilledRegressor``: soft targets, the matched control, networks and scikit-learn students."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

import kd

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
y = 1000 + 50 * np.sin(2 * X[:, 0]) + 20 * X[:, 1] + RNG.normal(0, 5, 120)
TREE = DecisionTreeRegressor(max_leaf_nodes=6)


def linear(features: int) -> nn.Module:
    return nn.Linear(features, 1)


def distil(teacher: Any = None, student: Any = (8,), **changes: Any) -> kd.DistilledRegressor:
    return kd.DistilledRegressor(teacher, student, **{"random_state": 0, "epochs": 10, **changes})


def frozen_forest() -> Any:
    return FrozenEstimator(RandomForestRegressor(5, random_state=0).fit(X, y))


@pytest.mark.parametrize("student", [(8,), linear, TREE, KNeighborsRegressor(), RandomForestRegressor(3)])
def test_with_alpha_1_it_is_the_control_bit_for_bit(student: Any) -> None:
    control = distil(None, student).fit(X, y).predict(X)
    for teacher in (frozen_forest(), DecisionTreeRegressor()):
        assert np.array_equal(distil(teacher, student, alpha=1).fit(X, y).predict(X), control)
    assert not np.array_equal(distil(frozen_forest(), student, alpha=0.5).fit(X, y).predict(X), control)


def test_an_estimator_is_fitted_to_the_mean_of_targets_and_predictions() -> None:
    teacher = frozen_forest()
    model = distil(teacher, TREE, alpha=0.3).fit(X, y)
    expected = DecisionTreeRegressor(max_leaf_nodes=6, random_state=model.student_.random_state)
    expected.fit(X, 0.3 * y + 0.7 * teacher.predict(X))
    assert np.array_equal(model.predict(X), expected.predict(X))


def test_soft_targets_equal_weighted_copies_for_the_squared_error() -> None:
    teacher = frozen_forest()
    model = distil(teacher, LinearRegression(), alpha=0.3).fit(X, y)
    rows, targets = np.concatenate([X, X]), np.concatenate([y, teacher.predict(X)])
    copies = LinearRegression().fit(rows, targets, sample_weight=np.repeat([0.3, 0.7], len(X)))
    assert model.predict(X) == pytest.approx(copies.predict(X), rel=1e-9)


def test_a_network_learns_targets_of_any_scale() -> None:
    model, shifted = (distil(None, (16,), epochs=60, learning_rate=0.02).fit(X, t) for t in (y, 1e3 * y - 1e7))
    assert model.score(X, y) > 0.6
    assert shifted.predict(X) == pytest.approx(1e3 * model.predict(X) - 1e7, rel=1e-5)
    assert model.history_ is not None
    assert model.history_["train_loss"][-1] < model.history_["train_loss"][0]


@pytest.mark.filterwarnings("ignore:the teacher")  # it is useless on purpose
def test_a_network_follows_its_teacher_with_alpha_0() -> None:
    teacher = FrozenEstimator(LinearRegression().fit(X, 2000 - y))
    model = distil(teacher, linear, alpha=0, epochs=100, learning_rate=0.05).fit(X, y)
    error = model.predict(X) - teacher.predict(X)
    assert error.std() < 0.1 * teacher.predict(X).std()


@pytest.mark.filterwarnings("ignore:the teacher")  # it is useless on purpose
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_can_be_the_teacher(dtype: torch.dtype) -> None:
    teacher = distil(student=linear, standardize=False).fit(X, y).student_.to(dtype)
    model = distil(teacher, LinearRegression(), alpha=0).fit(X, y)
    with torch.no_grad():
        outputs = teacher(torch.tensor(X, dtype=dtype))[:, 0].numpy()
    assert model.predict(X) == pytest.approx(outputs, abs=1e-4)


def test_out_of_fold_predictions_differ_from_those_of_the_fitted_teacher() -> None:
    in_sample, out_of_fold = (distil(DecisionTreeRegressor(), TREE, alpha=0, cv=cv).fit(X, y) for cv in (None, 3))
    assert np.array_equal(in_sample.predict(X), distil(None, TREE).fit(X, y).predict(X))  # the tree repeats its targets
    assert not np.array_equal(out_of_fold.predict(X), in_sample.predict(X))


def test_the_same_random_state_gives_the_same_bits_and_pickle_keeps_them() -> None:
    first, second = (distil(RandomForestRegressor(3)).fit(X, y) for _ in range(2))
    assert np.array_equal(first.predict(X), second.predict(X))
    assert np.array_equal(pickle.loads(pickle.dumps(first)).predict(X), first.predict(X))
    assert not np.array_equal(first.predict(X), distil(RandomForestRegressor(3), random_state=1).fit(X, y).predict(X))


def test_it_works_in_a_search_and_with_pipelines() -> None:
    student = make_pipeline(StandardScaler(), TREE)
    grid = {"alpha": [0.0, 1.0], "student__decisiontreeregressor__max_leaf_nodes": [2, 6]}
    search = GridSearchCV(distil(make_pipeline(StandardScaler(), TREE), student), grid, cv=2, error_score="raise")
    assert search.fit(X, y).best_params_["student__decisiontreeregressor__max_leaf_nodes"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 2}, r"alpha must be in \[0, 1\]"),
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
        ({"teacher": LogisticRegression()}, "(?s)teacher must be None, a trained nn.Module.*takes classifiers"),
        ({"teacher": "forest"}, "teacher must be None"),
        (
            {"student": LogisticRegression()},
            r"student must be hidden sizes .*kd\.DistilledClassifier takes classifiers",
        ),
        ({"student": DecisionTreeRegressor}, "(?s)student must be hidden sizes.*pass an instance, not the class"),
        ({"student": linear(3)}, "(?s)student must be hidden sizes.*pass a function that builds a new network"),
        ({"student": lambda features: nn.Linear(features, 2)}, r"output for one row must be of shape \[1, 1\]"),
        ({"teacher": nn.Linear(3, 2)}, r"predictions of the teacher must be finite numbers, one for each of 120 rows"),
        ({"device": "gpu"}, "device must be cpu, cuda"),
    ],
)
def test_invalid_parameters_are_refused_at_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distil(**changes).fit(X, y)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        distil(learning_rate=0.02, epochs=60),
        distil(LinearRegression(), (16,), learning_rate=0.02, epochs=60, cv=2),
        distil(None, DecisionTreeRegressor(max_leaf_nodes=32)),
        distil(LinearRegression(), make_pipeline(StandardScaler(), KNeighborsRegressor())),
    ],
    ids=["network", "taught network", "tree", "neighbours"],
)
def test_scikit_learns_checks_pass(model: Any) -> None:
    for estimator, check in estimator_checks_generator(model):
        if "array_api" not in str(check):
            check(estimator)


def test_a_teacher_worse_than_the_mean_is_reported(recwarn: pytest.WarningsRecorder) -> None:
    scaled = LinearRegression().fit(StandardScaler().fit_transform(10 * X + 100), y)
    with pytest.warns(UserWarning, match=r"further from y than the mean of y is: R² = -\d"):
        distil(scaled, epochs=1).fit(10 * X + 100, y)
    for teacher in (LinearRegression().fit(X, y), DummyRegressor()):
        distil(teacher, epochs=1).fit(X, y)
    distil(LinearRegression(), epochs=1).fit(X, np.ones(len(X)))
    assert not recwarn.list
