"""The end of a run: what is printed about its models, and its files, written together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kd.commands.messages import say_files
from kd.commands.program import typed
from kd.commands.run.report import run_part
from kd.commands.run.results import Run, result_files, weight_files
from kd.console import print_table, say
from kd.evaluation.latency import latency
from kd.evaluation.two_models import mcnemar, verdict
from kd.report.page import Part, report_files
from kd.storage.files import publish

FILE_NAMES = {"teacher": "teacher_model", "regular": "student_regular", "distilled": "student_distilled"}


def folders(models_dir: Path, results_dir: Path) -> list[Path]:
    """Those of a run's files."""
    return [models_dir, *(results_dir / part for part in ("metrics", "predictions", "plots"))]


def print_evaluation(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    *,
    limit: int | None,
    classes: Sequence[str] = (),
    noun: str = "images",
) -> None:
    """Print accuracies, predictions per class and one verdict on the two students.

    Args:
        logits: of ``teacher``, ``regular`` and ``distilled`` on the test set, [N, K].
        labels: [N].
        limit: the number of training images if it was a toy run, else None.
        classes: their names, where they are more than numbers.
        noun: what the items are called.
    """
    answers = {name: values.argmax(dim=1) for name, values in logits.items()}
    wrong = {name: answer != labels for name, answer in answers.items()}
    errors = {name: int(mask.sum()) for name, mask in wrong.items()}
    toy = f", TOY RUN on {limit:,} training {noun}" if limit is not None else ""
    rows = {name: (f"{1 - e / len(labels):.2%}", f"{e:,}", f"{len(labels):,}") for name, e in errors.items()}
    print_table(f"Test set{toy}", ("model", "accuracy", "errors", noun), rows)
    names = classes or [str(label) for label in range(logits["teacher"].shape[1])]
    _print_distribution({"true": labels} | answers, names)
    test = mcnemar(wrong["regular"], wrong["distilled"])
    say(verdict(errors["regular"], errors["distilled"], test, noun=noun))


def save(
    run: Run,
    models: Mapping[str, nn.Module],
    further: Mapping[Path, bytes],
    *,
    models_dir: Path,
    results_dir: Path,
    state_dir: Path,
    temperature: float,
) -> None:
    """Write weights, metrics, predictions, plots and report: all of them, or on an error none. Print where they are.

    Args:
        models: by the names of the run.
        further: plots and whatever else is to be written with them.
        state_dir: where the run's part of the report is kept, and other commands have put theirs.
        temperature: that of the distillation.
    """
    named = {FILE_NAMES[name]: models[name] for name in run.logits}
    weights = weight_files(models_dir, named, run)
    entries = json.loads(weights[models_dir / "manifest.json"])["models"]
    latencies = {name: latency(models[name], run.test[0][0][None]) for name in run.logits}
    part = run_part(run, weights=entries, latencies=latencies, temperature=temperature, command=typed())
    files = weights | result_files(results_dir, run) | dict(further)
    publish_with_report(files, part, results_dir=results_dir, state_dir=state_dir)


def publish_with_report(files: Mapping[Path, bytes], part: Part, *, results_dir: Path, state_dir: Path) -> None:
    """Write a command's files, its part of the report and the page: all of them, or none. Print where they are."""
    written = {**files, **report_files(part, results_dir=results_dir, state_dir=state_dir)}
    publish(written)
    say_files(written, but=state_dir)


def _print_distribution(answers: Mapping[str, Tensor], names: Sequence[str]) -> None:
    counts = torch.stack([torch.bincount(answer, minlength=len(names)) for answer in answers.values()], dim=1)
    rows = {name: [f"{count:,}" for count in row] for name, row in zip(names, counts.tolist(), strict=True)}
    print_table("Predictions per class", ("class", *answers), rows)
