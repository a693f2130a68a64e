"""The scikit-learn estimator: scikit-learn's checks and tools, and properties of a distilled student."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import sklearn.datasets
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

import kd
from kd.models.networks import MLP
from kd.teachers.sklearn_teacher import rows_as_fitted, teacher_logits

X, y = sklearn.datasets.load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[y]
LINEAR = LogisticRegression(max_iter=1000)


def make_classifier(teacher: Any = None, student: Any = (8,), **changes: Any) -> kd.DistilledClassifier:
    """Return a small model that trains fast."""
    settings: dict[str, Any] = {"epochs": 5, "learning_rate": 0.02, "random_state": 0}
    return kd.DistilledClassifier(teacher, student, **(settings | changes))


def dropout_network(features: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes))


def weights(model: kd.DistilledClassifier) -> bytes:
    return kd.weights_bytes(model.student_)


def global_states() -> tuple[str, str]:
    """Return the states of torch's and NumPy's global generators."""
    return str(torch.get_rng_state().tolist()), str(np.random.mtrand._rand.get_state())  # type: ignore[attr-defined]


def teacher_network() -> nn.Module:
    """Return a network trained on the unscaled rows of iris."""
    return make_classifier(standardize=False, epochs=30).fit(X, y).student_


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
    model = make_classifier(teacher, alpha=0, temperature=1, epochs=100, batch_size=16).fit(X, y)
    assert np.abs(model.predict_proba(X) - teacher.predict_proba(X)).max() < 0.1
    assert model.score(X, y) < 0.1


def test_a_network_of_another_precision_can_be_the_teacher() -> None:
    network = teacher_network()
    expected, double, half = (
        teacher_logits(network.to(dtype), X, X, np.unique(y))
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    )
    assert double.dtype == half.dtype == torch.float32
    assert double.numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert half.numpy() == pytest.approx(expected.numpy(), abs=0.3)
    assert make_classifier(network.double(), alpha=0).fit(X, y).score(X, y) > 0.3


def test_a_teacher_in_float64_gets_the_rows_in_float64() -> None:
    class Difference(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs - 1.7e9)

    network = Difference(4, 3).double()
    logits = teacher_logits(network, X + 1.7e9, X + 1.7e9, np.unique(y))
    expected = torch.nn.functional.linear(torch.tensor(X), network.weight, network.bias)
    assert logits.numpy() == pytest.approx(expected.detach().numpy(), abs=1e-4)


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


def test_teacher_logits_belong_to_rows_not_to_positions() -> None:
    """Trained on a teacher only, with shuffled batches, the student can match the teacher only if rows are aligned."""
    teacher = FrozenEstimator(DecisionTreeClassifier(random_state=0).fit(X, y))
    model = make_classifier(teacher, alpha=0, epochs=60).fit(X, y)
    assert (model.predict(X) == teacher.predict(X)).mean() > 0.95


def test_the_teacher_gets_unscaled_rows_and_the_student_standardised_ones() -> None:
    teacher, batches = teacher_network(), []
    teacher.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    model = make_classifier(teacher).fit(X, y)
    assert np.array_equal(torch.cat(batches).numpy(), X.astype(np.float32))
    standardised_rows = model.scaler_.transform(X)
    assert standardised_rows.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-9)
    assert make_classifier(standardize=False).fit(X, y).scaler_ is None


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


def test_teacher_and_student_check_column_names() -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(X, columns=list("abcd"))
    teacher = RandomForestClassifier(3).fit(table, NAMES)  # it warns if names are missing, which is an error here
    model = make_classifier(teacher).fit(table, NAMES)
    assert model.feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(table[list("bacd")])


class ByName(LogisticRegression):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier that needs a data frame, or, fitted on an array, an array."""

    def fit(self, X: Any, y: Any) -> ByName:
        self.is_table_ = hasattr(X, "columns")
        return cast(ByName, super().fit(X, y))

    def predict_proba(self, X: Any) -> Any:
        assert hasattr(X, "columns") == self.is_table_
        return super().predict_proba(X)


