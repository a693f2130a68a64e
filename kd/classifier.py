"""Distillation as a scikit-learn estimator: teacher and student are classifiers or networks.

model = kd.DistilledClassifier(RandomForestClassifier(), student=(32,)).fit(X, y)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.checks import ALPHA, LEARNING_RATE, TEMPERATURE, at_least, require, require_in_range
from kd.data.datasets import ArrayDataset, DistillDataset
from kd.devices import device_named, require_device
from kd.methods.objectives import distilled, supervised
from kd.teachers.network_student import build_network, prepare_inputs, train_network
from kd.teachers.sklearn_student import (
    as_array,
    check_rows,
    check_rows_and_targets,
    copy_input_tags,
    fit_on_soft_labels,
    is_estimator,
    order_columns,
    require_complete,
    require_student,
    soft_labels,
    warn_of_other_order,
)
from kd.teachers.sklearn_teacher import (
    network_logits,
    out_of_fold_logits,
    prepare_teacher,
    rows_as_fitted,
    teacher_logits,
    warn_of_useless_logits,
)
from kd.training.history import History
from kd.training.hooks import print_epoch
from kd.types import Objective

# (features, classes) → a network with input [B, features] and output logits [B, classes].
Network: TypeAlias = Callable[[int, int], nn.Module]

_RANGES = {
    "temperature": TEMPERATURE,
    "alpha": ALPHA,
    "epochs": at_least(1),
    "batch_size": at_least(1),
    "learning_rate": LEARNING_RATE,
}


def _has_probabilities(model: DistilledClassifier) -> bool:
    student = getattr(model, "student_", model.student)
    return not is_estimator(student) or hasattr(student, "predict_proba")


class DistilledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A small classifier for tabular data, distilled from a teacher.

    The student is a neural network or any scikit-learn classifier with ``sample_weight``. A network minimises
    ``alpha · CE + (1 − alpha) · T² · KL(teacher ‖ student)``. A scikit-learn classifier is fitted on one row per class
    of each soft label, weighted with ``alpha · one-hot + (1 − alpha) · softmax(teacher logits / T)``; rows of weight 0
    are left out.

    The whole data set is held in memory. Networks take finite numbers in dense arrays. A scikit-learn student and its
    teacher get the rows as they are: data frames with text and missing values too, if both can use them
    (``make_pipeline(ColumnTransformer(…), …)``). ``fit`` takes no sample weights.

    Args:
        teacher: the model to distil from.

            A scikit-learn classifier with ``predict_proba``. An unfitted classifier is cloned and fitted on the data
            passed to ``fit``; a fitted classifier is used without refitting. In ``GridSearchCV`` and
            ``cross_val_score``, ``clone`` discards the fit: the teacher is fitted again on each training fold, and no
            test fold leaks. To keep a fitted teacher, wrap it in ``sklearn.frozen.FrozenEstimator``; then make sure
            that it was not fitted on rows used for evaluation. A fitted classifier gets rows in the form on which it
            was fitted: a data frame with its columns in their order, or an array.

            A trained ``nn.Module`` that maps the unscaled rows in float32 to logits [N, classes] in the order of
            ``classes_``. ``clone`` copies it with its weights.

            None: the student is trained on the labels only. This is the control for a distilled student: with the
            same ``random_state`` both start from the same weights and see the same batches; scikit-learn students get
            the same seeds.
        student: units of each hidden layer, such as ``(64,)``; or a function (features, classes) → ``nn.Module`` with
            input [B, features] float32 and output logits [B, classes].

            Or a scikit-learn classifier whose ``fit`` takes ``sample_weight``, or a pipeline that ends in one. It is
            cloned. Its settings that count rows, such as ``min_samples_leaf`` and ``max_samples``, count the copies of
            a row too; ``max_leaf_nodes``, ``max_depth`` and ``min_weight_fraction_leaf`` do not. ``epochs``,
            ``batch_size``, ``learning_rate``, ``standardize``, ``device`` and ``verbose`` do not apply.
        temperature: T > 0, softens teacher and student in the second term.
        alpha: weight of the *labels*, in [0, 1]. 1 equals the control bit for bit; 0 uses the teacher only.
        cv: how the logits of a teacher fitted here are computed.

            None: by the fitted teacher, on the rows it was fitted on. An overfitted teacher then adds little: a fully
            grown forest without bootstrap reproduces the labels, and its student is trained on smoothed labels.

            A number of folds, or a splitter: out of fold. Each row gets the logits of a clone that was fitted without
            it, as in ``StackingClassifier``. ``teacher_`` is still fitted on all rows.
        epochs: passes over the data, at least 1. The weights after the last epoch are used.
        batch_size: rows per training step, at least 1.
        learning_rate: initial learning rate of Adam, above 0; decays linearly to 0.
        standardize: scale the student's inputs to mean 0 and variance 1, with the statistics of the rows passed to
            ``fit``. The teacher always gets unscaled rows.
        device: device of the student: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` (CUDA if available).
        random_state: seeds the student's initial weights, the order of batches, and each ``random_state`` of None in a
            scikit-learn student and in a teacher fitted here. With an int, results are bit-identical for the same
            number of threads, and global random states are untouched. None draws from NumPy's global generator, as in
            scikit-learn.
        verbose: print a line for each epoch.

    Attributes:
        classes_: [K] sorted labels.
        n_features_in_, feature_names_in_: as in scikit-learn; the latter only if the columns have names.
        teacher_: the teacher used: the fitted clone, or ``teacher`` itself.
        student_: the trained ``nn.Module``, in eval mode, whose inputs are rows transformed by ``scaler_``; or the
            fitted scikit-learn classifier.
        scaler_: the fitted ``StandardScaler``; None if ``standardize`` is False, and for a scikit-learn student.
        history_: ``kd.History`` of the student's training; None for a scikit-learn student.
    """

    student_: Any
    history_: History | None

    def __init__(
        self,
        teacher: Any = None,
        student: Sequence[int] | Network = (64,),
        *,
        temperature: float = 2.0,
        alpha: float = 0.5,
        cv: Any = None,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        standardize: bool = True,
        device: str | torch.device = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.temperature = temperature
        self.alpha = alpha
        self.cv = cv
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.standardize = standardize
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike) -> DistilledClassifier:
        """Fit the teacher if it is unfitted, then train the student.

        Args:
            X: [N, F] finite numbers; for a scikit-learn student, anything that it and the teacher take.
            y: [N] labels of two or more classes; numbers or strings.

        Raises:
            ValueError: a parameter or the data is invalid, or the teacher does not fit the data.
            FloatingPointError: the loss or a gradient is not finite.
        """
        objective, device = self._check_parameters()
        require_complete(X, y)
        warn_of_other_order(X, y)
        if is_estimator(self.student):
            return self._fit_estimator(X, y)
        rows, targets = validate_data(self, X, y, dtype=np.float64)
        labels = self._encode_classes(targets)
        seed, random = self._draw_seed()
        self.scaler_ = StandardScaler().fit(rows) if self.standardize else None
        inputs, sizes = prepare_inputs(rows, self.scaler_), (self.n_features_in_, len(self.classes_))
        self.student_ = build_network(self.student, sizes, inputs[:1], outputs=len(self.classes_), seed=seed).to(device)
        dataset: Dataset[Any] = ArrayDataset(inputs, torch.tensor(labels))
        self.teacher_ = prepare_teacher(self.teacher, X, targets, random)
        if self.teacher_ is not None:
            dataset = DistillDataset(dataset, self._teacher_logits(X, rows, targets, labels))
        self.history_ = train_network(
            self.student_,
            objective,
            dataset,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=seed,
            on_epoch=print_epoch("student", self.epochs) if self.verbose else None,
        )
        return self

    def _fit_estimator(self, X: Any, y: ArrayLike) -> DistilledClassifier:
        """Fit a scikit-learn student on weighted rows."""
        rows, targets = check_rows_and_targets(self, X, y)
        labels = self._encode_classes(targets)
        seed, random = self._draw_seed()
        weights = np.eye(len(self.classes_))[labels]
        self.teacher_ = prepare_teacher(self.teacher, rows, targets, random)
        if self.teacher_ is not None:
            numbers = as_array(rows, numeric=isinstance(self.teacher_, nn.Module))
            logits = self._teacher_logits(rows, numbers, targets, labels)
            weights = soft_labels(labels, logits, temperature=self.temperature, alpha=self.alpha)
        self.scaler_ = None
        student, generator = self.student, np.random.RandomState(seed)
        self.student_ = fit_on_soft_labels(student, rows, self.classes_, weights, generator, labels=labels)
        self.history_ = None
        return self

    def _encode_classes(self, targets: NDArray[Any]) -> NDArray[np.intp]:
        """Set ``classes_`` and return the labels [N] from 0."""
        check_classification_targets(targets)
        self.classes_, labels = np.unique(targets, return_inverse=True)
        require(len(self.classes_) >= 2, "y", f"{len(self.classes_)} class", "labels of at least 2 classes")
        return labels

    def _draw_seed(self) -> tuple[int, np.random.RandomState]:
        """Return the student's seed, drawn first so that the control gets the same, and the generator of others."""
        random = check_random_state(self.random_state)
        return int(random.randint(2**31 - 1)), random

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if is_estimator(self.student):
            copy_input_tags(tags, *filter(is_estimator, (self.student, self.teacher)))
        return tags

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]  # scikit-learn has no types
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities [N, K] in the order of ``classes_``. Absent for a student without probabilities."""
        check_is_fitted(self, "history_")  # after an interrupted fit student_ exists, but history_ does not
        if is_estimator(self.student_):
            columns = self.student_.predict_proba(check_rows(self, X))
            return order_columns(columns, self.student_.classes_, self.classes_)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        logits = network_logits(self.student_, prepare_inputs(rows, self.scaler_))
        probabilities: NDArray[np.float64] = logits.double().softmax(dim=1).numpy()
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class [N] of each row, or the prediction of a scikit-learn student."""
        check_is_fitted(self, "history_")
        labels: NDArray[Any]
        if is_estimator(self.student_):
            labels = self.student_.predict(check_rows(self, X))
        else:
            labels = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def _check_parameters(self) -> tuple[Objective, torch.device]:
        """Validate all parameters, and return the objective and the device."""
        for name, values in _RANGES.items():
            require_in_range(name, getattr(self, name), values)
        device = device_named(str(self.device), setting="device")
        require_device(device, "device")
        require_student(self.student)
        objective = distilled(temperature=self.temperature, alpha=self.alpha)
        return supervised if self.teacher is None else objective, device

    def _teacher_logits(
        self, X: Any, rows: NDArray[np.float64], targets: NDArray[Any], labels: NDArray[np.intp]
    ) -> Tensor:
        """Return the teacher's logits [N, K], out of fold if ``cv`` is set and the teacher was fitted here."""
        if self.teacher_ is self.teacher:
            logits = teacher_logits(self.teacher_, rows_as_fitted(self.teacher_, X, rows), rows, self.classes_)
            warn_of_useless_logits(logits, labels)
            return logits
        if self.cv is not None:
            return out_of_fold_logits(self.teacher_, X, targets, self.cv)
        return teacher_logits(self.teacher_, X, rows, self.classes_)
