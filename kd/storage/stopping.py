"""Graceful stop: the first SIGTERM or Ctrl-C finishes the current step and saves its state, the second exits at once.

Signal handlers are installed only inside ``handle_stop_signals()``, which a program's main function enters. Elsewhere,
also in Python code that imports and calls the toolkit, Ctrl-C raises KeyboardInterrupt as usual.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_received: list[int] = []  # the first stop signal, if any


class Stopped(SystemExit):
    """Raised after a stop signal, when the state is saved.

    The exit status is 128 + signal: 143 for SIGTERM, 130 for Ctrl-C.
    """


@contextmanager
def handle_stop_signals() -> Iterator[None]:
    """Only record SIGTERM and SIGINT inside the block, so that ``stop_if_requested`` stops at the next safe point."""
    _received.clear()
    old_handlers = {number: signal.signal(number, _handle_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
        stop_if_requested()
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        _received.clear()


def is_stop_requested() -> bool:
    """Return whether a stop was requested; the state should then be saved."""
    return bool(_received)


def request_stop() -> None:
    """Request a stop, like SIGTERM. Repeated calls have no effect. Used in workers, which their parent stops."""
    if not _received:
        _received.append(signal.SIGTERM)


def stop_if_requested() -> None:
    """Raise ``Stopped`` if a stop was requested since the block was entered. Called at safe points."""
    if _received:
        raise Stopped(128 + _received[0])


def _handle_signal(number: int, frame: FrameType | None) -> None:
    if _received:
        os._exit(128 + number)
    _received.append(number)
    name = signal.Signals(number).name
    # Not print(): the handler may interrupt another print(), which is not reentrant.
    with suppress(OSError):  # stderr may be a closed pipe: Ctrl-C ends all programs of a shell pipeline
        os.write(2, f"\n{name}: finishing the current step; repeat to exit at once\n".encode())
