"""Many trainings at once: a pool of single-threaded processes, one for each core.

The threads of one small matrix product wait for each other more than they help; processes of one thread each do not
wait at all (benchmarks/many_students.py). What one computes does not depend on the others, or on how many there are: it
is bit for bit what a program with a single thread computes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

import cloudpickle
import torch

from kd.checks import require
from kd.console import progress, relayed
from kd.storage.run_folder import OpenRun, current_run, join_run
from kd.storage.stopping import request_stop, stop_if_requested

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.2  # seconds between two looks at what the processes have done


def run_in_pool(
    work: Callable[[Shared, Item], Result],
    shared: Shared,
    items: Mapping[str, Item],
    *,
    steps: Mapping[str, int],
    title: str,
    processes: int | None = None,
) -> Iterator[tuple[str, Result]]:
    """(name, work(shared, item)) for each item, as they are finished. Steps in it belong to the run that is open here.

    Functions and closures of any module, the main program's too, can be given. Each process holds a copy of ``shared``.
    Where the consumer stops, an item fails, or this process is asked to stop or dies, every process finishes its step,
    keeps its state and ends.

    Args:
        steps: how many steps of a ``kd.console.progress`` each item takes, for the bar; the longest go first.
        processes: at least 1; one for each core that this process may use, unless given.

    Raises:
        OSError: a process was killed.
    """
    processes = usable_cores() if processes is None else processes
    require(processes >= 1, "processes", processes, "a whole number of at least 1")
    order = sorted(items, key=lambda name: -steps[name])
    context = multiprocessing.get_context("spawn")  # fork copies locks that threads hold, and CUDA does not survive it
    done = context.RawArray("Q", max(1, len(order)))
    theirs, ours = context.Pipe(duplex=False)
    setup = _Setup(cloudpickle.dumps((work, shared)), done, theirs, current_run())
    pool = ProcessPoolExecutor(min(processes, max(1, len(order))), context, _init_worker, (setup,))
    try:
        futures = {
            pool.submit(_run_item, number, cloudpickle.dumps(items[name])): (number, name)
            for number, name in enumerate(order)
        }
        with progress(title, steps=sum(steps.values())) as advance:
            yield from _collect_results(futures, done, [steps[name] for name in order], advance)
    except BrokenProcessPool as error:
        raise OSError(
            f"{title}: one of {processes} processes was killed, perhaps because memory ran out, or could not start. "
            "What was finished is kept: run again to go on, with fewer --processes if memory is short."
        ) from error
    finally:
        ours.close()  # the word for all to stop; if this process dies, the system says it
        pool.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _collect_results(
    futures: dict[Future[bytes], tuple[int, str]],
    done: MutableSequence[int],
    steps: list[int],
    advance: Callable[[int], None],
) -> Iterator[tuple[str, Any]]:
    shown = 0
    while futures:
        ready, _ = wait(futures, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        results = [(futures.pop(future), future.result()) for future in ready]
        for (number, _), _ in results:
            done[number] = steps[number]  # also where it was kept from an earlier run and took none
        now = sum(min(count, most) for count, most in zip(done, steps, strict=False))
        advance(now - shown)
        shown = now
        stop_if_requested()
        for (_, name), result in results:
            yield name, cloudpickle.loads(result)


class _Setup(NamedTuple):
    """What each process is started with. As bytes, because multiprocessing cannot send closures, and would send
    tensors through /dev/shm, which containers keep small."""

    work_and_shared: bytes
    done: MutableSequence[int]
    word: Connection
    run: OpenRun | None


class _Worker(NamedTuple):
    work: Callable[[Any, Any], Any]
    shared: Any
    done: MutableSequence[int]


_worker: list[_Worker] = []
_item_lock = threading.Lock()


def _init_worker(setup: _Setup) -> None:
    """Make this process a worker. Signals are the parent's business: it passes them on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: request_stop())
    threading.Thread(target=_watch_parent, args=(setup.word,), daemon=True).start()
    torch.set_num_threads(1)
    join_run(setup.run)
    work, shared = cloudpickle.loads(setup.work_and_shared)
    _worker.append(_Worker(work, shared, setup.done))


def _watch_parent(word: Connection) -> None:
    """Stop when the pipe is closed. End when the parent is gone: its executor's processes would wait for it forever."""
    word.poll(None)  # nothing is ever sent
    request_stop()
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    with _item_lock:
        os._exit(128 + signal.SIGTERM)


def _run_item(number: int, item: bytes) -> bytes:
    (worker,) = _worker

    def advance(steps: int) -> None:
        worker.done[number] += steps

    with _item_lock, relayed(advance):
        stop_if_requested()
        return bytes(cloudpickle.dumps(worker.work(worker.shared, cloudpickle.loads(item))))
