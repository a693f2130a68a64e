"""What else decides the bits of a result besides its inputs: this package's code, versions, threads, processor."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kd.storage.files import sha256
from kd.storage.fingerprint import digest


def environment() -> dict[str, Any]:
    """For a step's key: what else decides the bits of a result, and nothing more, so that no step is done in vain.

    A GPU is part of a step's own inputs: its device.
    """
    return {
        "kd": package_digest(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "precision": f"{torch.get_default_dtype()} {torch.get_float32_matmul_precision()}",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


PACKAGE = Path(__file__).parents[1]

# Modules and folders that may change without changing a result. A new one counts until it is named here: the safe
# way round.
_NO_RESULTS = """
arms cli console devices
commands/compare commands/run commands/sweep
commands/config_flags commands/dry_run commands/messages commands/paired_table commands/program commands/publish
commands/settings commands/settings_file commands/steps
evaluation/calibration evaluation/cost evaluation/fidelity evaluation/latency evaluation/paired_seeds evaluation/power
evaluation/two_models evaluation/verdict
report
training/contention training/pool training/students
"""


@functools.cache  # read once, when the run is opened: the files may be edited while it goes on
def package_digest() -> str:
    """Digest of this package's sources, but for those that only print, draw, write or parse."""
    return digest_of(PACKAGE)


def digest_of(package: Path) -> str:
    """As ``package_digest``, of a package that lies in this folder."""
    sources = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    counting = [path for path in sources if not _without_results(path.with_suffix("").as_posix())]
    return digest([(path.as_posix(), sha256((package / path).read_bytes())) for path in counting])[:12]


def _without_results(module: str) -> bool:
    """Whether a module, by its path in the package, is named in ``_NO_RESULTS``, or is in a folder that is."""
    return any(module == name or module.startswith(f"{name}/") for name in _NO_RESULTS.split())


def _processor() -> str:
    """As exactly as the system tells: math libraries choose their kernels by the model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return f"{platform.machine()} {model} {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, Any]:
    """For a reader of results: with which packages and on what machine they were made. No key depends on it."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy", "scikit-learn")},
        "machine": platform.platform(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
    }
