"""What a training has measured so far, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from kd.seeding import generator_states, set_generator_states


class History(dict[str, list[float]]):
    """One list per quantity, one entry per epoch: ``train_loss``, ``val_acc``, …; accuracies are in [0, 1].

    Attributes:
        seconds: wall time of the whole training.
        notes: what a reader of these numbers must know, in plain sentences.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds = 0.0
        self.notes: list[str] = []

    def state(self) -> dict[str, Any]:
        """As plain data, for a snapshot."""
        return {"curves": dict(self), "seconds": self.seconds, "notes": self.notes}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """The inverse of ``state``."""
        history = cls(state["curves"])
        history.seconds, history.notes = state["seconds"], list(state["notes"])
        return history


def load_state(part: Any, state: Mapping[str, Any], name: str) -> None:
    """``part.load_state_dict(state)``, and ValueError for whatever is wrong with the state."""
    try:
        part.load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"what was kept of the {name} does not fit it: {reason} Use --fresh to start anew.") from error


@dataclass
class Means:
    """Running means over samples: each batch counts by its size, or by as many of its samples as a number is of."""

    batches: int = 0
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)  # by number, the samples that it is not of

    def add(self, numbers: Mapping[str, float], samples: int, fewer: Mapping[str, int] | None = None) -> None:
        """Take in the means of one batch of so many samples.

        Args:
            fewer: of how many samples a number is the mean, by name, where not of all; that of none does not count.
        """
        self.batches += 1
        self.samples += samples
        for name, number in numbers.items():
            count = samples if fewer is None else fewer.get(name, samples)
            self.sums[name] = self.sums.get(name, 0.0) + (number * count if count else 0.0)
            self.missing[name] = self.missing.get(name, 0) + samples - count

    def values(self) -> dict[str, float]:
        """The means so far, NaN for what is the mean of no sample. Raises ValueError if there was none at all."""
        if not self.samples:
            raise ValueError("the loader yields no batch (too few samples for drop_last, or an empty dataset).")
        counts = {name: self.samples - self.missing.get(name, 0) for name in self.sums}
        return {name: total / counts[name] if counts[name] else math.nan for name, total in self.sums.items()}


@dataclass
class Position:
    """Where a training stands, between two steps. With the states of its parts, all that going on from here takes."""

    epoch: int = 0
    means: Means = field(default_factory=Means)
    history: History = field(default_factory=History)
    generators: tuple[Tensor, ...] = ()  # to be set before the next step; empty at the start of an epoch

    def state(self, parts: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """Everything as plain data.

        Args:
            parts: model, optimizer and what else has a ``state_dict``; the others are left out.
            device: whose random generator counts besides the CPU's.
        """
        return {
            "where": f"epoch {self.epoch + 1}, batch {self.means.batches}",
            "epoch": self.epoch,
            "means": asdict(self.means),
            "history": self.history.state(),
            "generators": generator_states(device),
            "parts": {name: part.state_dict() for name, part in parts.items() if hasattr(part, "state_dict")},
        }

    def restore(self, state: Mapping[str, Any] | None, parts: Mapping[str, Any]) -> None:
        """Take over a state, in place, and give the parts theirs. None changes nothing."""
        if state is None:
            return
        self.epoch, self.means = state["epoch"], Means(**state["means"])
        self.history = History.from_state(state["history"])
        self.generators = tuple(state["generators"])
        for name, part in state["parts"].items():
            load_state(parts[name], part, name)

    def remaining(self, loader: Iterable[Any], device: torch.device) -> Iterator[Any]:
        """The epoch's batches from here on. Those already seen are drawn and dropped, as the order requires."""
        batches = iter(loader)
        for _ in range(self.means.batches):
            next(batches)
        if self.generators:
            set_generator_states(self.generators, device)
        return batches

    def next_epoch(self, means: Mapping[str, float]) -> None:
        """Note the means of the epoch that is over and go to the start of the next."""
        for name, value in means.items():
            self.history.setdefault(name, []).append(value)
        self.epoch, self.means, self.generators = self.epoch + 1, Means(), ()
