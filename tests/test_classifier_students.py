"""``kd.DistilledClassifier`` with scikit-learn students: weighted rows, the matched control, and refusals."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import BaggingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import estimator_checks_generator

import kd
from kd.teachers.sklearn_student import fit_on_soft_labels, soft_labels
from kd.teachers.sklearn_teacher import teacher_logits

X, y = sklearn.datasets.load_iris(return_X_y=True)
X = np.round(X + np.random.default_rng(0).normal(0, 0.4, X.shape), 1)  # overlapping classes and equal values
NAMES = np.array(["setosa", "versicolor", "virginica"])[y]
TREE = DecisionTreeClassifier(max_leaf_nodes=6)
SCALED = make_pipeline(StandardScaler(), LogisticRegression())
STUDENTS = [TREE, RandomForestClassifier(3, max_depth=3), SCALED, HistGradientBoostingClassifier(max_iter=2)]


class CountingTree(DecisionTreeClassifier):  # type: ignore[misc]  # scikit-learn has no types
    """Counts the calls of ``fit``, over all clones."""

    fits = 0

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        type(self).fits += 1
        return super().fit(X, y, sample_weight)


def distil(teacher: Any, student: Any, **changes: Any) -> kd.DistilledClassifier:
    return kd.DistilledClassifier(teacher, student, **{"random_state": 0, **changes})


def bits(model: kd.DistilledClassifier) -> bytes:
    return bytes(model.predict_proba(X).tobytes())


def frozen_forest() -> Any:
    return FrozenEstimator(RandomForestClassifier(10, random_state=0).fit(X, NAMES))


@pytest.mark.parametrize("student", STUDENTS, ids=lambda student: type(student).__name__)
def test_with_alpha_1_it_is_the_control_bit_for_bit(student: Any) -> None:
    control = distil(None, student).fit(X, NAMES)
    assert bits(distil(RandomForestClassifier(3), student, alpha=1).fit(X, NAMES)) == bits(control)
    assert bits(distil(frozen_forest(), student, alpha=1).fit(X, NAMES)) == bits(control)
    assert bits(distil(frozen_forest(), student, alpha=0.2).fit(X, NAMES)) != bits(control)


@pytest.mark.parametrize("wrap", [lambda tree: tree, lambda tree: make_pipeline(StandardScaler(), tree)])
def test_balanced_weights_are_those_of_the_labels_in_both_arms(wrap: Any) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.1).astype(int)
    rows = rng.normal(labels[:, None], 1, (400, 3))
    student = wrap(DecisionTreeClassifier(max_depth=3, class_weight="balanced"))
    teacher = FrozenEstimator(RandomForestClassifier(5, random_state=0).fit(rows, labels))
    control = distil(None, student).fit(rows, labels)
    matched = distil(teacher, student, alpha=1).fit(rows, labels)
    assert np.array_equal(matched.predict_proba(rows), control.predict_proba(rows))
    mixed = distil(teacher, student, alpha=0.999).fit(rows, labels)  # all copies of a row are there
    plain = distil(None, wrap(DecisionTreeClassifier(max_depth=3))).fit(rows, labels)
    recalls = [model.predict(rows)[labels == 1].mean() for model in (control, mixed, plain)]
    assert recalls[1] == pytest.approx(recalls[0], abs=0.05)
    assert recalls[1] > recalls[2] + 0.2


def test_the_control_is_the_plain_classifier_with_the_drawn_random_state() -> None:
    model = distil(None, RandomForestClassifier(3)).fit(X, NAMES)
    drawn = model.student_.random_state
    plain = RandomForestClassifier(3, random_state=drawn).fit(X, NAMES, sample_weight=np.ones(len(X)))
    assert np.array_equal(model.predict_proba(X), plain.predict_proba(X))
    assert distil(frozen_forest(), RandomForestClassifier(3)).fit(X, NAMES).student_.random_state == drawn
    assert distil(None, RandomForestClassifier(3, random_state=7)).fit(X, NAMES).student_.random_state == 7


def test_a_tree_is_fitted_on_the_weighted_rows_of_the_soft_labels() -> None:
    teacher, alpha, temperature = frozen_forest(), 0.3, 1.5
    model = distil(teacher, TREE, alpha=alpha, temperature=temperature).fit(X, NAMES)
    clipped = teacher.predict_proba(X).clip(min=1e-6) ** (1 / temperature)
    soft = alpha * np.eye(3)[y] + (1 - alpha) * clipped / clipped.sum(axis=1, keepdims=True)
    expected = clone(TREE).set_params(random_state=model.student_.random_state)
    expected.fit(np.repeat(X, 3, axis=0), np.tile(model.classes_, len(X)), sample_weight=soft.ravel())
    assert model.predict_proba(X) == pytest.approx(expected.predict_proba(X), abs=1e-6)


def test_the_leaves_of_a_tree_predict_the_mean_of_their_soft_labels() -> None:
    model = distil(frozen_forest(), TREE, alpha=0.3).fit(X, NAMES)
    logits = teacher_logits(model.teacher_, X, X, model.classes_)
    soft = soft_labels(y, logits, temperature=2.0, alpha=0.3)
    leaves, predicted = model.student_.apply(X), model.predict_proba(X)
    for leaf in np.unique(leaves):
        assert predicted[leaves == leaf][0] == pytest.approx(soft[leaves == leaf].mean(axis=0), abs=1e-9)


def test_a_repeated_row_equals_a_row_of_weight_2() -> None:
    logits = teacher_logits(frozen_forest(), X, X, np.unique(NAMES))
    weights = soft_labels(y, logits, temperature=2.0, alpha=0.5)
    chosen = np.arange(0, 150, 4)
    heavy = weights.copy()
    heavy[chosen] *= 2
    tree = DecisionTreeClassifier(max_leaf_nodes=5, random_state=0)
    classes, random = np.unique(NAMES), np.random.RandomState(0)
    once = fit_on_soft_labels(tree, X, classes, heavy, random)
    rows = np.concatenate([np.arange(150), chosen])
    twice = fit_on_soft_labels(tree, X[rows], classes, weights[rows], random)
    through_fit = distil(frozen_forest(), tree).fit(X[rows], NAMES[rows])
    assert once.predict_proba(X) == pytest.approx(twice.predict_proba(X), abs=1e-9)
    assert through_fit.predict_proba(X) == pytest.approx(twice.predict_proba(X), abs=1e-9)


@pytest.mark.filterwarnings("ignore:the teacher")  # it is useless on purpose
def test_rows_of_weight_0_are_left_out_and_their_classes_have_probability_0() -> None:
    weights = np.eye(3)[y] * (y != 2)[:, None]
    weights[y == 2, 0] = 1.0
    student = fit_on_soft_labels(TREE, X, np.unique(NAMES), weights, np.random.RandomState(0))
    assert student.tree_.n_node_samples[0] == 150
    teacher = FrozenEstimator(DummyClassifier(strategy="constant", constant=NAMES[0]).fit(X, NAMES))
    model = distil(teacher, TREE, alpha=0, temperature=1e-3).fit(X, NAMES)
    assert model.student_.classes_.tolist() == ["setosa"]
    assert model.predict_proba(X)[:, 1:].max() == 0
    assert model.predict_proba(X)[:, 0].min() == 1


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_names_of_classes_do_not_matter(alpha: float) -> None:
    tree = DecisionTreeClassifier(max_leaf_nodes=5)
    teacher = RandomForestClassifier(5, random_state=0).fit(X, NAMES)
    model = distil(FrozenEstimator(teacher), tree, alpha=alpha).fit(X, NAMES)
    renamed = np.array(["c", "a", "b"])[y]
    other = distil(FrozenEstimator(RandomForestClassifier(5, random_state=0).fit(X, NAMES)), tree, alpha=alpha)
    other.teacher.estimator.classes_ = np.array(["c", "a", "b"])
    other.fit(X, renamed)
    assert other.predict_proba(X)[:, [2, 0, 1]] == pytest.approx(model.predict_proba(X), abs=1e-9)


def test_the_order_of_columns_does_not_matter() -> None:
    order = [2, 0, 3, 1]
    model = distil(LogisticRegression(max_iter=1000), GaussianNB()).fit(X, NAMES)
    other = distil(LogisticRegression(max_iter=1000), GaussianNB()).fit(X[:, order], NAMES)
    assert other.predict_proba(X[:, order]) == pytest.approx(model.predict_proba(X), abs=1e-3)


def test_a_student_without_probabilities_predicts_and_has_no_predict_proba() -> None:
    model = distil(frozen_forest(), make_pipeline(StandardScaler(), LinearSVC()), alpha=0.5)
    assert not hasattr(model, "predict_proba")
    model.fit(X, NAMES)
    assert model.score(X, NAMES) > 0.7
    assert not hasattr(model, "predict_proba")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (KNeighborsClassifier(), r"student must be a classifier whose fit takes sample_weight\. Got KNeighbors"),
        (
            make_pipeline(StandardScaler(), KNeighborsClassifier()),
            r"(?s)whose fit takes sample_weight.*of a pipeline, the",
        ),
        (CalibratedClassifierCV(KNeighborsClassifier()), "whose fit takes sample_weight"),
        (GridSearchCV(TREE, {"max_depth": [1]}), r"(?s)takes sample_weight.*search around the distilled classifier"),
        (kd.DistilledClassifier(), "whose fit takes sample_weight"),
        (CalibratedClassifierCV(TREE), "without inner cross-validation"),
        (make_pipeline(StandardScaler(), LogisticRegressionCV()), "(?s)without inner cross-.*Put a search around"),
        (RandomForestClassifier(3, class_weight="balanced_subsample"), "(?s)'balanced' of its last step.*dictionary"),
        (
            BaggingClassifier(DecisionTreeClassifier(class_weight="balanced"), 2),
            "estimator__class_weight of the student must be 'balanced' of its last step",
        ),
        (LinearRegression(), r"student must be a classifier .*kd\.DistilledRegressor takes regressors"),
        (StandardScaler(), "student must be a classifier"),
        (DecisionTreeClassifier, r"student must be hidden sizes .*or a scikit-learn classifier.*pass an instance"),
        ("tree", "student must be hidden sizes"),
    ],
)
def test_other_students_are_refused_before_any_fitting(
    student: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountingTree, "fits", 0)
    with pytest.raises(ValueError, match=message):
        distil(CountingTree(), student).fit(X, y)
    assert CountingTree.fits == 0


def make_frame() -> Any:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["colour"] = np.where(X[:, 0] > 6, "red", "blue")
    frame.loc[::7, "colour"] = None
    frame.loc[::5, "a"] = np.nan
    return frame


def encoded(classifier: Any) -> Any:
    encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["colour"]), remainder="passthrough")
    return make_pipeline(encoder, classifier)


class NeedsFrame(DecisionTreeClassifier):  # type: ignore[misc]
    """A teacher that needs the user's data frame as it is."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return super().fit(X[["a", "b"]], y, sample_weight)

    def predict_proba(self, X: Any) -> Any:
        assert X["colour"].isna().any()
        return super().predict_proba(X[["a", "b"]])


