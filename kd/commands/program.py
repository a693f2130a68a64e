"""Exit status and error messages of all commands; errors that a user can fix are printed without a traceback."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from kd.console import say
from kd.imports import MissingExtraError
from kd.storage.resources import is_out_of_memory
from kd.storage.stopping import Stopped

_SMALLER = "Use smaller data, models or batches, or a machine with more memory. Finished steps are saved."
_typed: ContextVar[str] = ContextVar("the running command", default="")


def typed_command() -> str:
    """Return the command line of the running command; "" if functions are called from Python."""
    return _typed.get()


def exit_status(program: Callable[[], None], *, command: Sequence[str] = ()) -> int:
    """Run the program. Return 0 on success, 1 on an error, 130 after Ctrl-C and 143 after SIGTERM.

    ValueError, OSError, FloatingPointError, MissingExtraError and lack of memory are printed as a message. Any other
    exception is a bug and keeps its traceback.

    Args:
        command: the command line, for ``typed_command``.
    """
    token = _typed.set(shlex.join(command))
    try:
        program()
    except Stopped as stopped:
        say("stopped; state saved. Run the same command (without --fresh) to resume.", to_stderr=True)
        return int(stopped.code or 1)
    except KeyboardInterrupt:
        say("\ninterrupted; no file is half-written, earlier results are unchanged.", to_stderr=True)
        return 130
    except (ValueError, OSError, FloatingPointError, MissingExtraError) as error:
        say(f"\nerror: {error}", to_stderr=True)
        return 1
    except (MemoryError, RuntimeError) as error:  # torch raises a RuntimeError if it cannot allocate memory
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split()) or "an allocation failed."
        say(f"\nerror: not enough memory: {reason} {_SMALLER}", to_stderr=True)
        return 1
    finally:
        _typed.reset(token)
    return 0
