"""The worker processes of ``kd.training.pool``."""

from __future__ import annotations

import threading
import traceback
from collections.abc import MutableSequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import torch

from kd.console import relay_progress
from kd.storage.run_folder import OpenRun, join_run
from kd.storage.stopping import Stopped, accept_stop_requests, request_stop, stop_if_requested

READY = b"ready"


class Setup(NamedTuple):
    """Arguments of a worker process; small, because they are sent while it starts.

    Attributes:
        work_and_shared: a file with the pickled function and its first argument.
        connection: yields pickled (number of the item, pickled item); takes READY or a pickled error, and then for each
            item pickled (error, pickled result).
        stop_receiver: a pipe that is closed when the workers must stop; nothing is ever sent.
        completed_steps: progress steps by number of the item.
    """

    work_and_shared: Path
    connection: Connection
    stop_receiver: Connection
    completed_steps: MutableSequence[int]
    run: OpenRun | None


def serve(setup: Setup) -> None:
    """Work on items until their pipe closes or a stop is requested."""
    accept_stop_requests()
    threading.Thread(target=_watch_for_stop, args=(setup.stop_receiver,), daemon=True).start()
    torch.set_num_threads(1)
    join_run(setup.run)
    try:
        try:
            work, shared = cloudpickle.loads(setup.work_and_shared.read_bytes())
        except Exception as error:  # the disk fails, or a module cannot be imported here
            setup.connection.send_bytes(_pickle_error(error))
            return
        setup.connection.send_bytes(READY)
        while True:
            number, item = cloudpickle.loads(setup.connection.recv_bytes())
            setup.connection.send_bytes(_work_on(work, shared, item, number, setup.completed_steps))
    except (EOFError, OSError, Stopped):  # the parent has closed the pipe, removed the file, or died
        return


def _work_on(work: Any, shared: Any, item: bytes, number: int, completed_steps: MutableSequence[int]) -> bytes:
    """Return the pickled (error, pickled result) of an item."""

    def advance(steps: int) -> None:
        completed_steps[number] += steps

    try:
        with relay_progress(advance):
            stop_if_requested()
            result = cloudpickle.dumps(work(shared, cloudpickle.loads(item)))
        return bytes(cloudpickle.dumps((None, result)))
    except Exception as error:
        return _pickle_error(error)


def _pickle_error(error: Exception) -> bytes:
    """Return the outcome of work that raised this error, to be called while it is handled.

    An error that cannot be pickled or unpickled, such as one whose constructor takes other arguments, is replaced by a
    ``RuntimeError`` with its type and message.
    """
    where = traceback.format_exc()  # the parent's traceback does not show where the worker was
    try:
        error.add_note(where)
        outcome = bytes(cloudpickle.dumps((error, None)))
        cloudpickle.loads(outcome)
    except Exception:  # raised by the error's own methods
        replacement = RuntimeError(f"{type(error).__name__}: {error}")
        replacement.add_note(where)
        return bytes(cloudpickle.dumps((replacement, None)))
    return outcome


def _watch_for_stop(stop_receiver: Connection) -> None:
    stop_receiver.poll(None)  # returns when the pipe is closed, also by the death of the parent
    request_stop()
