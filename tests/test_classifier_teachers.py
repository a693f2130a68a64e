"""Teachers of ``DistilledClassifier``: scikit-learn models, networks, pipelines, with and without cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from kd.teachers.sklearn_teacher import rows_as_fitted, teacher_logits
from tests.classifiers import LINEAR, NAMES, X, make_classifier, teacher_network, weights, y


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


def test_a_pipeline_can_be_the_teacher() -> None:
    teacher = make_pipeline(StandardScaler(), LINEAR)
    assert make_classifier(teacher, epochs=40).fit(X, y).score(X, y) > 0.9


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


def test_a_fitted_teacher_of_other_classes_is_refused() -> None:
    teacher = clone(LINEAR).fit(X[:100], y[:100])
    with pytest.raises(
        ValueError, match=r"classes of the teacher must be the classes of y, \[0, 1, 2\]\. Got \[0, 1\] instead"
    ):
        make_classifier(teacher).fit(X, y)


def test_a_fitted_teacher_at_chance_on_these_rows_is_reported() -> None:
    scaler = StandardScaler().fit(X)
    fitted = LogisticRegression(C=100, max_iter=1000).fit(scaler.transform(X), y)
    for student in ((8,), DecisionTreeClassifier()):
        with pytest.warns(UserWarning, match=r"is right on 3\d\.\d% of 150 rows, which is no better than chance"):
            make_classifier(fitted, student, epochs=1).fit(X, y)


def test_a_fitted_teacher_behind_its_scaler_is_not(recwarn: pytest.WarningsRecorder) -> None:
    make_classifier(make_pipeline(StandardScaler(), LINEAR).fit(X, NAMES), epochs=1).fit(X, NAMES)
    assert not recwarn.list
