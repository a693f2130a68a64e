"""Train many students in parallel: one single-threaded process per core.

In small matrix products threads spend more time waiting for each other than they save; single-threaded processes do
not wait (benchmarks/many_students.py). Results are bit-identical to a single-threaded program and do not depend on the
number of processes.

Each worker has a pipe of its own and shares no lock, so that one that dies, at any moment, keeps nobody waiting.
concurrent.futures and joblib's loky share a queue: a worker killed while it holds the queue's lock stops all others.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle

from kd.checks import require
from kd.console import progress, say
from kd.devices import usable_cores
from kd.storage.run_folder import current_run
from kd.storage.stopping import start_without_stop_signals, stop_if_requested
from kd.training.pool_worker import READY, Setup, serve

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.2  # seconds between two updates of the progress bar and checks for a stop
_SILENT_SECONDS = 120.0  # seconds without a step, or without having started, after which a worker is mentioned
_GRACE_SECONDS = 60.0  # seconds for the workers' current steps after a stop; snapshots survive a kill


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
        OSError: a process was killed or could not start; the message names its item.
    """
    processes = usable_cores() if processes is None else processes
    require(processes >= 1, "processes", processes, "an integer of at least 1")
    order = sorted(items, key=lambda name: -steps[name])
    context = multiprocessing.get_context("spawn")  # fork copies locks held by threads and breaks CUDA
    # Shared with the workers. No lock is needed: at any time only one process writes an entry.
    completed_steps = context.RawArray("Q", max(1, len(order)))
    with (
        _hand_over((work, shared)) as file,
        _start_workers(context, min(processes, len(order)), file, completed_steps) as workers,
        progress(title, steps=sum(steps.values())) as advance,
    ):
        waiting = deque((number, name, cloudpickle.dumps(items[name])) for number, name in enumerate(order))
        counter = _StepCounter(completed_steps, [steps[name] for name in order], advance)
        try:
            for name, outcome in _distribute(waiting, workers, counter):
                yield name, cloudpickle.loads(outcome)
        except _DeadWorker as dead:
            stop_if_requested()  # a signal to all processes of this program ends workers too
            doing = f"while it worked on {dead.item}" if dead.item else "while it started"
            raise OSError(
                f"{title}: one of {len(workers)} processes was killed {doing}, perhaps for lack of memory. Finished "
                "work is saved: run again to resume, with fewer --processes if memory is short."
            ) from dead


class _DeadWorker(Exception):
    """A worker process ended; ``item`` is the name of the item that it was working on, if any."""

    def __init__(self, item: str) -> None:
        super().__init__(item)
        self.item = item


