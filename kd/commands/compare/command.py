"""The ``kd compare`` command: train pairs of control and distilled student and judge their differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from kd.checks import require
from kd.commands.before_training import require_method
from kd.commands.compare.cost import measure_cost
from kd.commands.compare.files import comparison_files
from kd.commands.compare.report import compare_part
from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.several import Results, method_files, print_methods
from kd.commands.compare.several_report import methods_part
from kd.commands.compare.slice_file import read_slices
from kd.commands.compare.students import Arm, choose_arms, choose_smoothing, name_student
from kd.commands.compare.teachers import Teacher, prepare_teacher, teacher_settings, with_method
from kd.commands.compare.text import print_comparison
from kd.commands.compare.training import train_pairs, train_until_decided
from kd.commands.data import Data, load_data
from kd.commands.ledger import Digests, Entry, Ledger, ask, describe_questions, digest_data, ledger_files, read_ledger
from kd.commands.messages import say_method
from kd.commands.method_flags import format_method_settings, naming_one_of_several
from kd.commands.models import new_teachers, require_memory_for_students
from kd.commands.program import typed_command
from kd.commands.publish import publish_with_report
from kd.commands.recipe_settings import remark_on_epoch
from kd.commands.settings_file import to_toml
from kd.commands.steps import open_command, record_settings
from kd.commands.students import describe_start
from kd.console import say
from kd.evaluation.comparison import Comparison, ModelPredictions
from kd.evaluation.comparison_slices import Slices, measure_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.cost import Cost
from kd.evaluation.quantities import Quantity, margin_of
from kd.evaluation.sequential import STOP, fewest_pairs
from kd.evaluation.verdict import Earlier, Question
from kd.methods import method_named
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
        methods = _prepare_methods(settings, data, device)
        teachers = next(iter(methods.values()))
        digests = digest_data(teachers[0].prepared)
        threshold = _find_threshold(settings, digests, ledger, device) if settings.until_decided else None
        costs = _measure_costs(methods, device)
        for teacher, *_ in methods.values():
            say_method(teacher.settings.method, format_method_settings(teacher.settings.method_settings))
        smoothing = choose_smoothing(settings, teachers, quantity, device)
        arms = choose_arms(settings, _find_dearest(costs), smoothing)
        students = (len(arms) + len(methods) - 1) * sum(len(teacher.seeds) for teacher in teachers)
        require_memory_for_students(settings, teachers[0].task, students)
        # Now: the student's file may change while the students are trained.
        remarks = [*describe_start(settings, teachers[0].task), *remark_on_epoch(settings)]
        if settings.until_decided or settings.track:
            ledger = _announce(settings, digests, ledger, device)
        if threshold is not None:
            used, trained = train_until_decided(
                settings, teachers[0], arms, device, quantity=quantity, threshold=threshold
            )
            methods = {settings.method: [used]}
            costs = {settings.method: costs[settings.method].served_by(len(used.seeds))}
        else:
            trained = train_pairs(settings, methods, arms, device)
        known: dict[str, Any] = {"quantity": quantity, "remarks": remarks, **_describe_longer(costs)}
        known |= {"smoothing": smoothing or None, "is_smoothing_tuned": settings.smoothing is None}
        comparisons = {
            name: dataclasses.replace(
                _collect_predictions(settings, own_teachers, arms, trained, name if len(methods) > 1 else ""), **known
            )
            for name, own_teachers in methods.items()
        }
        slices = {name: measure_slices(comparison, further) for name, comparison in comparisons.items()}
        _publish(settings, teachers[0], digests, comparisons, ledger, slices, trained, costs, device)


def _prepare_methods(settings: CompareSettings, data: Sequence[Data], device: torch.device) -> dict[str, list[Teacher]]:
    """Train the teachers, or reuse saved ones; return them for each method, with its objective."""
    first, *others = settings.by_method.values()
    for other in others:
        with naming_one_of_several(other.method):
            require_method(other, data[0], new_teachers(other, data[0]))
    with naming_one_of_several(first.method, common=True) if others else nullcontext():
        teachers = [prepare_teacher(first, number, data[number], device) for number in range(settings.runs)]
    _require_different_teachers(settings, teachers)
    methods = {first.method: teachers}
    for other in others:
        with naming_one_of_several(other.method):
            methods[other.method] = [with_method(teacher, other, device) for teacher in teachers]
    return methods


def _measure_costs(methods: Mapping[str, Sequence[Teacher]], device: torch.device) -> dict[str, Cost]:
    """Return the cost of each method; it depends only on whether the teacher runs at every step."""
    kinds = {name: teachers[0].settings.asked_at_each_step for name, teachers in methods.items()}
    by_kind = {kinds[name]: teachers[0] for name, teachers in methods.items()}
    costs = {kind: measure_cost(teacher.settings, teacher, device) for kind, teacher in by_kind.items()}
    return {name: costs[kind] for name, kind in kinds.items()}


def _find_threshold(settings: CompareSettings, digests: Digests, ledger: Ledger, device: torch.device) -> float:
    """Return the e-value that decides, after checking that the pairs can reach it."""
    earlier = len(ledger.before(_ask(settings, None, digests, device)))
    threshold = STOP * (1 + earlier)
    fewest = fewest_pairs(threshold)
    asked = "1 question was" if earlier == 1 else f"{earlier:,} questions were"
    advice = f"{asked} asked of this test set before (verdicts.json), so only an e-value of {threshold:g} decides"
    require(settings.pairs >= fewest, "--pairs", settings.pairs, f"at least {fewest} with --until-decided here", advice)
    return threshold


def _announce(settings: CompareSettings, digests: Digests, ledger: Ledger, device: torch.device) -> Ledger:
    """Record the questions before training: test results are printed after each round, or tracked for each student."""
    asked = [_ask(own_settings, None, digests, device) for own_settings in settings.by_method.values()]
    keys = {entry.key for entry in asked}
    for entry in asked:
        ledger = ledger.announce(dataclasses.replace(entry, together=tuple(sorted(keys - {entry.key}))))
    publish(ledger_files(ledger, settings.state_dir))
    return ledger


def _find_dearest(costs: Mapping[str, Cost]) -> Cost:
    """Return the cost of a method that takes the most computation: all methods share its longer control."""
    return max(costs.values(), key=lambda cost: cost.training.longer_epochs)


def _describe_longer(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Return the fields of ``Comparison`` on the longer control."""
    dearest = _find_dearest(costs).training
    names = [name for name, cost in costs.items() if cost.training == dearest]
    longer_of = ", ".join(names) if len(names) < len(costs) else ""
    return {"longer_epochs": dearest.longer_epochs, "longer_of": longer_of}


