"""Exit status and error messages of all commands; errors that a user can fix are printed without a traceback."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from kd.console import OutputError, name_output_errors, printable, say
from kd.imports import MissingExtraError
from kd.storage.resources import is_out_of_memory
from kd.storage.stopping import Stopped

_SMALLER = "Use smaller data, models or batches, or a machine with more memory. Finished steps are saved."
_SIGPIPE = 13  # its number on every system that has it

_typed: ContextVar[str] = ContextVar("the running command", default="")


def typed_command() -> str:
    """Return the command line of the running command; "" if functions are called from Python."""
    return _typed.get()


def exit_status(program: Callable[[], None], *, command: Sequence[str] = ()) -> int:
    """Run the program. Return 0 on success, 1 on an error, and 128 + signal after a stop signal (130 for Ctrl-C).

    ValueError, OSError, FloatingPointError, MissingExtraError and lack of memory are printed as a message. Any other
    exception is a bug and keeps its traceback. If the reader of standard output ends first (``| head``), nothing is
    printed and the status is 141, as if SIGPIPE had ended the program.

    Args:
        command: the command line, for ``typed_command``.
    """
    token = _typed.set(shlex.join(command))
    try:
        try:
            with _printable_warnings():
                return _run(program)
        finally:
            _flush()  # here, since Python reports a failure at its end with a traceback
    except BrokenPipeError:
        _discard_output()
        return 128 + _SIGPIPE
    except OutputError as error:
        _discard_output()
        _say_error(f"error: {error.strerror}")
        return 1
    finally:
        _typed.reset(token)


def _run(program: Callable[[], None]) -> int:
    """Run the program and return its exit status; raise only errors of the output, and bugs."""
    try:
        program()
    except Stopped as stopped:
        _say_error("stopped; state saved. Run the same command (without --fresh) to resume.")
        return int(stopped.code or 1)
    except KeyboardInterrupt:
        _say_error("\ninterrupted; no file is half-written, earlier results are unchanged.")
        return 130
    except (BrokenPipeError, OutputError):
        raise
    except (ValueError, OSError, FloatingPointError, MissingExtraError) as error:
        own = error.strerror if isinstance(error, OSError) and error.filename is None else None
        _say_error(f"\nerror: {own or error}")  # without "[Errno 17]" before a sentence
        return 1
    except (MemoryError, RuntimeError) as error:  # torch raises a RuntimeError if it cannot allocate memory
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split()) or "an allocation failed."
        _say_error(f"\nerror: not enough memory: {reason} {_SMALLER}")
        return 1
    return 0


def _say_error(text: str) -> None:
    with suppress(OSError):  # there is nowhere left to report that standard error cannot be written
        say(text, to_stderr=True)


def _flush() -> None:
    if sys.stdout is not None:  # as in a Windows program without a console
        with name_output_errors():
            sys.stdout.flush()


def _discard_output() -> None:
    """Send all further output to the null device, so that Python's last flush does not fail again."""
    with suppress(OSError, ValueError):  # no file, as in a test
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def _printable_warnings() -> Iterator[None]:
    """Inside the block, warnings cannot control the terminal: names from data are also in other packages' warnings."""
    original = warnings.formatwarning

    def format_printable(message: Any, category: Any, *arguments: Any, **options: Any) -> str:
        if category is UserWarning:  # for the user, to whom a line of the source says nothing
            return f"warning: {printable(str(message))}\n"
        return printable(original(message, category, *arguments, **options))

    warnings.formatwarning = format_printable
    try:
        yield
    finally:
        warnings.formatwarning = original
