"""Freed memory stays with the process, instead of going back to the system after each training step."""

from __future__ import annotations

import ctypes
import os
import platform

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_TUNED_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed; whether it was done. For a command's start: it holds for the whole process.

    A training step frees megabytes of activations and takes as much again in the next. By default glibc may hand such
    blocks back to the kernel, which has to zero every page anew, until it has raised its thresholds by itself
    (docs/performance.md tells what that is worth). The numbers computed are the same.

    Left alone: another C library, and a process whose user has set malloc's own environment variables.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _TUNED_BY_USER):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No block gets a mapping of its own, and the heap is not trimmed below 2 GiB of free memory at its top.
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
