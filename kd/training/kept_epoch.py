"""The epoch with the best validation results, whose weights a training keeps instead of the last ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kd.checks import require


class KeptEpoch:
    """The best epoch so far: highest accuracy, of equal ones the lowest cross-entropy, of equal ones the first.

    The cross-entropy with the labels is comparable across objectives; their losses are not. Without a measured
    accuracy, as for validation data without labels, the loss alone decides.

    Args:
        patience: the training is over after this many epochs in a row without a better one; 0 never ends it.
        ignored: first epochs that are never the best one and that patience does not count.
    """

    def __init__(self, patience: int = 0, ignored: int = 0) -> None:
        self.patience, self.ignored = patience, ignored
        self.epoch = 0  # number of the best epoch, from 1; 0 before the first
        self.accuracy, self.loss = -math.inf, math.inf
        self.weights: dict[str, Tensor] = {}

    @classmethod
    def make(cls, keep: str, patience: int, *, validated: bool, ignored: int = 0) -> KeptEpoch | None:
        """Return an object for ``keep="best"``, None for ``keep="last"``.

        Raises:
            ValueError: the arguments clash, or there is no validation.
        """
        require(keep in ("last", "best"), "keep", keep, "last or best")
        require(patience >= 0, "patience", patience, "an integer of at least 0", "0 trains all epochs")
        require(not patience or keep == "best", "patience", patience, "0 without keep='best'")
        require(keep == "last" or validated, "keep", keep, "last without validation", "it chooses the best epoch")
        return cls(patience, ignored) if keep == "best" else None

    def consider(self, epoch: int, results: Mapping[str, float], model: nn.Module) -> None:
        """Keep the model's weights if its validation results are better than all earlier ones.

        Args:
            epoch: the first is 0.
            results: ``loss`` and, if measured, ``acc`` and ``ce``.
        """
        if epoch < self.ignored:
            return
        accuracy = results.get("acc", math.nan)
        accuracy = -math.inf if math.isnan(accuracy) else accuracy
        loss = results.get("ce", math.nan)
        loss = results["loss"] if math.isnan(loss) else loss
        if self.epoch and (accuracy, -loss) <= (self.accuracy, -self.loss):
            return
        self.epoch, self.accuracy, self.loss = epoch + 1, accuracy, loss
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def is_over(self, completed: int) -> bool:
        """Return whether the last ``patience`` epochs brought nothing better."""
        return bool(self.patience) and completed - max(self.epoch, self.ignored) >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Load the kept weights into the model."""
        model.load_state_dict(self.weights)

    def describe(self, completed: int, epochs: int) -> str:
        """Return a sentence on the kept epoch."""
        ended = f", of {epochs} at most" if completed < epochs else ""
        how = f"accuracy {self.accuracy:.2%}" if self.accuracy > -math.inf else f"loss {self.loss:.4f}"
        return (
            f"The weights are those of epoch {self.epoch} of {completed}{ended}, chosen by the validation set ({how}), "
            "whose results are therefore too good."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the best epoch as plain data."""
        return {"epoch": self.epoch, "accuracy": self.accuracy, "loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by ``state_dict``."""
        self.epoch, self.accuracy, self.loss = int(state["epoch"]), float(state["accuracy"]), float(state["loss"])
        self.weights = dict(state["weights"])
