"""Being asked to stop: SIGTERM and Ctrl-C let the step in hand finish and its state be kept; a second one does not.

Nothing is set up by importing or by calling the toolkit: only inside ``stopping_when_asked()``, which a program's main
function opens, are the two signals handled here. Elsewhere Ctrl-C is Python's own KeyboardInterrupt.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_asked: list[int] = []  # the signal that asked, if one did


class Stopped(SystemExit):
    """Asked to stop, with the state kept. Ends the program with 128 + signal: 143 for SIGTERM, 130 for Ctrl-C."""


@contextmanager
def stopping_when_asked() -> Iterator[None]:
    """Inside the block SIGTERM and SIGINT only leave word, which ``stop_if_asked`` obeys at the next safe point."""
    _asked.clear()
    earlier = {number: signal.signal(number, _ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
        stop_if_asked()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        _asked.clear()


def asked_to_stop() -> bool:
    """Whether a signal has come in: time to keep the state."""
    return bool(_asked)


def ask_to_stop() -> None:
    """Leave word as SIGTERM does; once more changes nothing. For a worker process, which its parent tells to stop."""
    if not _asked:
        _asked.append(signal.SIGTERM)


def stop_if_asked() -> None:
    """A safe point: raise ``Stopped`` if a signal has come in since the block was entered."""
    if _asked:
        raise Stopped(128 + _asked[0])


def _ask(number: int, frame: FrameType | None) -> None:
    if _asked:
        os._exit(128 + number)
    _asked.append(number)
    name = signal.Signals(number).name
    # Not print: a handler may interrupt another print, which does not allow that.
    with suppress(OSError):  # whoever read it may be gone: Ctrl-C reaches a whole pipeline of programs
        os.write(2, f"\n{name}: finishing the step in hand, once more ends at once\n".encode())
