"""The ``kd export`` command: load a network and its test set, convert, check, write the folder."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from kd.commands.export.distill import distil_int8
from kd.commands.export.settings import ExportSettings
from kd.commands.export.subject import load_candidate
from kd.commands.messages import say_files
from kd.console import print_table, say
from kd.deploy.deployed import deploy
from kd.deploy.export import Candidate, Exported, export
from kd.deploy.folder import publish_folder, remove_export, require_own_folder
from kd.deploy.manifest import NAME as MANIFEST
from kd.deploy.runtime import LARGE_BATCH
from kd.devices import using_threads
from kd.evaluation.timing import summarise_times, time_calls
from kd.evaluation.two_models import Accuracy, accuracy_of
from kd.storage.places import use_folders


def run(settings: ExportSettings) -> None:
    """Export a network.

    Raises:
        ValueError: a setting is wrong, the network or its data do not fit, or a file failed its gate (the others are
            kept).
        OSError: a file cannot be read, or the folder is not writable.
        MissingExtraError: the extra ``export`` is not installed.
    """
    require_own_folder(settings.folder)
    candidate, origin = load_candidate(settings)
    reference = accuracy_of(int(candidate.reference.wrong.sum()), len(candidate.reference.labels))
    items = f"{reference.images:,} test {candidate.manifest.noun}"
    say(f"{candidate.architecture} ({origin.arm}): {reference.errors:,} errors on {items} in PyTorch")
    exported = export(
        candidate,
        settings.formats,
        margin=settings.margin,
        threads=settings.threads,
        calibration=settings.calibration,
        converted={"int8": distil_int8(settings, candidate)} if settings.distill else {},
    )
    _print(candidate, exported, reference, settings.threads)
    failed = [result for result in exported if result.problem]
    if len(failed) < len(exported):
        with use_folders([settings.folder]):
            files = publish_folder(settings.folder, candidate, exported, origin, reference)
        say_files(files, but=settings.folder / ".kd")
    elif (settings.folder / MANIFEST).is_file():
        with use_folders([settings.folder]):
            remove_export(settings.folder)
    if failed:
        reasons = "; ".join(f"{result.file}: {result.problem}" for result in failed)
        raise ValueError(
            f"{len(failed)} of {len(exported)} files failed and were not kept. {reasons}.{_advise(failed)}"
        )


def _advise(failed: Sequence[Exported]) -> str:
    if any(result.kind == "int8" and result.check for result in failed):
        return " A larger --margin accepts the loss; a larger --calibration may reduce it; --formats omits int8."
    return ""


def _print(candidate: Candidate, exported: Sequence[Exported], reference: Accuracy, threads: int) -> None:
    header = ["", "gate", "accuracy", "agreement", "bytes", "1 input, ms", f"{LARGE_BATCH} inputs, ms"]
    rows = {"PyTorch": ["", f"{reference.accuracy:.2%}", "", "", *_time_pytorch(candidate, threads)]}
    for result in exported:
        if result.check is None:
            rows[result.file] = ["failed", *[""] * 5]
            continue
        check = result.check
        rows[result.file] = [
            "passed" if check.passed else "failed",
            f"{check.accuracy.accuracy:.2%}",
            f"{check.agreement:.2%}",
            f"{check.size:,}",
            *(f"{1000 * timing.median:.3g}" for timing in check.timings),
        ]
    print_table(f"Exported files, times on {threads} thread{'s' * (threads > 1)}", header, rows)
    for sentence in _describe_int8(exported):
        say(sentence)


def _time_pytorch(candidate: Candidate, threads: int) -> list[str]:
    manifest = candidate.manifest
    deployed, dtype = deploy(candidate.network, manifest), getattr(torch, manifest.raw_dtype)
    cells = []
    for count in (1, LARGE_BATCH):
        batch = torch.zeros(count, *manifest.raw_shape, dtype=dtype)
        with using_threads(threads), torch.no_grad():
            times = time_calls(functools.partial(deployed, batch))
        cells.append(f"{1000 * summarise_times(times)[0]:.3g}")
    return cells


def _describe_int8(exported: Sequence[Exported]) -> list[str]:
    checks = {result.kind: result.check for result in exported if result.check}
    int8, full = checks.get("int8"), checks.get("onnx")
    if int8 is None:
        return []
    sentences = []
    if full and (slower := [i for i, f in zip(int8.timings, full.timings, strict=True) if i.median > f.median]):
        batches = " and ".join(f"{timing.batch}" for timing in slower)
        sentences.append(f"int8 is slower than float32 here for a batch of {batches}.")
    change = f"gains {-int8.loss:.2f}" if int8.loss < 0 else f"loses {int8.loss:.2f}"
    if int8.passed and not int8.is_equivalence_shown:
        sentences.append(
            f"int8 {change} percentage points here, but the test set is too small to show a loss below "
            f"the margin of {int8.margin:g}: it may be up to {int8.loss_bound:.3f} (one-sided 95 % bound)."
        )
    return sentences