def _publish(
    settings: CompareSettings,
    teacher: Teacher,
    digests: Digests,
    comparisons: Mapping[str, Comparison],
    ledger: Ledger,
    slices: Mapping[str, Slices],
    trained: Mapping[str, TrainedStudent],
    costs: Mapping[str, Cost],
    device: torch.device,
) -> None:
    by_method = settings.by_method
    asked = {
        name: _ask(by_method[name], Verdicts(comparison).main.question, digests, device)
        for name, comparison in comparisons.items()
    }
    verdicts, ledger = judge_together(comparisons, asked, ledger)
    publish(ledger_files(ledger, settings.state_dir))  # first: a verdict that was seen is a question that was asked
    configs = {name: record_settings(own_settings, device) for name, own_settings in by_method.items()}
    results, folder, limit = Results(verdicts, slices, configs, trained, costs), settings.results_dir, settings.limit
    about: dict[str, Any] = {"test": teacher.distill_data.test, "command": typed_command(), "limit": limit}
    about["questions"] = describe_questions(ledger, digests.test)
    if len(verdicts) == 1:
        ((only, config),) = zip(verdicts.values(), configs.values(), strict=True)
        own_slices, cost = next(iter(slices.values())), next(iter(costs.values()))
        print_comparison(only, cost, slices=own_slices, limit=limit)
        files = comparison_files(folder, only, trained, cost, config, slices=own_slices, limit=limit)
        part = compare_part(only, cost, config, slices=own_slices, **about)
    else:
        print_methods(results, limit=limit)
        files, part = method_files(folder, results, limit=limit), methods_part(results, **about)
    publish_with_report(files, part, results_dir=folder, state_dir=settings.state_dir)


