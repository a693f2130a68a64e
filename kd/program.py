"""What every command does around its work: its exit status, one paragraph for what a user can mend."""

from __future__ import annotations

from collections.abc import Callable

from kd.console import say
from kd.stopping import Stopped


def exit_status(program: Callable[[], None]) -> int:
    """Run the program; 0 if it went well, 1 on an error, 130 or 143 where Ctrl-C or SIGTERM ended it.

    An error of ours, in ValueError, OSError or FloatingPointError, is printed as it is. Any other is a fault in the
    program and keeps its traceback.
    """
    try:
        program()
    except Stopped as stopped:
        say("stopped: the state is kept. Run again, without --fresh, to go on from here.", to_stderr=True)
        return int(stopped.code or 1)
    except KeyboardInterrupt:
        say("\ninterrupted: nothing was half-written, earlier results are as they were.", to_stderr=True)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        say(f"\nerror: {error}", to_stderr=True)
        return 1
    return 0
