"""The scikit-learn estimator: scikit-learn's checks and tools, and properties of a distilled student."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

import kd
from tests.classifiers import LINEAR, NAMES, X, make_classifier, teacher_network, weights, y


def dropout_network(features: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes))


def global_states() -> tuple[str, str]:
    """Return the states of torch's and NumPy's global generators."""
    return str(torch.get_rng_state().tolist()), str(np.random.mtrand._rand.get_state())  # type: ignore[attr-defined]


CHECKED = [
    make_classifier(),
    make_classifier(LINEAR, temperature=1, random_state=None),
    make_classifier(DecisionTreeClassifier(), student=dropout_network, alpha=0.9, cv=2),
    make_classifier(make_classifier(student=(16, 16)), standardize=False),
]


# Checks of the array API need an environment variable before scipy is imported: see below, in a separate process.
CHECKS = [pair for model in CHECKED for pair in estimator_checks_generator(model) if "array_api" not in str(pair[1])]


def check_name(value: Any) -> str:
    if isinstance(value, kd.DistilledClassifier):
        return f"{type(value.teacher).__name__}-{CHECKED.index(value) if value in CHECKED else ''}"
    return str(getattr(getattr(value, "func", value), "__name__", value))


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=check_name)
@pytest.mark.slow
def test_scikit_learns_checks_pass(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow  # a new process imports everything again
def test_scikit_learns_check_of_array_dispatch_passes() -> None:
    program = (
        "import kd; from sklearn.utils.estimator_checks import estimator_checks_generator as checks; "
        "pairs = [c for c in checks(kd.DistilledClassifier(epochs=2)) if 'array_api' in str(c[1])]; "
        "[check(estimator) for estimator, check in pairs]"
    )
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, env=environment, timeout=120)


def test_a_student_is_accurate_and_predicts_probabilities_of_its_classes() -> None:
    model = make_classifier(LINEAR, epochs=40).fit(X, NAMES)
    probabilities = model.predict_proba(X)
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert probabilities.dtype == np.float64
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(150), abs=1e-15)
    assert np.array_equal(model.predict(X), model.classes_[probabilities.argmax(axis=1)])
    assert model.score(X, NAMES) > 0.95
    assert model.history_["train_loss"][-1] < 0.3 * model.history_["train_loss"][0]


@pytest.mark.slow
def test_with_alpha_0_a_large_student_matches_the_teacher_and_not_the_labels() -> None:
    teacher = clone(LINEAR).fit(X, (y + 1) % 3)
    model = make_classifier(teacher, alpha=0, temperature=1, epochs=100, batch_size=16)
    with pytest.warns(UserWarning, match="no better than chance"):
        model.fit(X, y)
    assert np.abs(model.predict_proba(X) - teacher.predict_proba(X)).max() < 0.1
    assert model.score(X, y) < 0.1


@pytest.mark.parametrize("student", [(8,), dropout_network])
def test_with_alpha_1_it_is_the_control_bit_for_bit(student: Any) -> None:
    control = make_classifier(None, student).fit(X, y)
    for teacher in (RandomForestClassifier(3), clone(LINEAR).fit(X, y), teacher_network()):
        assert weights(make_classifier(teacher, student, alpha=1).fit(X, y)) == weights(control)
    assert weights(make_classifier(teacher, student, alpha=0.9).fit(X, y)) != weights(control)


@pytest.mark.parametrize("teacher", [None, RandomForestClassifier(3)])
def test_the_same_random_state_gives_the_same_bits_and_global_states_are_untouched(teacher: Any) -> None:
    before = global_states()
    first, second = (make_classifier(teacher, dropout_network).fit(X, y) for _ in range(2))
    probabilities = first.predict_proba(X)
    assert global_states() == before
    assert weights(first) == weights(second)
    assert np.array_equal(probabilities, second.predict_proba(X))
    assert weights(first) != weights(make_classifier(teacher, dropout_network, random_state=1).fit(X, y))


def test_without_a_random_state_numpys_global_generator_is_used() -> None:
    first, second = (make_classifier(random_state=None).fit(X, y) for _ in range(2))
    assert weights(first) != weights(second)
    random = np.random.RandomState(3)
    models = [make_classifier(random_state=random).fit(X, y) for _ in range(2)]
    assert weights(models[0]) != weights(models[1])
    assert weights(models[0]) == weights(make_classifier(random_state=np.random.RandomState(3)).fit(X, y))


def test_parameters_are_stored_unchanged() -> None:
    forest = RandomForestClassifier(3)
    model = make_classifier(forest)
    before = model.get_params()
    model.fit(X, y)
    assert model.get_params() == before
    assert model.teacher is forest
    assert not hasattr(forest, "classes_")
    assert model.teacher_.classes_.tolist() == [0, 1, 2]


def test_offsets_that_float32_cannot_represent_are_mentioned_without_standardisation() -> None:
    """Warnings are errors here."""
    make_classifier(epochs=1).fit(X + 1e9, y)
    make_classifier(epochs=1, standardize=False).fit(X * 1e3, y)
    with pytest.warns(UserWarning, match="feature 0 of X with standardize=False has .* but 1 as float32"):
        make_classifier(epochs=1, standardize=False).fit(X[:, :1] + 1e9, y)


def test_standardising_large_values_keeps_precision() -> None:
    """Float32 cannot represent tenths near ten million, so rows are standardised in float64 first."""
    near, far = make_classifier(epochs=20).fit(X, y), make_classifier(epochs=20).fit(X + 1e7, y)
    assert far.predict_proba(X + 1e7) == pytest.approx(near.predict_proba(X), abs=1e-3)


def test_the_estimator_works_in_a_pipeline() -> None:
    model = make_pipeline(MinMaxScaler(), make_classifier(RandomForestClassifier(5), epochs=40)).fit(X, NAMES)
    assert model.score(X, NAMES) > 0.9
    assert cross_val_score(model, X, NAMES, cv=3).mean() > 0.8


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # new processes import everything again
def test_a_grid_search_over_its_settings_and_its_teachers_works(jobs: int) -> None:
    grid = {"temperature": [1, 4], "alpha": [0.5, 1.0], "teacher__max_depth": [1, None]}
    search = GridSearchCV(make_classifier(RandomForestClassifier(3)), grid, cv=2, n_jobs=jobs, error_score="raise").fit(
        X, NAMES
    )
    assert set(search.best_params_) == set(grid)
    assert len(search.cv_results_["params"]) == 8
    assert search.predict_proba(X).shape == (150, 3)


@pytest.mark.parametrize("teacher", [None, RandomForestClassifier(3), teacher_network()])
def test_a_pickled_model_predicts_the_same(teacher: Any) -> None:
    model = make_classifier(teacher, dropout_network).fit(X, NAMES)
    loaded = pickle.loads(pickle.dumps(model))
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.history_ == model.history_


def test_nothing_is_printed_unless_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    make_classifier().fit(X, y)
    assert capsys.readouterr() == ("", "")
    make_classifier(verbose=True, epochs=2).fit(X, y)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("student    epoch 1/2  train loss ")
    assert "epoch 2/2" in second


def test_the_student_network_can_be_used_directly() -> None:
    model = make_classifier(None, dropout_network).fit(X, y)
    with torch.no_grad():
        logits = model.student_(torch.tensor(model.scaler_.transform(X), dtype=torch.float32))
    assert logits.double().softmax(dim=1).numpy() == pytest.approx(model.predict_proba(X), abs=1e-6)


def test_an_interrupted_fit_leaves_the_model_unfitted() -> None:
    model = make_classifier(learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_a_lazy_student_is_initialised_reproducibly() -> None:
    def lazy(features: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(classes))

    before = global_states()
    first, second = (make_classifier(student=lazy).fit(X, y) for _ in range(2))
    assert global_states() == before
    assert weights(first) == weights(second)


def two_tables() -> list[tuple[NDArray[Any], NDArray[Any]]]:
    loaders = (sklearn.datasets.load_digits, sklearn.datasets.load_breast_cancer)
    return [load(return_X_y=True) for load in loaders]


@pytest.mark.parametrize("table", two_tables(), ids=["digits", "breast cancer"])
@pytest.mark.slow
def test_the_defaults_work_for_images_and_measurements(table: tuple[NDArray[Any], NDArray[Any]]) -> None:
    rows, labels = table
    train, test = slice(0, None, 2), slice(1, None, 2)
    model = kd.DistilledClassifier(RandomForestClassifier(50), epochs=30, random_state=0).fit(
        rows[train], labels[train]
    )
    assert model.score(rows[test], labels[test]) > 0.93