def judge_together(
    comparisons: Mapping[str, Comparison], asked: Mapping[str, Entry], ledger: Ledger
) -> tuple[dict[str, Verdicts], Ledger]:
    """Judge the methods, adjusted for each other and for the questions asked before; return the ledger with them."""
    before = ledger.before(*asked.values())
    verdicts, keys = {}, {entry.key for entry in asked.values()}
    for name, comparison in comparisons.items():
        others = [Earlier(entry.p, entry.p_of_helping) for other, entry in asked.items() if other != name]
        verdicts[name] = Verdicts(comparison, [*others, *before])
    for name, entry in asked.items():
        together = tuple(sorted(keys - {entry.key}))
        ledger = ledger.record(dataclasses.replace(entry, verdict=verdicts[name].main.verdict, together=together))
    return verdicts, ledger


def _ask(settings: CompareSettings, question: Question | None, digests: Digests, device: torch.device) -> Entry:
    """Return the entry of the question in the ledger; before it is measured, ``question`` is None."""
    teachers = f", {settings.runs} teachers" if settings.runs > 1 else ""
    most = "at most " if settings.until_decided else ""
    return ask(
        question,
        digests,
        command=settings.command,
        title=f"kd compare: {_describe_method(settings)}, {most}{settings.pairs} pairs{teachers}",
        config=record_settings(settings, device),
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
    quantity = data.deciding_quantity(settings.decide)
    margin = quantity.describe_bound(margin_of(quantity, settings.margin, data.sizes["test"]))
    say(f"the verdict will be decided by: {quantity.name}; equivalence margin: {margin}")
    return quantity


def _collect_predictions(
    settings: CompareSettings,
    teachers: Sequence[Teacher],
    arms: Mapping[str, Arm],
    trained_students: Mapping[str, TrainedStudent],
    method: str = "",
) -> Comparison:
    """Return the predictions of the students; ``method`` is the method's name if there are several."""

    def collect(arm: str, teacher: Teacher) -> list[ModelPredictions]:
        return [_to_predictions(trained_students[name_student(arm, teacher, seed, method)]) for seed in teacher.seeds]

    by_split = 1 < settings.split_count < settings.teachers or settings.teachers == 1
    return Comparison(
        teachers=[teacher.predictions for teacher in teachers],
        students={arm: [collect(arm, teacher) for teacher in teachers] for arm in arms},
        seeds=[teacher.seeds for teacher in teachers],
        margin=settings.margin,
        temperature=settings.temperature,
        noun=teachers[0].task.noun,
        classes=teachers[0].task.names,
        method=_describe_method(teachers[0].settings),
        # A block is what several teachers share: the factor with fewer levels, unless it has only one.
        blocks=[n % (settings.split_count if by_split else settings.teachers) for n in range(len(teachers))],
        block_noun="split" if by_split else "teacher",
        one_split=settings.random_state if settings.split_count == 1 else None,
        most_pairs=settings.pairs if settings.until_decided else None,
    )


def _describe_method(settings: CompareSettings) -> str:
    names = {"temperature": "T", "alpha": "α"}
    values, defaults = settings.method_settings, method_named(settings.method).settings
    texts = [
        f"{names.get(name, name)} = {value}" if isinstance(value, str) else f"{names.get(name, name)} = {value:g}"
        for name, value in values.items()
        if not isinstance(value, str) or value != defaults[name]
    ]
    return ", ".join([settings.method, *texts])


def _to_predictions(student: TrainedStudent) -> ModelPredictions:
    assert student.test is not None
    return ModelPredictions(student.validation, student.test, sha256(state_bytes(student.weights)), student.shifted)