@pytest.mark.parametrize(
    "teacher", [encoded(RandomForestClassifier(5)), NeedsFrame(), frozen_forest()], ids=["pipeline", "frame", "array"]
)
def test_data_frames_with_text_and_missing_values_reach_the_pipelines_of_teacher_and_student(teacher: Any) -> None:
    frame = make_frame()
    rows = frame[list("abcd")].fillna(5.0) if isinstance(teacher, FrozenEstimator) else frame
    student = TREE if isinstance(teacher, FrozenEstimator) else encoded(TREE)
    model, control = (distil(each, student).fit(rows, NAMES) for each in (teacher, None))
    assert distil(teacher, student, alpha=1).fit(rows, NAMES).predict_proba(rows).tobytes() == (
        control.predict_proba(rows).tobytes()
    )
    assert model.score(rows, NAMES) > 0.6
    assert model.feature_names_in_.tolist() == list(rows.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(rows[rows.columns[::-1]])


def test_it_works_in_a_pipeline_a_search_and_pickle() -> None:
    frame = make_frame()
    model = encoded(distil(HistGradientBoostingClassifier(max_iter=2), TREE, cv=2))
    assert cross_val_score(model, frame, NAMES, cv=2).mean() > 0.6
    grid = {"alpha": [0.0, 1.0], "student__max_leaf_nodes": [2, 8]}
    search = GridSearchCV(distil(frozen_forest(), TREE), grid, cv=2, error_score="raise").fit(X, NAMES)
    fitted = search.best_estimator_
    assert bits(pickle.loads(pickle.dumps(fitted))) == bits(fitted)
    assert fitted.student is not fitted.student_
    assert not hasattr(fitted.student, "classes_")


@pytest.mark.filterwarnings("ignore:the teacher")  # it is useless on purpose
def test_a_network_can_teach_a_tree() -> None:
    network = kd.DistilledClassifier(student=(8,), standardize=False, epochs=10, random_state=0).fit(X, y).student_
    model = distil(network, TREE, alpha=0).fit(X, y)
    assert (model.predict(X) == network(_tensor(X)).argmax(dim=1).numpy()).mean() > 0.9
    with pytest.raises(ValueError, match="could not convert string to float"):
        distil(network, encoded(TREE)).fit(make_frame(), y)


def _tensor(rows: NDArray[Any]) -> Any:
    import torch

    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        distil(None, TREE),
        distil(LogisticRegression(), LogisticRegression(), random_state=None),
        distil(DecisionTreeClassifier(), make_pipeline(StandardScaler(), LinearSVC()), cv=2),
        distil(GaussianNB(), GaussianNB(), alpha=0.9),
    ],
    ids=["tree", "linear", "svm", "bayes"],
)
def test_scikit_learns_checks_pass(model: Any) -> None:
    for estimator, check in estimator_checks_generator(model):
        if "array_api" not in str(check):
            check(estimator)
