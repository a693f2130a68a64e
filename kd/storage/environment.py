"""The environment of a result: package code, versions, number of threads, processor."""

from __future__ import annotations

import functools
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kd.storage.files import sha256
from kd.storage.fingerprint import digest


def environment() -> dict[str, Any]:
    """Return everything besides a step's inputs that can change the bits of its result. Part of the step's key.

    Nothing else is included, since any change here makes every step run again. A GPU is not included either: the
    device is one of the step's inputs.
    """
    return {
        "kd": package_digest(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processor": _describe_processor(),
        "precision": f"{torch.get_default_dtype()} {torch.get_float32_matmul_precision()}",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "variables": {name: os.environ[name] for name in _KERNEL_VARIABLES if name in os.environ},
    }


# Environment variables by which the math libraries choose other kernels, and so other bits.
_KERNEL_VARIABLES = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
)

PACKAGE = Path(__file__).parents[1]  # the whole package: a digest of this folder alone would keep stale results

# Modules and folders that cannot change a result. A new module is part of the digest until it is listed here, so that
# a forgotten entry costs a repeated step instead of a stale result.
_RESULT_NEUTRAL = """
arms cli console devices formatting report
commands/before_training commands/class_weights commands/compare commands/config_flags commands/differences
commands/differences_report commands/dry_run commands/export/command commands/export/settings commands/export/subject
commands/help commands/judge commands/judgement_json commands/ledger commands/messages commands/paired_settings
commands/paired_table commands/predict commands/program commands/publish commands/recipe commands/recipe_settings
commands/run commands/settings commands/settings_file commands/settings_paths commands/slices_report
commands/step_times commands/steps commands/subject commands/sweep commands/teacher_settings commands/trained_on
commands/trust
deploy/columns deploy/deployed deploy/description deploy/export deploy/folder deploy/formats deploy/gate deploy/inputs
deploy/load deploy/manifest deploy/model_card deploy/predict deploy/rows deploy/runtime deploy/stored_model
evaluation/calibration evaluation/classwise evaluation/comparison evaluation/comparison_rows
evaluation/comparison_slices evaluation/comparison_verdict evaluation/contrast evaluation/cost evaluation/crossed
evaluation/failures
evaluation/fidelity evaluation/judging evaluation/latency evaluation/paired_seeds evaluation/power
evaluation/quantities evaluation/sequential evaluation/slices evaluation/timing evaluation/tradeoffs
evaluation/two_models evaluation/unlike evaluation/verdict evaluation/verdict_text
storage/cleaning storage/exchange storage/places storage/resources storage/stopping
teachers/saturation
training/contention training/pool training/pool_worker training/students training/tracking training/trial
training/untrained
"""


@functools.cache  # computed once, when the run is opened: the sources may be edited during the run
def package_digest() -> str:
    """Return the digest of this package's sources, without modules that only print, draw, write or parse."""
    return digest_package(PACKAGE)


@functools.cache  # as above
def source_digest() -> str:
    """Return the digest of all sources of this package, which also changes with code that only prints or draws."""
    return digest_package(PACKAGE, complete=True)


def digest_package(package: Path, *, complete: bool = False) -> str:
    """Return the digest of a package in any folder, such as a copy; by default without result-neutral modules."""
    sources = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    relevant = [path for path in sources if complete or not _is_result_neutral(path.with_suffix("").as_posix())]
    return digest([(path.as_posix(), sha256((package / path).read_bytes())) for path in relevant])[:12]


def _is_result_neutral(module: str) -> bool:
    """Return whether ``_RESULT_NEUTRAL`` lists this module (a path inside the package) or one of its folders."""
    return any(module == name or module.startswith(f"{name}/") for name in _RESULT_NEUTRAL.split())


def _describe_processor() -> str:
    """Return the processor as precisely as the system reports it: math libraries choose kernels by its model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return f"{platform.machine()} {model} {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, Any]:
    """Return package versions and machine, recorded with results for readers. This record is not part of any key."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy", "scikit-learn")},
        "machine": platform.platform(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
    }
