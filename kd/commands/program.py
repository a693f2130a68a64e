"""What every command does around its work: its exit status, one paragraph for what a user can mend."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from kd.console import say
from kd.imports import MissingExtraError
from kd.storage.stopping import Stopped

_typed: ContextVar[str] = ContextVar("the command that is being done", default="")


def typed_command() -> str:
    """The command that is being done, as a person would type it again; "" where functions are called from Python."""
    return _typed.get()


def exit_status(program: Callable[[], None], *, command: Sequence[str] = ()) -> int:
    """Run the program; 0 if it went well, 1 on an error, 130 or 143 where Ctrl-C or SIGTERM ended it.

    An error of ours, in ValueError, OSError, FloatingPointError or MissingExtraError, is printed as it is. Any other is
    a fault in the program and keeps its traceback.

    Args:
        command: the words that were typed, for ``typed``.
    """
    token = _typed.set(shlex.join(command))
    try:
        program()
    except Stopped as stopped:
        say("stopped: the state is kept. Run again, without --fresh, to go on from here.", to_stderr=True)
        return int(stopped.code or 1)
    except KeyboardInterrupt:
        say("\ninterrupted: nothing was half-written, earlier results are as they were.", to_stderr=True)
        return 130
    except (ValueError, OSError, FloatingPointError, MissingExtraError) as error:
        say(f"\nerror: {error}", to_stderr=True)
        return 1
    finally:
        _typed.reset(token)
    return 0
