"""Hooks that ``kd.fit`` calls after each epoch."""

from __future__ import annotations

from collections.abc import Callable

from kd.console import say
from kd.training.history import History


def print_epoch(title: str, epochs: int) -> Callable[[int, History], None]:
    """Return an ``on_epoch`` hook that prints loss and accuracy of training and validation, and the time so far."""

    def on_epoch(done: int, history: History) -> None:
        parts = (
            f"{split} loss {history[f'{split}_loss'][-1]:.4f} accuracy {history[f'{split}_acc'][-1]:.2%}"
            for split in ("train", "val")
            if f"{split}_loss" in history
        )
        skipped = history["train_skipped"][-1] if "train_skipped" in history else 0
        more = f"  {skipped:.0f} steps skipped (float16)" if skipped else ""
        say(f"{title:<10} epoch {done:>{len(str(epochs))}}/{epochs}  {'  '.join(parts)}  {history.seconds:.0f} s{more}")

    return on_epoch
