"""Whether two runs have left the same."""

from __future__ import annotations

from pathlib import Path

from kd.storage.files import sha256
from kd.storage.fingerprint import digest

TIMED = ("timings.json", "report.html")  # files with measured times, which are others each time


def folder_digest(*folders: Path) -> str:
    """SHA-256 over all that a run leaves in these folders, but for its timings: equal for equal weights and results.

    ``report.html`` is left out as well: it shows timings, beside numbers that the other files have too.
    """
    files = sorted((path.name, path) for folder in folders for path in folder.rglob("*") if path.is_file())
    return digest([(name, sha256(path.read_bytes())) for name, path in files if not name.endswith(TIMED)])
