"""Verdicts of ``kd compare`` on made-up logits: what decides, what is said first, and when nothing is decided."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from kd.commands.compare import command
from kd.commands.compare.settings import CompareSettings
from kd.commands.ledger import Digests, Ledger, read_ledger
from kd.evaluation.comparison import Comparison, ModelPredictions
from kd.evaluation.comparison_rows import student_rows
from kd.evaluation.comparison_slices import describe_slices, measure_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.judging import Judged, judge
from kd.evaluation.quantities import BALANCED, NLL, choose_quantity
from kd.evaluation.verdict import Earlier
from kd.models.inference import Predictions
from tests.commands.compare.comparisons import CLASSES, IMAGES, make_comparison, make_predictions
from tests.commands.compare.test_command import CPU, SPENT


def test_swapping_the_arms_reverses_the_verdict() -> None:
    comparison = make_comparison()
    swapped = dataclasses.replace(
        comparison, students={"control": comparison.students["distilled"], "distilled": comparison.students["control"]}
    )
    judged, mirrored = Verdicts(comparison).main, Verdicts(swapped).main
    assert (judged.verdict, mirrored.verdict) == ("helps", "hurts")
    assert judged.question.control.mean == -mirrored.question.control.mean


def test_the_order_of_the_pairs_does_not_matter() -> None:
    comparison = make_comparison()
    reversed_seeds = dataclasses.replace(
        comparison,
        students={arm: [group[::-1] for group in groups] for arm, groups in comparison.students.items()},
        seeds=[group[::-1] for group in comparison.seeds],
    )
    first, second = (Verdicts(c).main.interval for c in (comparison, reversed_seeds))
    assert first == pytest.approx(second)
    assert sorted(map(str, student_rows(reversed_seeds))) == sorted(map(str, student_rows(comparison)))


def test_the_overall_verdict_needs_several_teachers_and_counts_each_once() -> None:
    assert Verdicts(make_comparison()).overall is None
    comparison = make_comparison(teachers=3)
    overall = Verdicts(comparison).overall
    assert overall is not None
    assert overall.question.control.differences == pytest.approx([comparison.pairs(n).mean for n in range(3)])
    assert overall.verdict == "helps"
    doubled = dataclasses.replace(
        comparison,
        students={arm: [group * 2 for group in groups] for arm, groups in comparison.students.items()},
        seeds=[group * 2 for group in comparison.seeds],
    )
    repeated = Verdicts(doubled).overall
    assert repeated is not None
    assert repeated.interval == pytest.approx(
        overall.interval
    )  # more students per teacher say nothing of other teachers


def test_changed_test_images_are_slices_with_an_adjustment_of_their_own() -> None:
    """The differences are those of the predictions for the changed images alone."""
    comparison = make_comparison()
    errors = {"rotation": (300, 100), "noise": (60, 60)}

    def shift(arm: int, group: list[ModelPredictions]) -> list[ModelPredictions]:
        return [
            model._replace(
                shifted={
                    name: make_predictions(50 * arm + seed, counts[arm] + seed * (1 + arm)).test
                    for name, counts in errors.items()
                }
            )
            for seed, model in enumerate(group)
        ]

    students = {
        name: [shift(arm, list(group)) for group in comparison.students[name]]
        for arm, name in enumerate(("control", "distilled"))
    }
    changed = dataclasses.replace(comparison, students={**comparison.students, **students})
    slices = measure_slices(changed)
    assert list(slices["shift"]) == list(errors)
    found = slices["shift"]["rotation"]
    assert (found.items, found.control) == (IMAGES, pytest.approx(100 * (300 + 1.5) / IMAGES))
    assert found.contrast.mean == pytest.approx(-100 * (200 - 1.5) / IMAGES)
    assert slices["shift"]["noise"].contrast.mean == pytest.approx(100 * 1.5 / IMAGES)
    raw = [slice.contrast.p for slice in slices["shift"].values()]
    assert [slice.p for slice in slices["shift"].values()] == pytest.approx(multipletests(raw, method="holm")[1])
    assert {name: slices[name] for name in ("class", "teacher")} == measure_slices(comparison)
    assert any(line.startswith("By shift: fewer errors on rotation (-49.62)") for line in describe_slices(slices))


def test_teachers_of_one_split_count_as_one_observation() -> None:
    comparison = dataclasses.replace(make_comparison(teachers=4), blocks=(0, 1, 0, 1), block_noun="split")
    overall = Verdicts(comparison).overall
    assert overall is not None
    means = [comparison.pairs(number).mean for number in range(4)]
    by_split = [(means[0] + means[2]) / 2, (means[1] + means[3]) / 2]
    assert overall.question.control.differences == pytest.approx(by_split)
    assert "Based on 2 splits with equal weight" in Verdicts(comparison).lines[-1]
    one_split = dataclasses.replace(make_comparison(teachers=2), one_split=42)
    assert (
        Verdicts(one_split).lines[-1].endswith("on one training/validation split (seed 42): another split may differ.")
    )


@pytest.mark.parametrize(
    ("blocks", "noun", "unit"), [((0, 1), "teacher", "teachers"), ((0, 1, 0, 1), "split", "splits")]
)
def test_the_power_over_several_teachers_counts_teachers_or_splits(blocks: Any, noun: str, unit: str) -> None:
    """More pairs would not help: "3.6 errors take 17 pairs" once meant 17 teachers."""
    comparison = dataclasses.replace(make_comparison(len(blocks), gain=1), margin=1.0, blocks=blocks, block_noun=noun)
    text = Verdicts(comparison).lines[-1]
    assert f"2 {unit} detect a true difference of" in text
    assert "pairs detect" not in text
    assert "number of pairs" not in text


def test_verdicts_by_teacher_are_adjusted_for_their_number() -> None:
    alone, among = Verdicts(make_comparison()).by_teacher[0], Verdicts(make_comparison(teachers=3)).by_teacher[0]
    assert (alone.family, among.family) == (1, 3)
    assert among.p > alone.p


def test_it_helps_only_with_the_control_of_softened_labels() -> None:
    comparison = make_comparison()
    without = dataclasses.replace(
        comparison, students={arm: comparison.students[arm] for arm in ("control", "distilled")}
    )
    assert Verdicts(comparison).main.verdict == "helps"
    assert Verdicts(without).main.verdict == "better than the labels alone"
    no_gain = dataclasses.replace(
        comparison, students=comparison.students | {"smoothed": comparison.students["distilled"]}
    )
    verdicts = Verdicts(no_gain)
    assert verdicts.main.verdict == "better than the labels alone"
    assert "Label smoothing 0.2, which needs no teacher, does not differ from it by more than" in verdicts.lines[-1]


def test_earlier_questions_make_a_verdict_harder() -> None:
    comparison = make_comparison(gain=14)
    alone, later = Verdicts(comparison).main, Verdicts(comparison, [Earlier(0.5, 0.5)] * 9).main
    assert (alone.family, later.family) == (1, 10)
    assert later.p == pytest.approx(min(1, 10 * alone.p))


def test_earlier_questions_count_under_every_teacher_too() -> None:
    comparison = make_comparison(teachers=2, gain=14)
    alone, later = Verdicts(comparison), Verdicts(comparison, [Earlier(0.5, 0.5)] * 9)
    assert later.overall is not None
    assert [judgement.family for judgement in [*later.by_teacher, later.overall]] == [11, 11, 10]
    assert all(b.p > a.p for a, b in zip(alone.by_teacher, later.by_teacher, strict=True))


def test_a_verdict_is_recorded_before_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, comparison = CompareSettings(out=tmp_path), make_comparison()

    def interrupt(*_: object, **__: object) -> None:
        assert len(read_ledger(settings.state_dir).entries) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "print_comparison", interrupt)
    teacher: Any = SimpleNamespace(settings=settings, distill_data=SimpleNamespace(test=[]))
    digests = Digests("test", {})
    with pytest.raises(KeyboardInterrupt):
        command._publish(settings, teacher, digests, {"kd": comparison}, Ledger(), {"kd": {}}, {}, {"kd": SPENT}, CPU)


def make_imbalanced(found: dict[str, int], rare: int = 14, images: int = 1_000) -> Comparison:
    """Make arms of five students that find so many of 14 rare items in all, and every common one."""
    labels = (torch.arange(images) < rare).long()

    def student(hits: int) -> ModelPredictions:
        predicted = labels.clone()
        predicted[hits:rare] = 0
        logits = 4.0 * torch.nn.functional.one_hot(predicted, 2).float()
        return ModelPredictions(Predictions(logits, labels), Predictions(logits, labels))

    students = {
        arm: [[student(total // 5 + (index < total % 5)) for index in range(5)]] for arm, total in found.items()
    }
    quantity = choose_quantity("auto", labels, ("common", "rare"))
    return Comparison(
        [student(12)], students, [range(5)], 0.5, 4.0, quantity=quantity, classes=("common", "rare"), method="kd"
    )


MAJORITY = (
    "No better than always predicting common, which makes 14 errors on 1,000 test images (balanced error 50.00 %): "
)


def test_rare_items_that_only_the_control_finds_are_no_equivalence() -> None:
    """Of 70 rare items, the distilled students find 1 and the controls 8: once called "no difference"."""
    comparison = make_imbalanced({"control": 8, "distilled": 1})
    verdicts = Verdicts(comparison)
    assert comparison.quantity == BALANCED
    assert "no difference" not in verdicts.lines[-1]
    assert verdicts.lines[-1].startswith(f"{MAJORITY}distilled student (4 of 5)")
    assert "percentage points more balanced error than the control" in verdicts.lines[-1]


def test_models_that_always_answer_the_majority_are_not_judged() -> None:
    verdicts = Verdicts(make_imbalanced({"control": 0, "distilled": 0}))
    assert verdicts.main.verdict == "not decided"
    line = verdicts.lines[-1]
    assert line.startswith(f"{MAJORITY}control (5 of 5)")
    assert "Models that never predict rare: control (5 of 5), distilled student (5 of 5)." in line
    assert "Distillation (kd, teacher's test accuracy 99.80%): not decided" in line


def judge_rare(recall: tuple[float, float], decide: str) -> Judged:
    """Judge students that err on 4 % of 970 common items and find these shares of 30 rare ones: more errors than 30."""
    rng = np.random.default_rng(0)
    labels = np.array([1] * 30 + [0] * 970)

    def student(share: float) -> NDArray[np.int64]:
        return (rng.random(1000) < np.where(labels, share, 0.04)).astype(np.int64)

    control, distilled, smoothed = ([student(share) for _ in range(6)] for share in (*recall, recall[0]))
    return judge(control, distilled, labels, smoothed=smoothed, kind="classes", decide=decide)


@pytest.mark.parametrize("decide", ["auto", "recall:1"])
def test_students_with_more_errors_than_the_majority_are_judged_by_what_decides(decide: str) -> None:
    judged = judge_rare((0.5, 0.9), decide)
    assert judged.verdict == "helps"
    assert "No better than" not in judged.sentence


def test_helps_is_never_said_beside_no_better_than_the_majority() -> None:
    """A control at the balanced error of the constant prediction, and much better distilled students."""
    judged = judge_rare((0.03, 0.9), "auto")
    assert "No better than always predicting 0" in judged.sentence
    assert judged.verdict == "not decided"
    assert judge_rare((0.9, 0.03), "auto").verdict == "hurts"


def test_a_collapsed_student_leaves_the_verdict_undecided() -> None:
    comparison = make_comparison()
    labels = torch.arange(IMAGES) % CLASSES
    constant = Predictions(torch.nn.functional.one_hot(torch.zeros_like(labels), CLASSES).float(), labels)
    comparison.students["control"][0][2] = ModelPredictions(constant, constant)  # type: ignore[index]
    verdicts = Verdicts(comparison)
    assert verdicts.main.verdict == "not decided"
    assert "Students collapsed: 1 of 4 (control)." in verdicts.lines[-1]


def test_identical_students_are_recognised_by_their_weights() -> None:
    comparison = make_comparison()
    twins = [
        predictions._replace(weights=f"hash {index}")
        for index, predictions in enumerate(comparison.students["control"][0])
    ]
    same = dataclasses.replace(comparison, students={"control": [twins], "distilled": [twins]})
    assert "Every distilled student is identical to its control" in Verdicts(same).lines[-1]
    assert "identical" not in Verdicts(comparison).lines[-1]


def test_worse_probabilities_are_said() -> None:
    comparison = make_comparison()
    sharp = [
        predictions._replace(test=predictions.test._replace(logits=30 * predictions.test.logits))
        for predictions in comparison.students["distilled"][0]
    ]
    worse = dataclasses.replace(comparison, students=comparison.students | {"distilled": [sharp]})
    assert "Its probabilities are worse:" in Verdicts(worse).lines[-1]
    assert "worse" not in Verdicts(comparison).lines[-1]


def make_traded(control: tuple[float, float], distilled: tuple[float, float], decide: str, rare: int = 300) -> Judged:
    """Judge students that find these shares of the common and the rare items of 1,000."""
    rng = np.random.default_rng(0)
    labels = (np.arange(1_000) < rare).astype(np.int64)

    def student(shares: tuple[float, float]) -> NDArray[np.int64]:
        return np.where(rng.random(1_000) < np.array(shares)[labels], labels, 1 - labels)

    arms = [[student(shares) for _ in range(6)] for shares in (control, distilled, control)]
    return judge(arms[0], arms[1], labels, smoothed=arms[2], kind="classes", decide=decide)


def test_fewer_misses_of_one_class_do_not_hide_more_errors() -> None:
    judged = make_traded((0.95, 0.6), (0.7, 0.9), "recall:1")
    assert judged.verdict == "helps"
    assert re.search(r"In all, it makes \d+\.\d more errors than the control \(95 % CI \+", judged.sentence)
    assert "In all, it makes" not in make_traded((0.95, 0.6), (0.95, 0.9), "recall:1").sentence


def test_fewer_errors_do_not_hide_a_rare_class_that_is_lost() -> None:
    """150 rare items: fewer errors, because more of them are taken for common ones."""
    judged = make_traded((0.94, 0.8), (0.998, 0.6), "errors", rare=150)
    assert judged.verdict == "helps"
    assert "With equal weight of all classes, it has" in judged.sentence
    assert "percentage points more balanced error than the control" in judged.sentence
    assert "With equal weight" not in make_traded((0.94, 0.8), (0.998, 0.8), "errors", rare=150).sentence


def test_always_predicting_a_class_is_no_way_to_find_it() -> None:
    judged = make_traded((0.95, 0.6), (0.0, 1.0), "recall:1")
    assert judged.verdict == "not decided"
    assert judged.sentence.startswith("No better than always predicting 0, which makes 300 errors on 1,000 test items ")
    assert make_traded((0.95, 0.6), (0.9, 0.9), "recall:1").verdict == "helps"
    losing = make_traded((0.0, 1.0), (0.95, 0.6), "recall:1")
    assert losing.verdict == "hurts"  # distilled students that do learn, but miss more of the class


@pytest.mark.parametrize(("found", "margin"), [(0.6, 0.1), (1.0, 50.0)])
def test_without_label_smoothing_it_is_no_way_either(found: float, margin: float) -> None:
    """Once "better than the labels alone" or "no difference larger than d"."""
    judged = make_traded((0.95, found), (0.0, 1.0), "recall:1").comparison
    students = {arm: groups for arm, groups in judged.students.items() if arm != "smoothed"}
    without = dataclasses.replace(judged, students=students, margin=margin)
    assert Verdicts(without).main.verdict == "not decided"


def test_a_longer_control_that_beats_everything_leads() -> None:
    comparison = make_comparison()
    best = [[make_predictions(9000 + seed, 1) for seed in range(4)]]
    longer = dataclasses.replace(comparison, students=comparison.students | {"longer": best}, longer_epochs=22)
    assert Verdicts(longer).lines[-1].startswith("Both students are under-trained: the control trained for 22 epochs")
    assert "under-trained" not in Verdicts(comparison).lines[-1]


def test_a_gain_that_more_computation_gives_as_well_is_said() -> None:
    """The longer control has the errors of the distilled students, 15 to 17, or 30 to 33."""
    comparison = make_comparison()
    sentences = []
    for errors in (15, 30):
        longer = [[make_predictions(9000 + seed, errors + seed) for seed in range(4)]]
        students = comparison.students | {"longer": longer}
        verdicts = Verdicts(dataclasses.replace(comparison, students=students, longer_epochs=22))
        assert verdicts.main.verdict == "helps"
        sentences.append(verdicts.lines[-1])
    assert "It is not shown to be better than the control trained for 22 epochs, which costs as much" in sentences[0]
    assert re.search(r"share of the teacher: .* \(95 % CI", sentences[0])
    assert "not shown to be better" not in sentences[1]


@pytest.mark.parametrize(("gain", "verdict"), [(-10, "hurts"), (0, "inconclusive")])
def test_label_smoothing_that_is_better_than_distillation_is_said_in_every_verdict(gain: int, verdict: str) -> None:
    comparison = make_comparison(gain=gain)
    good = make_comparison(gain=25).students["distilled"][0][::-1]  # else, all differences would be equal
    surpassed = Verdicts(dataclasses.replace(comparison, students=comparison.students | {"smoothed": [good]}))
    assert surpassed.main.verdict == verdict
    start = "Label smoothing 0.2, which needs no teacher, is better than distillation: "
    assert start in surpassed.lines[-1]
    assert start not in Verdicts(make_comparison(gain=0)).lines[-1]


def test_a_strength_of_label_smoothing_that_was_given_is_not_tuned() -> None:
    comparison = make_comparison()
    assert "label smoothing 0.2 on average" in Verdicts(comparison).lines[-1]
    given = dataclasses.replace(comparison, is_smoothing_tuned=False)
    assert "label smoothing 0.2 (not tuned) on average" in Verdicts(given).lines[-1]


def test_slices_cover_the_test_set_and_name_what_differs() -> None:
    comparison = make_comparison()
    slices = measure_slices(comparison)
    assert sum(row.items for row in slices["class"].values()) == IMAGES
    teacher = slices["teacher"]
    assert teacher["teacher right"].items + teacher["teacher wrong"].items == IMAGES
    assert teacher["teacher unsure"].items == IMAGES / 4
    found = [name for name, row in slices["class"].items() if row.p < 0.05]
    text = " ".join(describe_slices(slices))
    assert all(f"{name} ({slices['class'][name].contrast.mean:+.2f})" in text for name in found)


def test_without_any_difference_the_interval_is_in_the_unit_of_what_decides() -> None:
    """One of 14 rare items is 7.1 percentage points: three pairs without a difference cannot exclude one point."""
    comparison = make_imbalanced({"control": 25, "distilled": 25})
    rare = choose_quantity("recall:rare", comparison.labels, ("common", "rare"))
    verdicts = Verdicts(dataclasses.replace(comparison, quantity=rare, margin=1.0))
    assert verdicts.main.verdict == "inconclusive"
    interval = verdicts.main.interval
    assert interval is not None
    of_seeds, of_items = np.log(2 / 0.05) / 5 * 100 / 14, np.log(2 / 0.05) * 100 / 14
    assert interval.high == pytest.approx(np.hypot(of_seeds, of_items))
    nll = dataclasses.replace(comparison, quantity=NLL)
    assert Verdicts(nll).main.interval is None


def test_remarks_and_slices_count_each_teacher_once() -> None:
    comparison = make_comparison(teachers=3)
    doubled = dataclasses.replace(
        comparison,
        students={arm: [group * 2 for group in groups] for arm, groups in comparison.students.items()},
        seeds=[group * 2 for group in comparison.seeds],
    )
    first, second = (measure_slices(c)["class"]["0"].contrast for c in (comparison, doubled))
    assert len(first.differences) == len(second.differences) == 3
    assert first.interval() == pytest.approx(second.interval())
