"""Training history, running means, and the position from which a training run resumes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from kd.seeding import check_generator_states, generator_states, set_generator_states

_MAX_REASON = 1000  # characters of torch's reason in an error


class History(dict[str, list[float]]):
    """Curves of a training run: one list per quantity (``train_loss``, ``val_acc``, …), one entry per epoch.

    Accuracies are in [0, 1].

    Attributes:
        seconds: wall time of the whole training run.
        notes: caveats for readers of these numbers, as full sentences.
        kept: number of the epoch, from 1, whose weights the validation set chose; 0 if none was chosen.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds = 0.0
        self.notes: list[str] = []
        self.kept = 0

    def final(self, name: str) -> float:
        """Return a quantity after the epoch whose weights the model has."""
        return self[name][self.kept - 1]

    def state(self) -> dict[str, Any]:
        """Return the history as plain data, for a snapshot."""
        return {"curves": dict(self), "seconds": self.seconds, "notes": self.notes, "kept": self.kept}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """Return the history saved by ``state``; raise ``ValueError`` if its curves are no lists of numbers."""
        history = cls(state["curves"])
        history.seconds, history.notes = float(state["seconds"]), list(state["notes"])
        history.kept = int(state["kept"])
        curves = [*history.values(), [history.seconds]]
        are_numbers = all(isinstance(curve, list) and set(map(type, curve)) <= {int, float} for curve in curves)
        if not are_numbers or not 0 <= history.seconds < math.inf or not all(type(n) is str for n in history.notes):
            raise ValueError("its curves must be lists of numbers, its seconds at least 0, and its notes texts")
        if not 0 <= history.kept <= max(map(len, history.values()), default=0):
            raise ValueError(f"its kept epoch {history.kept} is not among its epochs")
        return history


def load_state(part: Any, state: Mapping[str, Any], name: str) -> None:
    """Call ``part.load_state_dict(state)``, and raise ValueError if the state does not fit."""
    try:
        part.load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(":.")  # torch names each missing and unexpected entry in a line
        if len(reason) > _MAX_REASON:
            reason = f"{reason[:_MAX_REASON]} …"
        raise ValueError(f"saved state does not fit the {name} ({reason}). Use --fresh to start over.") from error


def require_numbers(model: nn.Module) -> None:
    """Raise ``ValueError`` if a weight of the model is NaN."""
    for name, tensor in model.state_dict().items():
        if bool(tensor.isnan().any()):
            raise ValueError(f"its weights {name} contain NaN")


@dataclass
class Means:
    """Running means over samples: each batch is weighted by the number of samples behind its mean."""

    batches: int = 0
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)  # quantity → samples that it was not measured on

    def add(self, numbers: Mapping[str, float], samples: int, fewer: Mapping[str, int] | None = None) -> None:
        """Add the means of one batch.

        Args:
            samples: size of the batch.
            fewer: number of samples behind a mean, by name, if fewer than the batch. A mean of 0 samples is ignored.
        """
        self.batches += 1
        self.samples += samples
        for name, number in numbers.items():
            count = samples if fewer is None else fewer.get(name, samples)
            self.sums[name] = self.sums.get(name, 0.0) + (number * count if count else 0.0)
            self.missing[name] = self.missing.get(name, 0) + samples - count

    def values(self) -> dict[str, float]:
        """Return the means so far, NaN for a quantity without samples. Raises ValueError if there was no batch."""
        if not self.samples:
            raise ValueError("the loader yields no batch: the dataset is empty or too small for drop_last.")
        counts = {name: self.samples - self.missing.get(name, 0) for name in self.sums}
        return {name: total / counts[name] if counts[name] else math.nan for name, total in self.sums.items()}


@dataclass
class Position:
    """Position of a training between two training steps.

    Together with the states of model, optimizer, scheduler and objective, it is all that resuming needs.
    """

    epoch: int = 0
    means: Means = field(default_factory=Means)
    history: History = field(default_factory=History)
    generators: tuple[Any, ...] = ()  # random states to restore before the next step; empty at an epoch's start

    def state(self, parts: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """Return position and parts as plain data.

        Args:
            parts: model, optimizer, scheduler, objective; those without a ``state_dict`` are skipped.
            device: device whose random generator is saved besides those of the CPU.
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
        """Restore position and parts in place from a saved state; None changes nothing.

        Raises:
            ValueError, LookupError, TypeError, RuntimeError: the state does not have the form of ``state``.
        """
        if state is None:
            return
        self.epoch, self.means = int(state["epoch"]), Means(**state["means"])
        self.history = History.from_state(state["history"])
        if not 0 <= self.epoch == min(map(len, self.history.values()), default=0) or not self.means.batches >= 0:
            raise ValueError(f"its position is no number of epochs: {self.epoch}")
        self.generators = tuple(state["generators"])
        check_generator_states(self.generators)
        for name, part in state["parts"].items():
            load_state(parts[name], part, name)
        require_numbers(parts["model"])

    def remaining(self, loader: Iterable[Any], device: torch.device) -> Iterator[Any]:
        """Return the epoch's remaining batches. Completed batches are drawn again and dropped, to keep the order."""
        batches = iter(loader)
        for _ in range(self.means.batches):
            if next(batches, None) is None:
                raise ValueError("the saved position is beyond the epoch's last batch. Use --fresh to start over.")
        if self.generators:
            set_generator_states(self.generators, device)
        return batches

    def next_epoch(self, means: Mapping[str, float]) -> None:
        """Add the finished epoch's means to the history and move to the start of the next epoch."""
        for name, value in means.items():
            self.history.setdefault(name, []).append(value)
        self.epoch, self.means, self.generators = self.epoch + 1, Means(), ()
