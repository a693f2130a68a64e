"""The ``kd compare`` command: train pairs of control and distilled student and judge their differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from kd.checks import require
from kd.commands.compare.cost import measure_cost
from kd.commands.compare.files import comparison_files
from kd.commands.compare.report import compare_part
from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.slice_file import read_slices
from kd.commands.compare.students import Arm, choose_arms, choose_smoothing, name_student
from kd.commands.compare.teachers import Teacher, prepare_teacher, teacher_settings
from kd.commands.compare.text import print_comparison
from kd.commands.compare.training import train_pairs, train_until_decided
from kd.commands.data import Data, load_data
from kd.commands.ledger import Entry, Ledger, ask, describe_questions, digest_test_set, ledger_files, read_ledger
from kd.commands.messages import say_method
from kd.commands.method_flags import format_method_settings
from kd.commands.models import require_memory_for_students
from kd.commands.program import typed_command
from kd.commands.publish import publish_with_report
from kd.commands.settings_file import to_toml
from kd.commands.steps import (
    open_command,
    record_settings,
)
from kd.console import say
from kd.evaluation.comparison import Comparison, ModelPredictions
from kd.evaluation.comparison_slices import Slices, measure_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.cost import Cost
from kd.evaluation.quantities import Quantity, choose_quantity, margin_of
from kd.evaluation.sequential import STOP
from kd.evaluation.verdict import Question
from kd.storage.files import publish, sha256
from kd.storage.weights import state_bytes
from kd.training.students import TrainedStudent


def run(settings: CompareSettings) -> None:
    """Train the teachers and all students, reusing saved ones; print the results, write the files and the report.

    Raises:
        ValueError: a setting is outside its range.
        OSError: a folder is not writable or in use by another run, or a worker process was killed.
        FloatingPointError: a loss is not finite.
    """
    with open_command(settings, *(settings.results_dir / folder for folder in ("metrics", "plots"))) as device:
        publish({settings.file: to_toml(settings, command=settings.command)})
        ledger = read_ledger(settings.state_dir)
        # The verdict needs a single test set, so data without a test split are split with the same seed for all.
        data = [
            load_data(teacher_settings(settings, number), test_seed=settings.random_state)
            for number in range(settings.runs)
        ]
        _require_own_splits(settings, data[0])
        quantity = _choose_quantity(settings, data[0])
        further = read_slices(settings.slices, data[0].sizes["test"]) if settings.slices else {}
        asked = _ask(settings, None, data[0], device)
        teachers = [prepare_teacher(settings, number, data[number], device) for number in range(settings.runs)]
        _require_different_teachers(settings, teachers)
        cost = measure_cost(settings, teachers[0], device)
        say_method(settings.method, format_method_settings(settings.method_settings))
        smoothing = choose_smoothing(settings, teachers, quantity, device)
        arms = choose_arms(settings, cost, smoothing)
        require_memory_for_students(settings, teachers[0].task, len(arms) * sum(len(t.seeds) for t in teachers))
        if settings.until_decided:
            threshold = STOP * (1 + len(ledger.before(asked)))
            used, trained = train_until_decided(
                settings, teachers[0], arms, device, quantity=quantity, threshold=threshold
            )
            teachers, cost = [used], cost.served_by(len(used.seeds))
        else:
            trained = train_pairs(settings, teachers, arms, device)
        comparison = dataclasses.replace(
            _collect_predictions(settings, teachers, arms, trained),
            quantity=quantity,
            smoothing=smoothing or None,
            longer_epochs=cost.training.longer_epochs,
        )
        slices = measure_slices(comparison, further)
        _publish(settings, teachers[0], comparison, ledger, slices, trained, cost, device)


def _publish(
    settings: CompareSettings,
    teacher: Teacher,
    comparison: Comparison,
    ledger: Ledger,
    slices: Slices,
    trained: Mapping[str, TrainedStudent],
    cost: Cost,
    device: torch.device,
) -> None:
    config, test, limit = record_settings(settings, device), teacher.distill_data.test, settings.limit
    asked = _ask(settings, Verdicts(comparison).main.question, teacher.prepared.data, device)
    verdicts = Verdicts(comparison, ledger.before(asked))
    ledger = ledger.record(dataclasses.replace(asked, verdict=verdicts.main.verdict))
    print_comparison(verdicts, cost, slices=slices, limit=limit)
    files = comparison_files(settings.results_dir, verdicts, trained, cost, config, slices=slices, limit=limit)
    part = compare_part(
        verdicts,
        cost,
        config,
        test=test,
        command=typed_command(),
        slices=slices,
        questions=describe_questions(ledger, asked.test),
        limit=limit,
    )
    files |= ledger_files(ledger, settings.state_dir)
    publish_with_report(files, part, results_dir=settings.results_dir, state_dir=settings.state_dir)


def _ask(settings: CompareSettings, question: Question | None, data: Data, device: torch.device) -> Entry:
    """Return the entry of the question in the ledger; before it is measured, ``question`` is None."""
    teachers = f", {settings.runs} teachers" if settings.runs > 1 else ""
    most = "at most " if settings.until_decided else ""
    return ask(
        question,
        command=settings.command,
        title=f"kd compare: {_describe_method(settings)}, {most}{settings.pairs} pairs{teachers}",
        config=record_settings(settings, device),
        test=digest_test_set(data),
    )


def _require_different_teachers(settings: CompareSettings, teachers: Sequence[Teacher]) -> None:
    """Refuse teachers with equal weights, such as those that a user's file loads: their pairs are one experiment."""
    differ = len({teacher.predictions.weights for teacher in teachers}) > 1
    advice = "the teacher has the same weights for every seed; --train-teacher trains it"
    require(settings.runs == 1 or differ, "--teachers", settings.teachers, "1", advice)


