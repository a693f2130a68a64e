"""``kd sweep``: which temperature, which alpha? Chosen on validation images; then one look at the test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from kd.arms import CONTROL, DISTILLED
from kd.commands.data import Task
from kd.commands.models import new_student
from kd.commands.program import typed_command
from kd.commands.publish import publish_with_report
from kd.commands.settings_file import to_toml
from kd.commands.steps import TeacherWithData, make_train, open_command, prepare_distillation_data, record_settings
from kd.commands.sweep.files import sweep_files
from kd.commands.sweep.points import Point, Score, Tried, documented, grid, plain, with_controls
from kd.commands.sweep.report import sweep_part
from kd.commands.sweep.results import Final, Images, Sweep, roles
from kd.commands.sweep.settings import SweepSettings
from kd.commands.sweep.text import print_sweep
from kd.console import say
from kd.methods.objectives import distilled, supervised
from kd.models.inference import Predictions
from kd.storage.environment import environment
from kd.storage.files import publish
from kd.storage.fingerprint import describe, digest
from kd.storage.weights import weights_bytes
from kd.training.students import DistillationData, Student, TrainedStudent, train_students, try_students
from kd.types import Objective


class Bench(NamedTuple):
    """Where students of any point are made.

    Attributes:
        distill_data: with the logits of the one teacher, for each batch size.
        seconds: what each student's training took, by its name; filled as they are made.
    """

    settings: SweepSettings
    device: torch.device
    task: Task
    distill_data: list[DistillationData]
    images: Images
    seconds: dict[str, float]


def run(settings: SweepSettings) -> None:
    """Try all points, or go on where that was interrupted; test three of them with fresh seeds; print and save it all.

    Raises:
        ValueError: a setting is outside its range; a search without Optuna.
        OSError: a folder cannot be written to or is in use by another run; a process was killed.
        FloatingPointError: the loss of a point that has to be tested is not finite.
    """
    with open_command(settings, *(settings.results_dir / part for part in ("metrics", "plots"))) as device:
        publish({settings.file: to_toml(settings, command=settings.command)})
        taught = prepare_distillation_data(settings, device)
        bench = _bench(settings, taught, device)
        sweep = _tested(bench, explore(bench))
        print_sweep(sweep, limit=settings.limit)
        _publish(bench, taught, sweep)


def _bench(settings: SweepSettings, taught: TeacherWithData, device: torch.device) -> Bench:
    distill_data = [taught.distill_data._replace(batch_size=size) for size in _batch_sizes(settings)]
    images = Images(taught.data.sizes["validation"], taught.data.sizes["test"], taught.data.task.noun)
    return Bench(settings, device, taught.data.task, distill_data, images, {})


def _batch_sizes(settings: SweepSettings) -> list[int]:
    return list(dict.fromkeys((settings.batch_size, *map(int, settings.varied.get("batch_size", ())))))


def explore(bench: Bench) -> list[Tried]:
    """How every point does on the validation images: the documented one, all others, and the control of each."""
    settings, known = bench.settings, dict[Point, Tried]()

    def attempt(points: Iterable[Point]) -> dict[Point, Tried]:
        known.update(_attempted(bench, [each for each in with_controls(points) if each not in known]))
        return known

    if settings.trials is None:
        attempt([documented(settings), *grid(settings)])
    else:
        from kd.commands.sweep.search import search  # it needs Optuna, which not everybody has

        # Beside the steps, so that --fresh puts it aside with them.
        file = settings.state_dir / "steps" / "search.db"
        file.parent.mkdir(exist_ok=True)
        trials = search(settings, file, _key(bench), attempt, worst=bench.images.validation)
        known.update((each.point, each) for each in trials)
        attempt([documented(settings), *(each.point for each in trials)])
    return list(known.values())


def _attempted(bench: Bench, points: Sequence[Point]) -> dict[Point, Tried]:
    """Train the points' students and see how they do on the validation images; no test image is asked."""
    students = _students(bench, points, _seeds(bench.settings))
    scores: dict[str, Score | None] = {}
    for name, outcome in try_students(bench.distill_data, students, processes=bench.settings.processes):
        counted = f"{len(scores) + 1:>3}/{len(students)}  {name}"
        if isinstance(outcome, TrainedStudent):
            scores[name], bench.seconds[name] = score(outcome.validation), outcome.history.seconds
            say(f"{counted}: validation accuracy {outcome.history['val_acc'][-1]:.2%}, {outcome.history.seconds:.0f} s")
        else:
            scores[name] = None
            say(f"{counted}: given up; {outcome}")
    names = {each: _names(bench.settings, each, _seeds(bench.settings)) for each in points}
    return {each: Tried(each, tuple(scores[name] for name in names[each])) for each in points}


