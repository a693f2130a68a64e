"""Train many students in parallel: one single-threaded process per core.

In small matrix products threads spend more time waiting for each other than they save; single-threaded processes do
not wait (benchmarks/many_students.py). Results are bit-identical to a single-threaded program and do not depend on the
number of processes.
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
from kd.console import progress, relay_progress
from kd.devices import usable_cores
from kd.storage.run_folder import OpenRun, current_run, join_run
from kd.storage.stopping import request_stop, stop_if_requested

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.2  # seconds between two updates of the progress bar and checks for a stop


def run_in_pool(
    work: Callable[[Shared, Item], Result],
    shared: Shared,
    items: Mapping[str, Item],
    *,
    steps: Mapping[str, int],
    title: str,
    processes: int | None = None,
) -> Iterator[tuple[str, Result]]:
    """Yield (name, work(shared, item)) for each item as it finishes. Run steps inside ``work`` use the open run.

    Functions and closures of any module are accepted, including ``__main__``. Each process has its own copy of
    ``shared``. Every process finishes its current step, saves its state and exits if the consumer stops, if an item
    fails, or if this process is stopped or dies.

    Args:
        steps: number of ``kd.console.progress`` steps of each item, for the progress bar. The longest items start
            first.
        processes: at least 1; defaults to the number of cores that this process may use.

    Raises:
        OSError: a process was killed or could not start.
    """
    processes = usable_cores() if processes is None else processes
    require(processes >= 1, "processes", processes, "an integer of at least 1")
    order = sorted(items, key=lambda name: -steps[name])
    context = multiprocessing.get_context("spawn")  # fork copies locks held by threads and breaks CUDA
    # Shared with the workers. No lock is needed: at any time only one process writes an entry.
    completed_steps = context.RawArray("Q", max(1, len(order)))
    stop_receiver, stop_sender = context.Pipe(duplex=False)
    setup = _Setup(cloudpickle.dumps((work, shared)), completed_steps, stop_receiver, current_run())
    pool = ProcessPoolExecutor(min(processes, max(1, len(order))), context, _init_worker, (setup,))
    try:
        futures = {
            pool.submit(_run_item, number, cloudpickle.dumps(items[name])): (number, name)
            for number, name in enumerate(order)
        }
        with progress(title, steps=sum(steps.values())) as advance:
            yield from _collect_results(futures, completed_steps, [steps[name] for name in order], advance)
    except BrokenProcessPool as error:
        raise OSError(
            f"{title}: one of {processes} processes was killed, perhaps for lack of memory, or could not start. "
            "Finished work is saved: run again to resume, with fewer --processes if memory is short."
        ) from error
    finally:
        stop_sender.close()  # tells workers to stop; the OS closes the pipe if this process dies
        pool.shutdown(cancel_futures=True)


def _collect_results(
    futures: dict[Future[bytes], tuple[int, str]],
    completed_steps: MutableSequence[int],
    steps: list[int],
    advance: Callable[[int], None],
) -> Iterator[tuple[str, Any]]:
    displayed = 0
    while futures:
        ready, _ = wait(futures, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        results = [(futures.pop(future), future.result()) for future in ready]
        for (number, _), _ in results:
            completed_steps[number] = steps[number]  # also for an item reused from an earlier run, which takes no steps
        total = sum(min(count, limit) for count, limit in zip(completed_steps, steps, strict=False))
        advance(total - displayed)
        displayed = total
        stop_if_requested()
        for (_, name), result in results:
            yield name, cloudpickle.loads(result)


class _Setup(NamedTuple):
    """Arguments of a worker process.

    ``work`` and ``shared`` are pickled to bytes, because multiprocessing cannot send closures and sends tensors through
    /dev/shm, which is small in containers.
    """

    work_and_shared: bytes
    completed_steps: MutableSequence[int]
    stop_receiver: Connection
    run: OpenRun | None


class _Worker(NamedTuple):
    work: Callable[[Any, Any], Any]
    shared: Any
    completed_steps: MutableSequence[int]


_worker: list[_Worker] = []
_item_lock = threading.Lock()  # held while an item runs, so that an orphaned worker saves its state before it exits


def _init_worker(setup: _Setup) -> None:
    """Set up this worker process. Ctrl-C is ignored, since the parent handles it and stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: request_stop())
    threading.Thread(target=_watch_parent, args=(setup.stop_receiver,), daemon=True).start()
    torch.set_num_threads(1)
    join_run(setup.run)
    work, shared = cloudpickle.loads(setup.work_and_shared)
    _worker.append(_Worker(work, shared, setup.completed_steps))


def _watch_parent(stop_receiver: Connection) -> None:
    """Request a stop when the pipe closes; exit when the parent has died, since an orphan would wait forever."""
    stop_receiver.poll(None)  # returns when the pipe is closed; nothing is ever sent
    request_stop()
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    with _item_lock:
        os._exit(128 + signal.SIGTERM)


def _run_item(number: int, item: bytes) -> bytes:
    (worker,) = _worker

    def advance(steps: int) -> None:
        worker.completed_steps[number] += steps

    with _item_lock, relay_progress(advance):
        stop_if_requested()
        return bytes(cloudpickle.dumps(worker.work(worker.shared, cloudpickle.loads(item))))
