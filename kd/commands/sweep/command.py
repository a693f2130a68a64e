"""The ``kd sweep`` command: choose temperature and alpha on the validation images, then test with fresh seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from kd.commands.before_training import try_settings
from kd.commands.data import Data, load_data
from kd.commands.ledger import Entry, Ledger, ask, describe_questions, digest_data, ledger_files, read_ledger
from kd.commands.messages import say_method
from kd.commands.method_flags import format_method_settings
from kd.commands.models import new_student, new_teachers
from kd.commands.program import typed_command
from kd.commands.publish import publish_with_report
from kd.commands.recipe_settings import RecipeSettings, remark_on_epoch
from kd.commands.settings_file import to_toml
from kd.commands.steps import TeacherWithData, open_command, prepare_distillation_data, record_settings
from kd.commands.students import describe_start
from kd.commands.sweep.files import sweep_files
from kd.commands.sweep.points import (
    Point,
    Score,
    TriedPoint,
    add_controls,
    documented_point,
    format_point,
    list_grid,
    settings_at,
)
from kd.commands.sweep.report import sweep_part
from kd.commands.sweep.results import Final, Images, Sweep, assign_roles
from kd.commands.sweep.settings import SweepSettings
from kd.commands.sweep.students import SweepContext, list_batch_sizes, make_students, name_students
from kd.commands.sweep.text import print_sweep
from kd.console import say
from kd.evaluation.metrics import confusion_matrix
from kd.evaluation.quantities import ERRORS, Quantity, item_losses
from kd.formatting import count_noun
from kd.models.inference import Predictions
from kd.storage.environment import environment
from kd.storage.files import publish
from kd.storage.fingerprint import describe, digest
from kd.storage.run_folder import STEPS
from kd.storage.weights import weights_bytes
from kd.training.students import TrainedStudent, train_students, try_students
from kd.training.tracking import track_training

FRESH_SEED = 600_000


def run(settings: SweepSettings) -> None:
    """Try all points, resuming an interrupted sweep; test up to three points with fresh seeds; print and save results.

    Raises:
        ValueError: a setting is outside its range, or ``--trials`` is given without Optuna.
        OSError: a folder is not writable or in use by another run, or a worker process was killed.
        FloatingPointError: the loss of a point that must be tested is not finite.
    """
    with open_command(settings, *(settings.results_dir / folder for folder in ("metrics", "plots"))) as device:
        publish({settings.file: to_toml(settings, command=settings.command)})
        ledger = read_ledger(settings.state_dir)
        data = load_data(settings)
        _try_values(settings, data)
        say(f"the verdict will be decided by: {data.deciding_quantity().name}")
        prepared = prepare_distillation_data(settings, device, data=data)
        context = _make_context(settings, prepared, device)
        if settings.method != "kd":
            say_method(settings.method, format_method_settings(settings.method_settings))
        # Now: the student's file may change while the students are trained.
        remarks = [*describe_start(settings, context.task), *remark_on_epoch(settings)]
        sweep = dataclasses.replace(_test_roles(context, explore(context)), remarks=remarks)
        sweep, ledger, asked = _ask(context, prepared, sweep, ledger)
        if asked:
            publish(ledger_files(ledger, settings.state_dir))  # first: a verdict that was seen is a question asked
        print_sweep(sweep, limit=settings.limit)
        _publish(context, prepared, sweep, ledger, asked)


def _try_values(settings: SweepSettings, data: Data) -> None:
    """Try each value that changes the objective, with the documented other values, before the teacher is trained."""
    documented = documented_point(settings)
    tried = {
        f"--vary {name}={value}": settings_at(
            settings, documented._replace(method=tuple((dict(documented.method or ()) | {name: value}).items()))
        )
        for name, values in settings.varied_of_method.items()
        for value in values
    }
    for value in settings.varied.get("label_smoothing", ()):
        changed: dict[str, Any] = {"label_smoothing": value}
        tried[f"--vary label_smoothing={value}"] = dataclasses.replace(settings, vary=(), **changed)
    teachers = new_teachers(settings, data) if tried else []
    for flags, changed_settings in tried.items():
        try_settings(changed_settings, data, teachers, flags=flags)


def _make_context(settings: SweepSettings, prepared: TeacherWithData, device: torch.device) -> SweepContext:
    distill_data = [prepared.distill_data._replace(batch_size=size) for size in list_batch_sizes(settings)]
    images = Images(prepared.data.sizes["validation"], prepared.data.sizes["test"], prepared.data.task.noun)
    return SweepContext(settings, device, prepared.data, prepared.model, distill_data, images, {})


def explore(context: SweepContext) -> list[TriedPoint]:
    """Evaluate the documented point, all other points and their controls on the validation images."""
    settings, results = context.settings, dict[Point, TriedPoint]()

    def attempt(points: Iterable[Point]) -> dict[Point, TriedPoint]:
        results.update(_try_points(context, [point for point in add_controls(points) if point not in results]))
        return results

    if settings.trials is None:
        points = [documented_point(settings), *list_grid(settings)]
    else:
        from kd.commands.sweep.search import search  # imports Optuna, an optional dependency

        # In the steps folder, so that --fresh moves it aside with the saved steps.
        file = settings.state_dir / STEPS / "search.db"
        file.parent.mkdir(exist_ok=True)
        worst = context.images.validation if context.quantity == ERRORS else 100
        trials = search(settings, file, _search_key(context), attempt, worst=worst)
        points = [documented_point(settings), *(trial.point for trial in trials)]
    attempt(points)  # also points that an earlier run had tried: their students are reused, and their times recorded
    return [results[point] for point in dict.fromkeys(add_controls(points))]


def _try_points(context: SweepContext, points: Sequence[Point]) -> dict[Point, TriedPoint]:
    """Train the students of some points and score them on the validation images; the test images are not used."""
    students = make_students(context, points, _list_seeds(context.settings))
    quantity = context.quantity
    scores: dict[str, Score | None] = {}
    for name, outcome in try_students(context.distill_data, students, processes=context.settings.processes):
        progress = f"{len(scores) + 1:>3}/{len(students)}  {name}"
        if isinstance(outcome, TrainedStudent):
            track_training(name, outcome.history)
            scores[name], context.seconds[name] = score(outcome.validation, quantity), outcome.history.seconds
            say(
                f"{progress}: validation accuracy {outcome.history.final('val_acc'):.2%}, "
                f"{outcome.history.seconds:.0f} s"
            )
        else:
            scores[name] = None
            say(f"{progress}: failed; {outcome}")
    names = {point: name_students(context.settings, point, _list_seeds(context.settings)) for point in points}
    return {point: TriedPoint(point, tuple(scores[name] for name in names[point])) for point in points}


def _test_roles(context: SweepContext, tried: Sequence[TriedPoint]) -> Sweep:
    """Train the points of all roles with fresh seeds and test them; nothing else uses the test images."""
    settings, documented = context.settings, documented_point(context.settings)
    points, seeds = list(dict.fromkeys(assign_roles(tried, documented).values())), _list_final_seeds(settings)
    students, finals = make_students(context, points, seeds), dict[str, Final]()
    quantity = context.quantity
    for name, student in train_students(context.distill_data, students, processes=settings.processes):
        assert student.test is not None
        track_training(name, student.history, student.test)
        matrix = confusion_matrix(*student.test)
        finals[name] = Final(
            score(student.validation, quantity), score(student.test, quantity), student.test.wrong, matrix
        )
        labels = student.test.labels
        context.seconds[name] = student.history.seconds
        say(f"{len(finals):>3}/{len(students)}  {name}: fresh seed, {student.history.seconds:.0f} s")
    return Sweep(
        tried=tried,
        documented=documented,
        seeds=_list_seeds(settings),
        images=context.images,
        final_seeds=seeds,
        finals={point: [finals[name] for name in name_students(settings, point, seeds)] for point in points},
        margin=settings.margin,
        labels=labels,
        classes=context.task.classes,
        searched=settings.trials is not None,
        method=settings.method,
    )


def _ask(
    context: SweepContext, prepared: TeacherWithData, sweep: Sweep, ledger: Ledger
) -> tuple[Sweep, Ledger, Entry | None]:
    """Adjust the verdict for the questions asked of the test set before, and record it; there may be none."""
    question, role = sweep.question(), sweep.judged_role()
    if question is None or role is None:
        return sweep, ledger, None
    title = f"kd sweep: {context.settings.method}, {format_point(sweep.roles[role])}, {len(sweep.final_seeds)} pairs"
    config = record_settings(context.settings, context.device)
    asked = ask(question, digest_data(prepared), command=context.settings.command, title=title, config=config)
    undecided = ledger.find_undecided(asked)
    withheld = (
        f"In this folder, kd compare is undecided with {count_noun(undecided.pairs, 'pair')}, and the {asked.pairs} of "
        "this test do not outrank it; judge this point by kd compare with its settings and more pairs."
        if undecided
        else ""
    )
    sweep = dataclasses.replace(sweep, earlier=ledger.before(asked), withheld=withheld)
    judged = sweep.judgement()
    assert judged is not None
    asked = dataclasses.replace(asked, verdict=judged.verdict)
    return sweep, ledger.record(asked), asked


def _publish(
    context: SweepContext, prepared: TeacherWithData, sweep: Sweep, ledger: Ledger, asked: Entry | None
) -> None:
    """Write the files and the report atomically (all or none) and print their paths."""
    settings, config = context.settings, record_settings(context.settings, context.device)
    report_part = sweep_part(
        sweep,
        config,
        teacher=weights_bytes(prepared.model),
        test=prepared.data.test_set,
        command=typed_command(),
        limit=settings.limit,
        questions=describe_questions(ledger, asked.test) if asked else (),
    )
    files = sweep_files(settings.results_dir, sweep, config, context.seconds, limit=settings.limit)
    publish_with_report(files, report_part, results_dir=settings.results_dir, state_dir=settings.state_dir)


def _list_seeds(settings: SweepSettings) -> list[int]:
    return list(range(settings.seed, settings.seed + settings.seeds))


def _list_final_seeds(settings: SweepSettings) -> list[int]:
    """List the seeds of the test; with seeds that were seen before, the chosen point looks better than it is.

    They are far from those of the selection, of ``kd run`` and of ``kd compare``, which count up from SEED.
    """
    first = settings.seed + FRESH_SEED
    return list(range(first, first + settings.final_pairs))


def score(predictions: Predictions, quantity: Quantity) -> Score:
    """Return the errors and the mean cross-entropy of a student's predictions, and the balanced error if it decides."""
    cross_entropy = float(F.cross_entropy(predictions.logits, predictions.labels))
    # Rounded: the order of a sum must not decide between points.
    balanced = None if quantity == ERRORS else round(float(item_losses(quantity, *predictions).sum()), 9)
    return Score(int(predictions.wrong.sum()), cross_entropy, balanced)


def _search_key(context: SweepContext) -> str:
    """Hash all inputs of a search, except the thread count of this process: students train on one thread."""
    settings = context.settings
    environment_inputs = {name: value for name, value in environment().items() if name != "threads"}
    recipe = {field.name: getattr(settings, field.name) for field in dataclasses.fields(RecipeSettings)}
    recorded = record_settings(settings, context.device)
    inputs = {
        "ranges": {"temperature": settings.temperatures, "alpha": settings.alphas, **settings.varied},
        "ranges of the method": settings.varied_of_method,
        "method": {name: recorded.get(name) for name in ("METHOD", "METHOD_SOURCE", "SET")},
        "documented": documented_point(settings),
        "students": [settings.student_width, recipe],
        "labels": [settings.label_smoothing, context.data.class_weights],
        "student": new_student(settings, context.task, torch.device("cpu")),
        # Without these, the key of an earlier version.
        **({"freeze": settings.freeze} if settings.freeze else {}),
        **({} if context.quantity == ERRORS else {"decides": context.quantity.key}),
        "seeds": _list_seeds(settings),
        "data": [context.distill_data[0].training, context.distill_data[0].validation],
        "device": context.device,
    }
    return digest({"inputs": describe(inputs), "environment": environment_inputs})[:16]
