"""Comparison of the results of two runs."""

from __future__ import annotations

from pathlib import Path

from kd.storage.files import sha256
from kd.storage.fingerprint import digest

TIMED = ("timings.json", "report.html")  # files with measured times, which differ between runs


def folder_digest(*folders: Path) -> str:
    """Return the SHA-256 of all files of a run in these folders except timings; equal for equal weights and results.

    ``report.html`` is also excluded: it contains timings, and all its other numbers are in other files.
    """
    files = sorted((path.name, path) for folder in folders for path in folder.rglob("*") if path.is_file())
    return digest([(name, sha256(path.read_bytes())) for name, path in files if not name.endswith(TIMED)])
