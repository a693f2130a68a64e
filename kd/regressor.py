"""Distillation of regressors as a scikit-learn estimator.

model = kd.DistilledRegressor(HistGradientBoostingRegressor(), student=(32,)).fit(X, y)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone, is_regressor
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from kd.checks import ALPHA, LEARNING_RATE, at_least, require, require_in_range
from kd.data.datasets import ArrayDataset, DistillDataset
from kd.devices import device_named, require_device
from kd.models.inference import evaluating
from kd.teachers.network_student import build_network, prepare_inputs, train_network
from kd.teachers.sklearn_student import (
    as_array,
    check_rows,
    check_rows_and_targets,
    copy_input_tags,
    is_estimator,
    require_complete,
    warn_of_other_order,
)
from kd.teachers.sklearn_teacher import (
    fit_unfitted,
    network_logits,
    rows_as_fitted,
    set_random_states,
    warn_of_useless_predictions,
)
from kd.training.history import History
from kd.types import Batch

# features → a network with input [B, features] and output [B, 1].
Network: TypeAlias = Callable[[int], nn.Module]

_RANGES = {"alpha": ALPHA, "epochs": at_least(1), "batch_size": at_least(1), "learning_rate": LEARNING_RATE}


class DistilledRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A small regressor for tabular data, distilled from a teacher.

    The student is fitted to ``alpha · y + (1 − alpha) · teacher's prediction``. For the squared error this is
    equivalent to weighting two targets per row, y and the prediction t, because the losses differ by a constant:
    ``alpha (y − f)² + (1 − alpha) (t − f)² = (alpha y + (1 − alpha) t − f)² + alpha (1 − alpha) (y − t)²``. It needs no
    ``sample_weight`` and does not affect settings that count rows. For other losses, such as the absolute error, the
    two are not equivalent.

    The whole data set is held in memory. See ``kd.DistilledClassifier`` for the parameters not described here.

    Args:
        teacher: a scikit-learn regressor, which is fitted here if it is unfitted; a trained ``nn.Module`` that maps the
            unscaled rows in float32 to predictions [N, 1]; or None for the control, trained on the targets alone.
        student: units of each hidden layer of a network, such as ``(64,)``; a function (features) → ``nn.Module`` with
            input [B, features] float32 and output [B, 1]; or any scikit-learn regressor or pipeline that ends in one,
            which is cloned and gets the rows unchanged. Networks are trained on the squared error of targets with
            mean 0 and variance 1. For an estimator, ``epochs``, ``batch_size``, ``learning_rate``, ``standardize`` and
            ``device`` do not apply.
        alpha: weight of the *targets* y, in [0, 1]. 1 equals the control bit for bit; 0 uses the teacher only.
        cv: None, number of folds or splitter: predict out of fold with a teacher that is fitted here.
        epochs, batch_size, learning_rate, standardize, device, random_state: as in ``kd.DistilledClassifier``.

    Attributes:
        n_features_in_, feature_names_in_: as in scikit-learn; the latter only if the columns have names.
        teacher_: the teacher used: the fitted clone, or ``teacher`` itself.
        student_: the trained ``nn.Module``, in eval mode, or the fitted regressor.
        scaler_: the fitted ``StandardScaler`` of the inputs; None without one.
        target_mean_, target_scale_: mean and standard deviation of y, which rescale a network's output; 0 and 1 for an
            estimator.
        history_: ``kd.History`` of a network's training; None for an estimator.
    """

    student_: Any
    history_: History | None

    def __init__(
        self,
        teacher: Any = None,
        student: Any = (64,),
        *,
        alpha: float = 0.5,
        cv: Any = None,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        standardize: bool = True,
        device: str | torch.device = "cpu",
        random_state: Any = None,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.alpha = alpha
        self.cv = cv
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> DistilledRegressor:
        """Fit the teacher if it is unfitted, then the student.

        Args:
            X: [N, F] finite numbers; for a scikit-learn student, anything that it and the teacher take.
            y: [N] finite numbers.

        Raises:
            ValueError: a parameter or the data is invalid, or the teacher does not fit the data.
            FloatingPointError: the loss or a gradient of a network is not finite.
        """
        device = self._check_parameters()
        require_complete(X, y)
        warn_of_other_order(X, y)
        rows: Any
        if is_estimator(self.student):
            rows, targets = check_rows_and_targets(self, X, y, dtype=np.float64)
        else:
            rows, targets = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
            targets = targets.astype(np.float64)
        random = check_random_state(self.random_state)
        # Drawn before the teacher's seeds, so that the control and the distilled student get the same seed.
        seed = int(random.randint(2**31 - 1))
        self.teacher_ = fit_unfitted(self.teacher, X, targets, random)
        soft = targets if self.teacher_ is None else self._soften(X, rows, targets)
        self.scaler_, self.target_mean_, self.target_scale_ = None, 0.0, 1.0
        if is_estimator(self.student):
            student = set_random_states(clone(self.student), np.random.RandomState(seed))
            self.student_, self.history_ = student.fit(copy.deepcopy(rows), soft), None
        else:
            self.target_mean_, self.target_scale_ = float(targets.mean()), float(targets.std()) or 1.0
            self._train(rows, (soft - self.target_mean_) / self.target_scale_, seed, device)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return predictions [N]."""
        check_is_fitted(self, "history_")  # after an interrupted fit student_ may exist, but history_ does not
        predictions: NDArray[np.float64]
        if is_estimator(self.student_):
            predictions = self.student_.predict(check_rows(self, X))
            return predictions
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        # In float64, since the rounding of float32 depends on the number of rows.
        network = copy.deepcopy(self.student_).cpu().double()
        with evaluating(network), torch.no_grad():
            outputs = network(prepare_inputs(rows, self.scaler_, torch.float64)).numpy()[:, 0]
        predictions = outputs * self.target_scale_ + self.target_mean_
        return predictions

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if is_estimator(self.student):
            copy_input_tags(tags, *filter(is_estimator, (self.student, self.teacher)))
        return tags

    def _check_parameters(self) -> torch.device:
        for name, values in _RANGES.items():
            require_in_range(name, getattr(self, name), values)
        teacher, student = self.teacher, self.student
        is_model = teacher is None or isinstance(teacher, nn.Module) or hasattr(teacher, "predict")
        allowed = "None, a trained nn.Module, or a regressor"
        advice = "kd.DistilledClassifier takes classifiers" if hasattr(teacher, "predict_proba") else ""
        require(is_model and not hasattr(teacher, "predict_proba"), "teacher", teacher, allowed, advice)
        is_network = isinstance(student, (tuple, list)) or (callable(student) and not isinstance(student, type))
        fits = is_regressor(student) if is_estimator(student) else is_network and not isinstance(student, nn.Module)
        allowed = "hidden sizes such as (64,), a function (features) → nn.Module, or a scikit-learn regressor"
        advice = "kd.DistilledClassifier takes classifiers" if is_estimator(student) else ""
        if isinstance(student, type):
            advice = "pass an instance, not the class"
        elif isinstance(student, nn.Module):
            advice = "fit must not modify its parameters, so pass a function that builds a new network, not the network"
        require(fits, "student", student, allowed, advice)
        device = device_named(str(self.device), setting="device")
        require_device(device, "device")
        return device

    def _soften(self, X: Any, rows: Any, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the student's targets [N]: the mean of y and the teacher's predictions, weighted with alpha."""
        if isinstance(self.teacher_, nn.Module):
            numbers = torch.tensor(as_array(rows, numeric=True), dtype=torch.float64)
            predictions = network_logits(self.teacher_, numbers).double().numpy()
        elif self.cv is not None and self.teacher_ is not self.teacher:
            predictions = cross_val_predict(clone(self.teacher_), X, targets, cv=self.cv)
        else:
            is_own = self.teacher_ is not self.teacher
            fitted = X if is_own else rows_as_fitted(self.teacher_, X, as_array(rows, numeric=False))
            predictions = self.teacher_.predict(copy.deepcopy(fitted))
        predictions = np.asarray(predictions, dtype=np.float64)
        allowed = f"finite numbers, one for each of {len(targets)} rows"
        got = list(predictions.shape) if predictions.size != len(targets) else "NaN or infinity"
        is_valid = predictions.size == len(targets) and bool(np.isfinite(predictions).all())
        require(is_valid, "predictions of the teacher", got, allowed)
        if self.teacher_ is self.teacher:
            warn_of_useless_predictions(predictions.reshape(-1), targets)
        return self.alpha * targets + (1 - self.alpha) * predictions.reshape(-1)

    def _train(self, rows: NDArray[np.float64], soft: NDArray[np.float64], seed: int, device: torch.device) -> None:
        """Train a network on these targets [N] of mean 0 and variance 1."""
        self.scaler_ = StandardScaler().fit(rows) if self.standardize else None
        inputs, sizes = prepare_inputs(rows, self.scaler_), (self.n_features_in_,)
        self.student_ = build_network(self.student, sizes, inputs[:1], outputs=1, seed=seed).to(device)
        unused = torch.zeros(len(rows), dtype=torch.int64)
        self.history_ = train_network(
            self.student_,
            _squared_error,
            DistillDataset(ArrayDataset(inputs, unused), torch.tensor(soft, dtype=torch.float32)[:, None]),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=seed,
            metrics={},
        )


def _squared_error(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error. Batch: input, an unused label, target [B, 1]."""
    output = model(batch[0])
    return output, {"squared error": (output - batch[2]).square().mean()}
