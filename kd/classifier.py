"""Distillation as scikit-learn has it: an estimator whose teacher is a classifier or a trained network.

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
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kd.checks import ALPHA, LEARNING_RATE, TEMPERATURE, at_least, require, require_in_range
from kd.data.datasets import ArrayDataset, DistillDataset
from kd.data.loaders import make_loader
from kd.devices import device_named, require_device
from kd.methods.objectives import distilled, supervised
from kd.models.networks import MLP
from kd.seeding import seeded
from kd.teachers.sklearn_teacher import network_logits, out_of_fold_logits, prepare_teacher, teacher_logits
from kd.training.history import History
from kd.training.hooks import print_epoch
from kd.training.loop import fit
from kd.training.optimizers import adam
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


class DistilledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A small network for tables, trained on the labels and on what a teacher says of each row.

    ``fit`` gives the student ``alpha · CE + (1 − alpha) · T² · KL(teacher ‖ student)``. For small tables of numbers;
    everything is kept in memory. Sparse matrices, missing values and sample weights are refused.

    Args:
        teacher: who teaches.

            A scikit-learn classifier with ``predict_proba``: one that is not fitted is cloned, and the clone fitted on
            the very rows that ``fit`` is given; one that is fitted is asked as it is. scikit-learn's ``clone``, and so
            ``GridSearchCV`` and ``cross_val_score``, forget what an estimator has learned: there the teacher learns
            anew from each training fold, and nothing leaks from the fold it is judged on. To keep a fitted one, wrap it
            in ``sklearn.frozen.FrozenEstimator``; see to it then that it has not seen the rows to be judged on.

            A trained ``nn.Module``, shown the rows as they are given to ``fit``, in float32, and asked for logits
            [N, classes] in the order of ``classes_``. ``clone`` copies it with its weights.

            None: nobody. The student learns from the labels alone, as the control does that belongs beside a distilled
            student. With the same ``random_state`` both start from the same weights and see the same batches.
        student: units of each hidden layer, such as ``(64,)``; or a function (features, classes) → ``nn.Module`` with
            input [B, features] float32 and output logits [B, classes].
        temperature: T > 0, softens teacher and student in the second term.
        alpha: weight of the *labels*, in [0, 1]. 1 gives the control to the bit, 0 the teacher alone.
        cv: of a teacher that is fitted here, which answers are taught. None: those of the fitted teacher to the rows it
            has learned from. A forest knows these by heart: fully grown and without bootstrap, it repeats the labels,
            and all that its student gets is labels that the temperature has smoothed. A number of folds, or a splitter:
            each row is answered for by a clone that has not learned from it, as ``StackingClassifier`` does;
            ``teacher_`` has still learned from all.
        epochs: passes over the rows, at least 1; the weights after the last count.
        batch_size: rows a training step, at least 1.
        learning_rate: of Adam at the first step, above 0; it falls linearly to 0.
        standardize: show the student every column at mean 0 and variance 1, as measured on the rows of ``fit``. The
            teacher always gets the rows as they are.
        device: where the student trains and answers: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``.
        random_state: decides the student's first weights and the order of batches, and of a teacher that is fitted here
            every ``random_state`` that is None. An int gives the same bits each time, for one number of threads, and
            no global random state is touched. None draws from NumPy's, as everywhere in scikit-learn.
        verbose: print a line for each epoch.

    Attributes:
        classes_: [K] labels, sorted.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn; the latter if the columns have names.
        teacher_: the one that was asked: the fitted clone, or ``teacher`` itself.
        student_: the trained ``nn.Module``, in eval mode; its input are rows as ``scaler_`` gives them.
        scaler_: the fitted ``StandardScaler``, None without ``standardize``.
        history_: ``kd.History`` of the training.
    """

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
        """Train the student, and before it the teacher, if that is not fitted.

        Args:
            X: [N, F] finite numbers.
            y: [N] labels of two classes or more; numbers or strings.

        Raises:
            ValueError: a parameter, the data, or a teacher that does not fit them.
            FloatingPointError: the loss or a gradient is not finite.
        """
        objective, device = self._checked()
        rows, targets = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(targets)
        self.classes_, labels = np.unique(targets, return_inverse=True)
        require(len(self.classes_) >= 2, "y", f"{len(self.classes_)} class", "of at least 2 classes")
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))  # drawn before the teacher's, so that control and twin have the same
        self.scaler_ = StandardScaler().fit(rows) if self.standardize else None
        self.student_ = self._untrained(seed, rows[:1]).to(device)
        self.teacher_ = prepare_teacher(self.teacher, X, targets, random)
        dataset: Dataset[Any] = ArrayDataset(self._inputs(rows), torch.tensor(labels))
        if self.teacher_ is not None:
            dataset = DistillDataset(dataset, self._teacher_logits(X, rows, targets))
        self.history_ = self._train(objective, make_loader(dataset, batch_size=self.batch_size, shuffle=True), seed)
        self.student_.eval()  # for whoever takes it out of here and asks it directly
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities [N, K] of the classes in the order of ``classes_``; each row adds up to 1."""
        check_is_fitted(self, "history_")  # a training that was broken off has left a student, but no history
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        logits = network_logits(self.student_, self._inputs(rows))
        probabilities: NDArray[np.float64] = logits.double().softmax(dim=1).numpy()
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class [N] of each row."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def _checked(self) -> tuple[Objective, torch.device]:
        """The objective and the device, once every parameter is known to be allowed."""
        for name, values in _RANGES.items():
            require_in_range(name, getattr(self, name), values)
        device = device_named(str(self.device), setting="device")
        require_device(device, "device")
        recipe = isinstance(self.student, (tuple, list)) or callable(self.student)
        allowed = "hidden sizes such as (64,), or a function (features, classes) → nn.Module"
        advice = "fit must not change what it is given, so a network itself is no student; a function makes a new one"
        require(recipe and not isinstance(self.student, nn.Module), "student", self.student, allowed, advice)
        objective = distilled(temperature=self.temperature, alpha=self.alpha)
        return supervised if self.teacher is None else objective, device

    def _inputs(self, rows: NDArray[np.float64]) -> Tensor:
        """What the student sees of these rows [N, F]: float32, standardised where that is wanted."""
        return torch.tensor(self.scaler_.transform(rows) if self.scaler_ else rows, dtype=torch.float32)

    def _untrained(self, seed: int, row: NDArray[np.float64]) -> nn.Module:
        """The student as it starts, shown one row to see that it has an answer of the right shape."""
        features, classes = self.n_features_in_, len(self.classes_)
        with seeded(seed):
            if callable(self.student):
                made = self.student(features, classes)
            else:
                made = MLP(*self.student, input_shape=(features,), classes=classes)
            shape = list(network_logits(made, self._inputs(row)).shape)
        require(shape == [1, classes], "the student's answer to one row", shape, f"[1, {classes}], a logit per class")
        return made

    def _teacher_logits(self, X: Any, rows: NDArray[np.float64], targets: NDArray[Any]) -> Tensor:
        """The teacher's logits [N, K], one row for each."""
        fitted_here = self.teacher_ is not self.teacher
        if fitted_here and self.cv is not None:
            return out_of_fold_logits(self.teacher_, X, targets, self.cv)
        return teacher_logits(self.teacher_, X, rows, self.classes_)

    def _train(self, objective: Objective, loader: DataLoader[Any], seed: int) -> History:
        steps = self.epochs * len(loader)
        optimizer, scheduler = adam(self.student_, learning_rate=self.learning_rate, steps=steps)
        return fit(
            self.student_,
            objective,
            loader,
            None,
            optimizer=optimizer,
            scheduler=scheduler,
            epochs=self.epochs,
            seed=seed,
            on_epoch=print_epoch("student", self.epochs) if self.verbose else None,
        )