def _tested(bench: Bench, tried: Sequence[Tried]) -> Sweep:
    """The points of all roles with fresh seeds, on the test images: the only time that these are asked."""
    settings, reference = bench.settings, documented(bench.settings)
    points, seeds = list(dict.fromkeys(roles(tried, reference).values())), _final_seeds(settings)
    students, finals = _students(bench, points, seeds), dict[str, Final]()
    for name, done in train_students(bench.distill_data, students, processes=settings.processes):
        assert done.test is not None
        finals[name], bench.seconds[name] = Final(score(done.validation), score(done.test)), done.history.seconds
        say(f"{len(finals):>3}/{len(students)}  {name}: fresh seed, {done.history.seconds:.0f} s")
    return Sweep(
        tried=tried,
        documented=reference,
        seeds=_seeds(settings),
        images=bench.images,
        final_seeds=seeds,
        finals={each: [finals[name] for name in _names(settings, each, seeds)] for each in points},
        margin=settings.margin,
        searched=settings.trials is not None,
    )


def _publish(bench: Bench, taught: TeacherWithData, sweep: Sweep) -> None:
    """Write the files and the report, all of them or none, and say where they are."""
    settings, config = bench.settings, record_settings(bench.settings, bench.device)
    part = sweep_part(
        sweep,
        config,
        teacher=weights_bytes(taught.model),
        test=taught.data.test_set,
        command=typed_command(),
        limit=settings.limit,
    )
    files = sweep_files(settings.results_dir, sweep, config, bench.seconds, limit=settings.limit)
    publish_with_report(files, part, results_dir=settings.results_dir, state_dir=settings.state_dir)


def _seeds(settings: SweepSettings) -> list[int]:
    return list(range(settings.seed, settings.seed + settings.seeds))


def _final_seeds(settings: SweepSettings) -> list[int]:
    """Others than those by which the points were judged: the luck of a chosen point's seeds is not to count."""
    first = settings.seed + settings.seeds
    return list(range(first, first + settings.final_pairs))


def _students(bench: Bench, points: Iterable[Point], seeds: Sequence[int]) -> dict[str, Student]:
    """For each seed the same initial weights at every point of one width, and the same batches of one size."""
    sizes = _batch_sizes(bench.settings)
    students = {}
    for each in points:
        for name, seed in zip(_names(bench.settings, each, seeds), seeds, strict=True):
            # Each value is of its setting's type, which a point does not know.
            own = dataclasses.replace(bench.settings, seed=seed, **dict(each.others))  # type: ignore[arg-type]
            model, train = new_student(own, bench.task, bench.device), make_train(own)
            students[name] = Student(model, objective(each), train, own.epochs, sizes.index(own.batch_size))
    return students


def objective(point: Point) -> Objective:
    """What the point's students are trained towards. At alpha 1 that is the control's own objective, bit for bit."""
    return supervised if point.temperature is None else distilled(temperature=point.temperature, alpha=point.alpha)


def _names(settings: SweepSettings, point: Point, seeds: Sequence[int]) -> list[str]:
    """Names of the point's students. Where ``kd compare`` trains the same one it has the same name, and is kept."""
    reference = documented(settings)
    own = "".join(f"-{name}={plain(value)}" for name, value in point.others)
    named = f"T={plain(point.temperature)}-alpha={plain(point.alpha)}{own}" if point.temperature else f"{CONTROL}{own}"
    arm = {reference: DISTILLED, reference.control: CONTROL}.get(point, named)
    return [f"{arm}-seed-{seed}" for seed in seeds]


def score(predictions: Predictions) -> Score:
    """Errors and mean cross-entropy of a student's answers."""
    wrong = predictions.logits.argmax(dim=1) != predictions.labels
    return Score(int(wrong.sum()), float(F.cross_entropy(predictions.logits, predictions.labels)))


def _key(bench: Bench) -> str:
    """Of all that a search's proposals and results depend on. The parent's threads do not count: students have one."""
    settings = bench.settings
    machine = {name: value for name, value in environment().items() if name != "threads"}
    inputs = {
        "ranges": {"temperature": settings.temperatures, "alpha": settings.alphas, **settings.varied},
        "documented": documented(settings),
        "students": [settings.student_width, settings.learning_rate, settings.epochs, settings.batch_size],
        "student": new_student(settings, bench.task, torch.device("cpu")),
        "seeds": _seeds(settings),
        "data": [bench.distill_data[0].training, bench.distill_data[0].validation],
        "device": bench.device,
    }
    return digest({"inputs": describe(inputs), "environment": machine})[:16]