@pytest.mark.parametrize("make", [lambda: ByName(max_iter=1000), lambda: make_pipeline(MinMaxScaler(), clone(LINEAR))])
@pytest.mark.parametrize("is_table", [False, True])
def test_a_fitted_teacher_gets_rows_in_the_form_it_was_fitted_on(make: Callable[[], Any], *, is_table: bool) -> None:
    """scikit-learn warns if names are missing or unexpected, and warnings are errors here."""
    pd = pytest.importorskip("pandas")
    table, classes = pd.DataFrame(X, columns=list("abcd")), np.unique(NAMES)
    teacher = make().fit(table if is_table else X, NAMES)
    rows = rows_as_fitted(teacher, table, X)
    expected = teacher_logits(make().fit(X, NAMES), X, X, classes)
    torch.testing.assert_close(teacher_logits(teacher, rows, X, classes), expected)
    make_classifier(FrozenEstimator(teacher)).fit(table, NAMES)


class Named(LogisticRegression):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier whose probabilities are a data frame with some columns of these."""

    def __init__(self, columns: Any = None) -> None:
        super().__init__(max_iter=1000)
        self.columns = columns

    def predict_proba(self, X: Any) -> Any:
        frame = pytest.importorskip("pandas").DataFrame(super().predict_proba(X), columns=self.classes_)
        return frame.set_axis(range(3), axis=1) if self.columns is None else frame.reindex(columns=self.columns)


def test_probabilities_with_names_are_taken_by_name() -> None:
    classes = np.unique(NAMES)
    expected = teacher_logits(LogisticRegression(max_iter=1000).fit(X, NAMES), X, X, classes)
    for columns in (classes, classes[::-1], None):
        torch.testing.assert_close(teacher_logits(Named(columns).fit(X, NAMES), X, X, classes), expected)
    with pytest.raises(ValueError, match=r"columns of predict_proba must be \[.* 'x'\]"):
        teacher_logits(Named([*classes[:2], "x"]).fit(X, NAMES), X, X, classes)


def test_a_fitted_teacher_gets_its_own_columns_in_their_order() -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(X, columns=list("abcd"))
    teacher = LogisticRegression(max_iter=1000).fit(table[list("ca")], NAMES)
    assert rows_as_fitted(teacher, table, X).equals(table[list("ca")])
    make_classifier(FrozenEstimator(teacher)).fit(table, NAMES)
    with pytest.raises(ValueError, match="feature names should match"):
        make_classifier(teacher).fit(table[list("ab")], NAMES)


def test_a_teacher_fitted_here_gets_what_it_was_fitted_on() -> None:
    pd = pytest.importorskip("pandas")
    make_classifier(ByName(max_iter=1000)).fit(pd.DataFrame(X, columns=list("abcd")), NAMES)


def test_the_estimator_works_in_a_pipeline() -> None:
    model = make_pipeline(MinMaxScaler(), make_classifier(RandomForestClassifier(5), epochs=40)).fit(X, NAMES)
    assert model.score(X, NAMES) > 0.9
    assert cross_val_score(model, X, NAMES, cv=3).mean() > 0.8


def test_a_pipeline_can_be_the_teacher() -> None:
    teacher = make_pipeline(StandardScaler(), LINEAR)
    assert make_classifier(teacher, epochs=40).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # new processes import everything again
def test_a_grid_search_over_its_settings_and_its_teachers_works(jobs: int) -> None:
    grid = {"temperature": [1, 4], "alpha": [0.5, 1.0], "teacher__max_depth": [1, None]}
    search = GridSearchCV(make_classifier(RandomForestClassifier(3)), grid, cv=2, n_jobs=jobs, error_score="raise").fit(
        X, NAMES
    )
    assert set(search.best_params_) == set(grid)
    assert len(search.cv_results_["params"]) == 8
    assert search.predict_proba(X).shape == (150, 3)


class CountingForest(RandomForestClassifier):  # type: ignore[misc]
    """Records the number of rows of each ``fit``, over all clones."""

    rows: tuple[int, ...] = ()

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CountingForest:
        type(self).rows += (len(X),)
        return super().fit(X, y, sample_weight)  # type: ignore[no-any-return]


def test_in_cross_validation_the_teacher_is_fitted_on_the_training_fold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = CountingForest(3).fit(X, y)
    monkeypatch.setattr(CountingForest, "rows", ())
    cross_val_score(make_classifier(teacher, epochs=1), X, y, cv=3)
    assert CountingForest.rows == (100, 100, 100)


def test_with_cv_logits_are_out_of_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingForest, "rows", ())
    in_fold, out_of_fold = (make_classifier(CountingForest(3), cv=cv).fit(X, NAMES) for cv in (None, 3))
    assert CountingForest.rows == (150, 150, 100, 100, 100)
    assert weights(out_of_fold) != weights(in_fold)
    assert np.array_equal(out_of_fold.teacher_.predict_proba(X), in_fold.teacher_.predict_proba(X))
    assert weights(out_of_fold) == weights(make_classifier(CountingForest(3), cv=3).fit(X, NAMES))
    assert weights(make_classifier(CountingForest(3), cv=3, alpha=1).fit(X, y)) == weights(make_classifier().fit(X, y))


def test_a_fitted_teacher_is_not_refitted_for_cv() -> None:
    frozen = FrozenEstimator(RandomForestClassifier(3).fit(X, y))
    assert weights(make_classifier(frozen, cv=3).fit(X, y)) == weights(make_classifier(frozen).fit(X, y))


def test_in_cross_validation_a_frozen_teacher_and_a_network_are_not_refitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = FrozenEstimator(CountingForest(3).fit(X, y))
    monkeypatch.setattr(CountingForest, "rows", ())
    cross_val_score(make_classifier(frozen, epochs=1), X, y, cv=3)
    assert CountingForest.rows == ()
    copied = clone(make_classifier(teacher_network()))
    assert weights(copied.fit(X, y)) == weights(make_classifier(teacher_network()).fit(X, y))


def test_a_distilled_student_can_be_a_teacher() -> None:
    chain = make_classifier(make_classifier(RandomForestClassifier(5), student=(32,), epochs=40), epochs=40).fit(X, y)
    assert isinstance(chain.teacher_.teacher_, RandomForestClassifier)
    assert chain.score(X, y) > 0.9


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


def test_a_fitted_teacher_of_other_classes_is_refused() -> None:
    teacher = clone(LINEAR).fit(X[:100], y[:100])
    with pytest.raises(
        ValueError, match=r"classes of the teacher must be the classes of y, \[0, 1, 2\]\. Got \[0, 1\] instead"
    ):
        make_classifier(teacher).fit(X, y)


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


def test_a_fitted_teacher_at_chance_on_these_rows_is_reported() -> None:
    scaler = StandardScaler().fit(X)
    fitted = LogisticRegression(C=100, max_iter=1000).fit(scaler.transform(X), y)
    for student in ((8,), DecisionTreeClassifier()):
        with pytest.warns(UserWarning, match=r"the teacher is right on 3\d\.\d% of 150 rows, which is chance level"):
            make_classifier(fitted, student, epochs=1).fit(X, y)


def test_a_fitted_teacher_behind_its_scaler_is_not(recwarn: pytest.WarningsRecorder) -> None:
    make_classifier(make_pipeline(StandardScaler(), LINEAR).fit(X, NAMES), epochs=1).fit(X, NAMES)
    assert not recwarn.list


def test_values_that_overflow_are_refused_and_no_class_is_predicted() -> None:
    model = kd.DistilledClassifier(None, epochs=1).fit(X, y)
    rows = X.copy()
    rows[3, 0] = 1e300
    with pytest.raises(
        ValueError, match=r"range of torch\.float32 once standardised.*1 of \d+ rows, the first at index 3"
    ):
        model.predict(rows)