def _require_own_splits(settings: CompareSettings, data: Data) -> None:
    """Refuse several splits of a dataset that has its own validation split: they would all be the same."""
    fixed = data.source.val is not None
    advice = "the dataset has its own validation split"
    require(not fixed or settings.split_count == 1, "--splits", settings.split_count, "1", advice)


def _choose_quantity(settings: CompareSettings, data: Data) -> Quantity:
    """Choose what decides from the labels of the test set, and print it before anything is trained."""
    labels = data.all_labels[torch.as_tensor(data.rows["test"])]
    quantity = choose_quantity(settings.decide, labels, data.task.classes)
    margin = quantity.describe_bound(margin_of(quantity, settings.margin, len(labels)))
    say(f"the verdict will be decided by: {quantity.name}; equivalence margin: {margin}")
    return quantity


def _collect_predictions(
    settings: CompareSettings,
    teachers: Sequence[Teacher],
    arms: Mapping[str, Arm],
    trained_students: Mapping[str, TrainedStudent],
) -> Comparison:
    def collect(arm: str, teacher: Teacher) -> list[ModelPredictions]:
        return [_to_predictions(trained_students[name_student(arm, teacher, seed)]) for seed in teacher.seeds]

    by_split = 1 < settings.split_count < settings.teachers or settings.teachers == 1
    return Comparison(
        teachers=[teacher.predictions for teacher in teachers],
        students={arm: [collect(arm, teacher) for teacher in teachers] for arm in arms},
        seeds=[teacher.seeds for teacher in teachers],
        margin=settings.margin,
        temperature=settings.temperature,
        noun=teachers[0].task.noun,
        classes=teachers[0].task.names,
        method=_describe_method(settings),
        # A block is what several teachers share: the factor with fewer levels, unless it has only one.
        blocks=[n % (settings.split_count if by_split else settings.teachers) for n in range(len(teachers))],
        block_noun="split" if by_split else "teacher",
        one_split=settings.random_state if settings.split_count == 1 else None,
        most_pairs=settings.pairs if settings.until_decided else None,
    )


def _describe_method(settings: CompareSettings) -> str:
    names = {"temperature": "T", "alpha": "α"}
    values = {names.get(name, name): value for name, value in settings.method_settings.items()}
    return ", ".join(
        [settings.method, *(f"{name} = {value:g}" for name, value in values.items() if isinstance(value, int | float))]
    )


def _to_predictions(student: TrainedStudent) -> ModelPredictions:
    assert student.test is not None
    return ModelPredictions(student.validation, student.test, sha256(state_bytes(student.weights)))
