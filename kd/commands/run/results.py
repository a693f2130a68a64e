"""What a run has found: histories, logits and labels of its models. Its files, plots and report are made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from kd.training.history import History


@dataclass(frozen=True)
class Run:
    """Everything that the files of a run are made from. The mappings' keys are the models' names.

    Attributes:
        histories: the curves of each model that was trained in this run; a teacher may come trained.
        logits: each model's answers to the test set, [N, K].
        labels: the test set's labels, [N] int64.
        test: the test set; row i of logits and labels belongs to ``test[i]``.
        config: the settings it was run with.
        toy: a stamp for every file if the run is too small to conclude anything from, else None.
        classes: their names in label order, where they have other names than their numbers.
    """

    histories: Mapping[str, History]
    logits: Mapping[str, Tensor]
    labels: Tensor
    test: Dataset[Any]
    config: Mapping[str, Any]
    toy: str | None = None
    classes: Sequence[str] = ()

    @property
    def noun(self) -> str:
        """What the items are called."""
        return "images" if is_image(self.test[0][0]) else "items"

    @property
    def plain(self) -> bool:
        """Whether the distilled student learned by plain distillation, from answers softened as they are shown."""
        return bool(self.config.get("METHOD", "kd") == "kd")

    @property
    def panels(self) -> dict[str, str]:
        """The quantities whose curves are worth drawing, and what each is."""
        return {
            "ce": "Cross-entropy with the labels, nats",
            "acc": "Accuracy, %",
            "soft": "Soft term: (1 − α) · T² · KL, nats" if self.plain else "Soft term of the method",
        }

    def named(self, label: int) -> str:
        """The class of this label as a person knows it."""
        return self.classes[label] if self.classes else str(label)

    def wrong(self, name: str) -> Tensor:
        """[N] bool: the test images that this model gets wrong."""
        return self.logits[name].argmax(dim=1) != self.labels


def is_image(example: Tensor) -> bool:
    """Whether it can be shown as a picture: [C, H, W]."""
    return example.ndim == 3
