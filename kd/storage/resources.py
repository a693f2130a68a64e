"""Resources of this machine: available memory, checks before large allocations, and errors that are passing faults."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

_ALWAYS_ALLOWED = 64 * 1024**2  # bytes; smaller sizes are not worth a look at the memory
_CGROUP = Path("/sys/fs/cgroup")
# In torch's RuntimeErrors, which have no type of their own on a CPU: failed allocations, and sizes above 2⁶³.
_MEMORY_MESSAGES = ("allocate memory", "not enough memory", "out of memory", "size calculation overflow", "bad_alloc")
_PASSING_FAULTS = frozenset(
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "ENOMEM", "EIO", "EINTR", "EAGAIN", "EBUSY", "ESTALE", "ETIMEDOUT", "ENOBUFS")
    if hasattr(errno, name)
)


def available_memory() -> int | None:
    """Return the bytes of memory that this process may still allocate; None if the system does not tell.

    It is the least of the machine's available memory, the rest of the container's limit (cgroup version 2) and the rest
    of the process's limit (``ulimit -v``).
    """
    limits = (_read_machine(), _read_container(), _read_process())
    return min((max(0, limit) for limit in limits if limit is not None), default=None)


def require_memory(needed: int, purpose: str, remedy: str = "") -> None:
    """Check that so many bytes are available, before they are allocated.

    Args:
        purpose: subject of the error message, such as the name of a file.
        remedy: advice, as a sentence.

    Raises:
        MemoryError: states the purpose, the bytes needed and the bytes available.
    """
    if needed <= _ALWAYS_ALLOWED:
        return
    available = available_memory()
    if available is not None and needed > available:
        message = f"{purpose} needs about {needed:,} bytes of memory; {available:,} are available. {remedy}"
        raise MemoryError(message.rstrip())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory could not be allocated. torch raises RuntimeErrors for it."""
    if isinstance(error, RuntimeError):
        return any(message in str(error) for message in _MEMORY_MESSAGES)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def is_passing_fault(error: BaseException) -> bool:
    """Return whether an error tells about this machine at this moment, not about the file that was to be read.

    Such a file may be intact: it must not be treated as damaged.
    """
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in _PASSING_FAULTS)


def _read_machine() -> int | None:
    with suppress(OSError, ValueError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(AttributeError, OSError, ValueError):  # macOS: the memory installed, an upper bound
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _read_container() -> int | None:
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        limit, used = (int((_CGROUP / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit - used + int(statistics.get("inactive_file", 0))  # the cache of files gives way
    return None


def _read_process() -> int | None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            return limit - pages * resource.getpagesize()
    return None
