"""Graceful stop: the first stop signal finishes the current step and saves its state, a second exits at once.

Stop signals are SIGTERM, Ctrl-C (SIGINT) and, if the terminal closes, SIGHUP. Handlers are installed only by
``exit_on_stop_signals()``, which a program calls first, and inside ``handle_stop_signals()``, which its main function
enters. Elsewhere, also in Python code that imports and calls the toolkit, Ctrl-C raises KeyboardInterrupt as usual.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
_CLOSED_TERMINAL = getattr(signal, "SIGHUP", None)

_received: list[int] = []  # the first stop signal, if any
_process: list[int] = []  # the process that handles stop signals; its forked children inherit the handlers


class Stopped(SystemExit):
    """Raised after a stop signal, when the state is saved.

    The exit status is 128 + signal: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP.
    """


def exit_on_stop_signals() -> None:
    """From now on, let a stop signal end this process at once, without a traceback, with status 128 + signal.

    For the start of a program, whose imports take seconds: no state must be saved yet, and an exception raised inside
    an import may be swallowed by the imported library.
    """
    _install(lambda number, frame: os._exit(128 + number))


@contextmanager
def handle_stop_signals() -> Iterator[None]:
    """Only record stop signals inside the block, so that ``stop_if_requested`` stops at the next safe point."""
    _received.clear()
    _process[:] = [os.getpid()]
    old_handlers = _install(_handle_signal)
    try:
        yield
        stop_if_requested()
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        _received.clear()


@contextmanager
def start_without_stop_signals() -> Iterator[None]:
    """Let processes started inside the block ignore stop signals until they call ``accept_stop_requests``.

    A terminal sends Ctrl-C and SIGHUP to all processes of a program. Without this, a worker that still imports would
    print a traceback, or die before its parent could tell it to stop.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # started with the first worker, it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # children inherit the blocked signals
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def accept_stop_requests() -> None:
    """In a worker process: treat SIGTERM as a request to stop; ignore the others, since the parent handles them."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: request_stop())
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


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


def _install(handler: Callable[[int, FrameType | None], Any]) -> dict[int, Any]:
    """Handle all stop signals, except those that this process was started to ignore (nohup, background jobs).

    Returns the earlier handlers by signal.
    """
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


def _handle_signal(number: int, frame: FrameType | None) -> None:
    if os.getpid() not in _process:  # a forked loader worker, which its parent stops
        return
    if _received:
        if number == _CLOSED_TERMINAL:  # the shell and the kernel both send it, so this is no wish to exit at once
            return
        os._exit(128 + number)
    _received.append(number)
    _discard_output_of_closed_terminal()
    name, hint = signal.Signals(number).name, "" if number == _CLOSED_TERMINAL else "; repeat to exit at once"
    # Not print(): the handler may interrupt another print(), which is not reentrant.
    with suppress(OSError):  # stderr may be a closed pipe: Ctrl-C ends all programs of a shell pipeline
        os.write(2, f"\n{name}: finishing the current step{hint}\n".encode())


def _discard_output_of_closed_terminal() -> None:
    """Send output to the null device if its terminal is closed, so that no message fails before the state is saved."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")  # on a closed terminal even this fails
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream)
            os.close(null)
