"""``kd compare --until-decided``: rounds, the stop, what is used, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kd.commands.compare import command, training
from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.students import Arm, name_student
from kd.commands.compare.teachers import Teacher, list_seeds
from kd.commands.differences_report import show_differences
from kd.commands.ledger import Digests, Entry, Ledger, read_ledger
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.quantities import ERRORS
from kd.evaluation.sequential import STOP
from kd.methods.objectives import supervised
from kd.report.blocks import Fold
from kd.report.html import render
from kd.training.history import History
from kd.training.students import TrainedStudent
from tests.commands.compare.comparisons import make_comparison, make_predictions
from tests.commands.compare.test_command import QUICK, kd_command

CPU = torch.device("cpu")
SETTINGS = CompareSettings(pairs=20, until_decided=True)


class FakeTraining:
    """Stands in for ``train_pairs``: students with known errors; remembers the seeds of each round."""

    def __init__(self, gains: Mapping[str, int]) -> None:
        self.gains, self.rounds = gains, list[list[int]]()

    def __call__(
        self, settings: CompareSettings, methods: Mapping[str, Sequence[Teacher]], arms: Mapping[str, Arm], device: Any
    ) -> dict[str, TrainedStudent]:
        ((teacher,),) = methods.values()
        self.rounds.append(list(teacher.seeds))
        trained = {}
        for seed in teacher.seeds:
            for arm in arms:
                errors = 40 + seed % 3 - self.gains[arm] - (seed % 4) * (arm == "distilled")
                predictions = make_predictions(1000 * len(arm) + seed, errors)
                trained[name_student(arm, teacher, seed)] = TrainedStudent({}, History(), *predictions[:2])
        return trained


def train(
    monkeypatch: pytest.MonkeyPatch, gains: Mapping[str, int], *, processes: int, threshold: float = STOP
) -> tuple[list[int], list[str], list[list[int]]]:
    fake, nothing = FakeTraining(gains), SimpleNamespace()
    monkeypatch.setattr(training, "train_pairs", fake)
    settings = dataclasses.replace(SETTINGS, processes=processes)
    teacher = Teacher(0, settings, nothing, nothing, supervised, list_seeds(settings, 0))  # type: ignore[arg-type]
    arms = {arm: Arm(supervised, 1) for arm in gains}
    used, trained = training.train_until_decided(settings, teacher, arms, CPU, quantity=ERRORS, threshold=threshold)
    return list(used.seeds), list(trained), fake.rounds


CLEAR = {"control": 0, "distilled": 20, "smoothed": 2}
NONE = {"control": 0, "distilled": 0, "smoothed": 0}


def test_the_number_of_pairs_does_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [train(monkeypatch, CLEAR, processes=processes) for processes in (1, 2, 3, 16)]
    seeds, names, _ = results[0]
    assert 5 <= len(seeds) < 12
    assert seeds == list(range(len(seeds)))
    assert len(names) == 3 * len(seeds)
    assert all((other, their_names) == (seeds, names) for other, their_names, _ in results)
    assert results[1][2][:2] == [[0, 1, 2, 3, 4, 5], [6, 7]][: len(results[1][2])]
    assert results[3][2] == [list(range(16))]


def test_without_a_difference_all_pairs_are_trained_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, _, rounds = train(monkeypatch, NONE, processes=3)
    assert seeds == list(range(20))
    assert [seed for seeds in rounds for seed in seeds] == list(range(20))
    assert [len(seeds) for seeds in rounds] == [6, 3, 3, 3, 3, 2]


def test_label_smoothing_must_be_decided_too_and_more_questions_need_more_evidence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, _, _ = train(monkeypatch, CLEAR, processes=1)
    assert len(train(monkeypatch, {**CLEAR, "smoothed": 18}, processes=1)[0]) > len(first)
    assert len(train(monkeypatch, CLEAR, processes=1, threshold=1e5 * STOP)[0]) > len(first)


def test_the_sentence_names_the_maximum_and_the_evidence() -> None:
    comparison = dataclasses.replace(make_comparison(), most_pairs=10)
    (line,) = Verdicts(comparison).lines
    assert "Training ended after 4 of at most 10 pairs, with e-values of" in line
    assert "(against control) and" in line
    assert "20 decide" in line
    assert Verdicts(comparison).main.verdict == "inconclusive"  # four pairs never decide
    assert Verdicts(make_comparison()).main.verdict == "helps"


def test_evidence_for_the_other_arm_is_said_to_be_that() -> None:
    """ "349 (against label smoothing)" once meant that label smoothing was better."""
    better, worse = (
        Verdicts(dataclasses.replace(make_comparison(gain=gain), most_pairs=10)).lines[-1] for gain in (25, -25)
    )
    assert "which is better on average" not in better
    assert "(against control, which is better on average) and" in worse
    assert "(against label smoothing, which is better on average); 20 decide" in worse


def test_the_page_marks_tests_that_do_not_allow_for_the_looks() -> None:
    for most_pairs in (None, 10):
        comparison = dataclasses.replace(make_comparison(), most_pairs=most_pairs)
        (fold,) = (block for block in show_differences(Verdicts(comparison)) if isinstance(block, Fold))
        html = " ".join(render([fold]).split())
        assert ("do not account for the looks after each pair" in html) == (most_pairs is not None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--teachers", "2"), "--until-decided must be used with one teacher and one split. Got '2 teachers' instead"),
        (("--splits", "2"), "--until-decided must be used with one teacher and one split"),
        (("--pairs", "4"), "--pairs must be at least 5 with --until-decided. Got 4 instead"),
    ],
)
def test_settings_that_cannot_decide_are_refused(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kd_command("compare", "--out", str(tmp_path / "new"), "--until-decided", *flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("earlier", "fewest"), [(0, None), (1, 6), (40, 8)])
def test_pairs_that_cannot_decide_are_refused_before_training(earlier: int, fewest: int | None) -> None:
    asked = [Entry("test", str(number), "", 0.5, 0.5) for number in range(earlier)]
    settings, digests = dataclasses.replace(SETTINGS, pairs=5), Digests("test", {})

    def find_threshold() -> float:
        return command._find_threshold(settings, digests, Ledger(tuple(asked)), CPU)

    if fewest is None:
        assert find_threshold() == STOP
        return
    with pytest.raises(ValueError, match=f"--pairs must be at least {fewest} with --until-decided") as error:
        find_threshold()
    assert re.search(rf"{earlier} questions? (was|were) asked", str(error.value))


@pytest.mark.slow
def test_a_comparison_until_decided_is_another_question_and_repeats_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("compare", "--out", str(tmp_path), *QUICK, "--smoothing", "0", "--no-longer", "--pairs", "6")
    assert kd_command(*few, "--until-decided") == 0
    metrics = tmp_path / "results" / "metrics" / "comparison.json"
    printed, content = capsys.readouterr().out, metrics.read_bytes()
    summary: dict[str, Any] = json.loads(content)
    assert "of at most 6 pairs" in printed
    assert "of at most 6 pairs" in summary["sentence"]
    assert summary["config"]["UNTIL_DECIDED"] is True
    assert kd_command(*few, "--until-decided", "--processes", "1") == 0
    assert metrics.read_bytes() == content
    assert kd_command(*few) == 0
    assert "UNTIL_DECIDED" not in json.loads(metrics.read_bytes())["config"]
    first, second = read_ledger(tmp_path / ".kd").entries
    assert "at most 6 pairs" in first.title
    assert second.title.endswith(", 6 pairs")


@pytest.mark.slow
def test_evidence_that_was_printed_is_a_question_even_if_the_training_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, a fixed number of pairs could be chosen after the looks."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    models = (
        "--data",
        "sklearn:digits",
        "--teacher",
        "mlp:8",
        "--student",
        "mlp:4",
        "--epochs",
        "1",
        "--device",
        "cpu",
    )
    few = ("compare", "--out", str(tmp_path), *models, "--smoothing", "0", "--no-longer", "--processes", "1")
    with monkeypatch.context() as patch:
        patch.setattr(command, "train_until_decided", interrupt)
        assert kd_command(*few, "--until-decided", "--pairs", "6") != 0
    (announced,) = read_ledger(tmp_path / ".kd").entries
    assert (announced.p, announced.verdict) == (1.0, "")
    assert kd_command(*few, "--pairs", "2") == 0
    summary = json.loads((tmp_path / "results" / "metrics" / "comparison.json").read_text())
    assert "Holm-adjusted for 2 questions" in summary["sentence"]