class _Worker:
    """A worker process, its pipe, and the item that it is working on."""

    def __init__(self, process: SpawnProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.number: int | None = None  # of its item in the order; None while it starts or has no work
        self.item = ""
        self.starting = True

    def give(self, number: int, item: str, content: bytes) -> None:
        self.number, self.item = number, item
        try:
            self.connection.send_bytes(cloudpickle.dumps((number, content)))
        except OSError as error:
            raise _DeadWorker(item) from error

    def receive(self) -> bytes:
        """Return the outcome of its item, or that it is ready; raise ``_DeadWorker`` if the process ended."""
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise _DeadWorker(self.item) from error


class _StepCounter:
    """Updates the progress bar from the steps that the workers count, and mentions workers that count none."""

    def __init__(self, completed: MutableSequence[int], limits: list[int], advance: Callable[[int], None]) -> None:
        self._completed, self._limits, self._advance = completed, limits, advance
        self._displayed, self._started, self._start_mentioned = 0, time.monotonic(), False
        self._last = {number: (0, time.monotonic()) for number in range(len(limits))}
        self._mentioned: set[int] = set()

    def start(self, number: int) -> None:
        self._last[number] = (self._completed[number], time.monotonic())

    def finish(self, number: int) -> None:
        """Count all steps, also of an item that was reused from an earlier run and took none."""
        self._completed[number] = self._limits[number]

    def update(self, running: Mapping[int, str], starting: int) -> None:
        """Advance the bar.

        Args:
            running: names of the items being worked on, by number.
            starting: number of workers that have not started yet while items wait for them.
        """
        total = sum(min(count, limit) for count, limit in zip(self._completed, self._limits, strict=False))
        self._advance(total - self._displayed)
        self._displayed, now = total, time.monotonic()
        if starting and now - self._started > _SILENT_SECONDS and not self._start_mentioned:
            self._start_mentioned = True
            processes = "1 process is" if starting == 1 else f"{starting} processes are"
            say(f"{processes} still starting after {now - self._started:.0f} s, but alive")
        for number, name in running.items():
            count, since = self._last[number]
            if self._completed[number] != count:
                self._last[number] = (self._completed[number], now)
            elif now - since > _SILENT_SECONDS and number not in self._mentioned:
                self._mentioned.add(number)
                say(f"{name}: no step for {now - since:.0f} s, but its process is alive")


def _distribute(
    waiting: deque[tuple[int, str, bytes]], workers: list[_Worker], counter: _StepCounter
) -> Iterator[tuple[str, bytes]]:
    """Give each item to a worker that is free, and yield (name, outcome) as the workers finish."""
    while waiting or any(worker.number is not None for worker in workers):
        needed = [worker for worker in workers if worker.number is not None or (worker.starting and waiting)]
        ready = wait([worker.connection for worker in needed], timeout=_POLL_SECONDS)
        finished: list[tuple[str, bytes]] = []
        for worker in [worker for worker in needed if worker.connection in ready]:
            outcome, worker.starting = worker.receive(), False
            if worker.number is not None:
                finished.append((worker.item, _raise_errors(outcome)))
                counter.finish(worker.number)
                worker.number, worker.item = None, ""
            elif outcome != READY:
                _raise_errors(outcome)
            if waiting:
                worker.give(*waiting.popleft())
                assert worker.number is not None
                counter.start(worker.number)
        running = {worker.number: worker.item for worker in workers if worker.number is not None}
        counter.update(running, starting=sum(worker.starting for worker in workers) if waiting else 0)
        stop_if_requested()
        yield from finished


def _raise_errors(outcome: bytes) -> bytes:
    """Return the pickled result in an outcome, or raise the error in it."""
    error, result = cloudpickle.loads(outcome)
    if error is not None:
        raise error
    content: bytes = result
    return content


@contextmanager
def _hand_over(content: Any) -> Iterator[Path]:
    """Write the content to a file for the workers: data in a start pipe would block this process if a worker dies.

    multiprocessing would send tensors through /dev/shm, which is small in containers.
    """
    run = current_run()
    folder = run.folder if run else None
    if folder:
        for left_behind in folder.glob("pool-*"):  # by a process that was killed; this one holds the folder's lock
            shutil.rmtree(left_behind, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="pool-", dir=folder, ignore_cleanup_errors=True) as temporary:
        file, data = Path(temporary, "work_and_shared"), cloudpickle.dumps(content)
        try:
            file.write_bytes(data)
        except OSError as error:
            reason = f"cannot write {file}: {error.strerror}; it needs {len(data):,} bytes"
            raise OSError(error.errno, f"{reason}. Free space, and run again to resume.") from error
        yield file


@contextmanager
def _start_workers(
    context: SpawnContext, count: int, work_and_shared: Path, completed_steps: MutableSequence[int]
) -> Iterator[list[_Worker]]:
    """Start the workers, all at once; at the end, let them finish their current steps and exit."""
    stop_receiver, stop_sender = context.Pipe(duplex=False)
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            connection, remote = context.Pipe()
            setup = Setup(work_and_shared, remote, stop_receiver, completed_steps, current_run())
            process = context.Process(target=serve, args=(setup,))
            with start_without_stop_signals():
                process.start()
            remote.close()  # otherwise this process would not notice that the worker has died
            workers.append(_Worker(process, connection))
        stop_receiver.close()
        yield workers
    finally:
        stop_sender.close()  # tells workers to stop; the OS closes the pipes if this process dies
        for worker in workers:
            worker.connection.close()
        _join(workers)


def _join(workers: list[_Worker]) -> None:
    """Wait until all workers have ended; kill those whose step takes too long, which loses no saved state."""
    deadline = time.monotonic() + _GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
