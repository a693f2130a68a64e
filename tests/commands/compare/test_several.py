"""``kd compare --methods``: one question for each method, adjusted together; shared controls; files and page."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from statsmodels.stats.multitest import multipletests

import kd
from kd.commands.compare.command import _announce, _describe_longer, judge_together
from kd.commands.compare.report import compare_part
from kd.commands.compare.settings import CompareSettings
from kd.commands.compare.several import (
    Results,
    lead_sentence,
    method_files,
    method_rows,
    methods_drawings,
    print_methods,
)
from kd.commands.compare.several_report import methods_part
from kd.commands.compare.students import choose_arms, list_data, make_students
from kd.commands.compare.teachers import Teacher, list_seeds
from kd.commands.ledger import Digests, Entry, Ledger, ask, read_ledger
from kd.evaluation.comparison import Comparison
from kd.evaluation.comparison_slices import measure_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.verdict import judge_all
from kd.evaluation.verdict_text import format_bounds, format_interval
from kd.report.page import page
from tests.commands.compare.comparisons import make_comparison, make_predictions
from tests.commands.compare.test_command import CPU, MNIST, QUICK, SPENT, kd_command
from tests.commands.compare.test_results import SPENT as MEASURED
from tests.commands.compare.test_results import list_trained

# The teacher of dist runs at every step.
DEARER = MEASURED._replace(training=MEASURED.training._replace(cache=10**9), saved=None)
COSTS = {"kd": MEASURED, "dkd": MEASURED, "dist": DEARER}
GAINS = {"kd": 25, "dkd": 8, "dist": 0}


def compare_methods() -> dict[str, Comparison]:
    return {name: dataclasses.replace(make_comparison(gain=gain), method=name) for name, gain in GAINS.items()}


def ask_all(comparisons: dict[str, Comparison], **settings: Any) -> dict[str, Entry]:
    return {
        name: ask(
            Verdicts(comparison).main.question,
            Digests("test", {}),
            command="compare",
            title=name,
            config={"METHOD": name, "PAIRS": 4, **settings},
        )
        for name, comparison in comparisons.items()
    }


def make_results() -> Results:
    comparisons = compare_methods()
    verdicts, _ = judge_together(comparisons, ask_all(comparisons), Ledger())
    slices = {name: measure_slices(comparison) for name, comparison in comparisons.items()}
    configs = {name: {"METHOD": name, "SEED": 0, "TEMPERATURE": 5.0} for name in GAINS}
    return Results(verdicts, slices, configs, list_trained(comparisons["kd"]), COSTS)


# --- questions


def test_methods_are_adjusted_for_each_other_and_for_earlier_questions() -> None:
    comparisons = compare_methods()
    earlier = ask_all({"at": make_comparison(gain=2)})["at"]
    verdicts, ledger = judge_together(comparisons, ask_all(comparisons), Ledger().record(earlier))
    p_values = [own.main.question.control.p for own in verdicts.values()] + [earlier.p]
    expected = multipletests(p_values, method="holm")[1][:3]
    assert [own.main.p for own in verdicts.values()] == pytest.approx(expected)
    assert {own.main.family for own in verdicts.values()} == {4}
    assert [entry.method for entry in ledger.entries] == ["at", *GAINS]
    jointly = judge_all(
        {name: own.main.question for name, own in verdicts.items()},
        margin=comparisons["kd"].unit_margin,
        earlier=Ledger().record(earlier).before(ask_all(comparisons)["kd"]),
    )
    assert {name: own.main.verdict for name, own in verdicts.items()} == {n: j.verdict for n, j in jointly.items()}
    assert {name: own.main.interval for name, own in verdicts.items()} == {n: j.interval for n, j in jointly.items()}


def test_a_method_asked_alone_and_together_is_one_question() -> None:
    comparisons = compare_methods()
    asked = ask_all(comparisons)
    _, alone = judge_together({"dkd": comparisons["dkd"]}, {"dkd": asked["dkd"]}, Ledger())
    together, ledger = judge_together(comparisons, asked, alone)
    assert [entry.method for entry in ledger.entries] == ["dkd", "kd", "dist"]
    assert {own.main.family for own in together.values()} == {3}
    again, same = judge_together(comparisons, asked, ledger)
    assert same == ledger
    assert [own.main.p for own in again.values()] == [own.main.p for own in together.values()]


def test_a_method_of_several_asked_alone_later_stays_adjusted_for_the_others() -> None:
    """Else the first of a list of methods could be asked again alone, without any adjustment."""
    comparisons = compare_methods()
    asked = ask_all(comparisons)
    _, ledger = judge_together(comparisons, asked, Ledger())
    ledger = ledger.record(ask_all({"later": make_comparison(gain=3)})["later"])
    for name in GAINS:
        alone, same = judge_together({name: comparisons[name]}, {name: asked[name]}, ledger)
        assert alone[name].main.family == 3
        assert same == ledger


# --- settings


def test_methods_whose_test_results_are_tracked_are_recorded_together_before_training(tmp_path: Path) -> None:
    """An interrupted training has shown test accuracies too."""
    settings = CompareSettings(methods="kd,dkd", out=tmp_path, track="tensorboard")
    settings.state_dir.mkdir()
    ledger = _announce(settings, Digests("test", {}), Ledger(), CPU)
    assert read_ledger(settings.state_dir) == ledger
    first, second = ledger.entries
    assert (first.method, second.method) == ("kd", "dkd")
    assert (first.together, second.together) == ((second.key,), (first.key,))
    assert [earlier.p for earlier in ledger.before(first)] == [1.0]


def test_each_method_has_its_own_settings_and_is_recorded_like_one_asked_alone() -> None:
    settings = CompareSettings(methods="kd, dkd,at", set=("dkd.beta=4", "at.weight=10"), temperature=2.0)
    settings.check()
    by_method = settings.by_method
    assert list(by_method) == ["kd", "dkd", "at"]
    assert by_method["kd"] == CompareSettings(temperature=2.0)
    assert by_method["dkd"] == CompareSettings(method="dkd", set=("beta=4",))
    assert by_method["at"].method_settings["weight"] == 10
    assert CompareSettings(method="dkd").by_method == {"dkd": CompareSettings(method="dkd")}
    assert (settings.trainings["distilled"], settings.trainings["control"]) == (30, 10)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("kd,", ""), "--methods must be names separated by commas, each once"),
        (("kd,kd", ""), "--methods must be names separated by commas, each once"),
        (("kd,nonsense", ""), "there is no method 'nonsense'"),
        (("kd,dkd", "--method", "at"), "--method must be omitted with --methods. Got 'at' instead"),
        (("kd,dkd", "--set", "beta=4"), "--set with --methods must be METHOD.NAME=VALUE, with a method of kd, dkd"),
        (("kd,dkd", "--set", "at.weight=4"), "--set with --methods must be METHOD.NAME=VALUE"),
        (("kd,dkd", "--set", "dkd.nonsense=4"), "dkd has no setting 'nonsense'"),
        (("at,dkd", "--temperature", "4"), "--temperature must be omitted if --methods does not include kd"),
        (("kd,dkd", "--until-decided"), "--until-decided must be used with one method"),
        (("kd,dkd", "--dry-run"), "--dry-run must be used with one method"),
        (("kd,dkd", "--teacher", "cnn", "--teacher", "mlp:32"), "--teacher with --methods must be given once"),
    ],
)
def test_settings_that_clash_are_refused(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kd_command("compare", "--out", str(tmp_path / "new"), "--methods", *filter(None, flags)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("methods", "flags", "message"),
    [
        ("kd,fitnet", (), "fitnet: "),
        ("fitnet,kd", (), "fitnet: "),
        ("kd,dkd", ("--set", "dkd.beta=nonsense"), "dkd: --set dkd.beta=nonsense"),
        ("kd,dkd", ("--epochs", "0"), "error: --epochs must"),
    ],
)
def test_an_error_names_its_method_and_its_advice_can_be_followed(
    methods: str, flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", "sklearn:wine", "--teacher", "mlp:8,8,8", "--student", "mlp:4", "--device", "cpu")
    assert kd_command("compare", "--out", str(tmp_path), *data, "--methods", methods, *flags) != 0
    printed = " ".join(capsys.readouterr().err.split())
    assert message in printed
    assert "--method " not in printed
    assert not re.search(r"--set (?!fitnet|dkd)", printed)


# --- students


def test_controls_are_trained_once_and_every_method_has_the_same_seeds() -> None:
    settings = CompareSettings(limit=300, epochs=1, student_width=16, pairs=3)
    data = [SimpleNamespace(task=MNIST, class_weights=None), "control data"]
    methods = {}
    for name, alpha in {"kd": 0.5, "dkd": 0.2}.items():
        prepared: Any = SimpleNamespace(data=data[0], distill_data=f"data of {name}", control_data=data[1])
        objective, nothing = kd.distilled(temperature=5, alpha=alpha), SimpleNamespace()
        teacher = Teacher(0, settings, prepared, nothing, objective, list_seeds(settings, 0))  # type: ignore[arg-type]
        methods[name] = [teacher]
    students = dict(make_students(methods, choose_arms(settings, SPENT, 0.1), CPU))
    listed: list[Any] = list_data(methods)
    assert len(students) == 3 * (4 + 1)
    for seed in range(3):
        first, second = (students[f"distilled-{name}-seed-{seed}"] for name in methods)
        assert kd.weights_bytes(first.model) == kd.weights_bytes(second.model)
        assert first.objective is not second.objective
        assert first.step == second.step == f"distilled-seed-{seed}"  # as if asked alone
        assert (listed[first.teacher], listed[second.teacher]) == ("data of kd", "data of dkd")
        assert listed[students[f"control-seed-{seed}"].teacher] == "control data"


def test_every_method_has_its_own_cost_and_all_share_the_longer_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = _describe_longer(COSTS)
    assert longer == {"longer_epochs": DEARER.training.longer_epochs, "longer_of": "dist"}
    assert _describe_longer({"kd": MEASURED, "dkd": MEASURED})["longer_of"] == ""
    results = make_results()
    verdicts = {}
    for name, own in results.verdicts.items():
        students = {**own.comparison.students, "longer": own.comparison.students["distilled"]}
        verdicts[name] = Verdicts(dataclasses.replace(own.comparison, students=students, **longer))
    results = results._replace(verdicts=verdicts)
    files = method_files(tmp_path, results, limit=None)
    for name, cost in COSTS.items():
        own_cost = json.loads(files[tmp_path / f"metrics/comparison-{name}.json"])["training_multiply_adds"]
        assert (own_cost["cache"], own_cost["distilled"]) == (cost.training.cache, cost.training.distilled)
        assert own_cost["longer_epochs"] == DEARER.training.longer_epochs
    saved = json.loads(files[tmp_path / "metrics/comparisons_timings.json"])["teacher_seconds_saved"]
    assert saved["kd"] is not None
    assert saved["dist"] is None
    print_methods(results, limit=None)
    part = methods_part(results, test=[], command="", limit=None)
    for text in (capsys.readouterr().out, unescape(page([part]).decode()).replace("\u00a0", " ")):
        text = " ".join(text.split())
        assert "kd, dkd: Multiply-adds: 1e+08 for training a student; 4.37e+08 including" in text
        assert "dist: Multiply-adds: 1e+08 for training a student; 7.67e+08 including" in text
        assert f"{DEARER.training.longer_epochs} epochs instead of 10, the cost of dist." in text
        assert "kd, dkd: Computing the teacher's logits" in text
        assert "dist: Computing" not in text


# --- files and page


def test_each_method_has_its_files_and_all_share_an_overview(tmp_path: Path) -> None:
    results = make_results()
    files = {p.relative_to(tmp_path).as_posix(): c for p, c in method_files(tmp_path, results, limit=None).items()}
    assert set(files) == {
        "metrics/comparisons.json",
        "metrics/comparisons_timings.json",
        *(f"metrics/comparison-{name}{end}" for name in GAINS for end in (".json", "_students.csv")),
        *(f"plots/comparisons_{name}.png" for name in ("errors", "differences")),
    }
    overview = json.loads(files["metrics/comparisons.json"])
    for name, summary in overview["methods"].items():
        own = json.loads(files[f"metrics/{summary['file']}"])
        assert own["config"]["METHOD"] == name
        assert (own["verdict"], own["sentence"]) == (summary["verdict"], summary["sentence"])
        assert own["verdicts"][0]["questions"] == overview["questions"] == 3
        rows = list(csv.DictReader(files[f"metrics/comparison-{name}_students.csv"].decode().splitlines()))
        assert len([row for row in rows if row["arm"] == "distilled"]) == 4
    assert overview["sentence"] == lead_sentence(results.verdicts)


def test_the_page_leads_with_the_methods_and_holds_the_details_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    results = make_results()
    part = methods_part(results, test=[1, 2], command="kd compare --methods kd,dkd,dist", limit=None)
    assert part.tone == "mixed"
    start = (
        "3 methods (teacher's test accuracy 98.75%), each compared with the same control on 400 test images. Helps: "
    )
    assert part.verdict.startswith(f"{start}kd (25.5 fewer errors, 98.3")
    text = unescape(page([part]).decode()).replace("\u00a0", " ")
    first = part.sections[0].blocks[0]
    assert first.rows == tuple(method_rows(results.verdicts))  # type: ignore[union-attr]  # a table
    print_methods(results, limit=None)
    printed = capsys.readouterr().out
    for name, own in results.verdicts.items():
        assert own.lines[-1] in text
        assert own.lines[-1] in printed
        assert f"<summary>{name}</summary>" in text
    assert printed.rstrip().endswith(part.verdict)
    assert "METHOD" not in part.settings
    only = results.verdicts["kd"]
    single = compare_part(only, MEASURED, {"SEED": 0}, test=[], command="", limit=None, slices=results.slices["kd"])
    assert len(page([part])) < len(GAINS) * len(page([single]))  # what all share is shown once


@pytest.mark.pictures
def test_the_figure_shows_the_intervals_that_decide() -> None:
    """Unadjusted intervals would exclude 0 for a method that the table calls inconclusive."""
    verdicts = make_results().verdicts
    plot = methods_drawings(verdicts)["comparisons_differences"]()
    shown = {text.get_text() for text in plot.axes[0].texts}
    for own in verdicts.values():
        bounds = format_bounds(own.main.interval)
        assert any(bounds in text.replace("\u00a0", " ") for text in shown), (bounds, shown)
    assert "adjusted CI" in plot.axes[0].get_title(loc="left") + plot.axes[0].get_title()


def test_a_gain_of_one_method_that_more_computation_gives_as_well_is_said() -> None:
    longer = [[make_predictions(9000 + seed, 15 + seed) for seed in range(4)]]
    verdicts = {
        name: Verdicts(dataclasses.replace(own, students=own.students | {"longer": longer}, longer_epochs=22))
        for name, own in compare_methods().items()
    }
    assert (verdicts["kd"].main.verdict, verdicts["dist"].main.verdict) == ("helps", "inconclusive")
    sentence = lead_sentence(verdicts)
    assert "kd: It is not shown to be better than the control trained for 22 epochs" in sentence
    assert "dist: It is not shown" not in sentence  # no gain


def test_what_holds_for_one_method_alone_is_said_with_its_name() -> None:
    comparisons = compare_methods()
    broken = comparisons["dkd"]
    group = list(broken.students["distilled"][0])
    collapsed = group[0]._replace(test=group[0].test._replace(logits=torch.zeros_like(group[0].test.logits)))
    students = {**broken.students, "distilled": [[collapsed, *group[1:]]]}
    comparisons["dkd"] = dataclasses.replace(broken, students=students)
    verdicts, _ = judge_together(comparisons, ask_all(comparisons), Ledger())
    sentence = lead_sentence(verdicts)
    assert verdicts["dkd"].main.verdict == "not decided"
    assert "Students collapsed: 1 of 4 (distilled student of dkd)" in sentence
    assert "Not decided: dkd" in sentence


def test_the_sentence_on_top_has_what_the_sentences_of_the_methods_say() -> None:
    """Intervals, the teacher's accuracy, worse probabilities, remarks and a weak teacher; once it had only means."""
    comparisons = compare_methods()
    weak = [comparisons["dkd"].students["control"][0][0]]
    for name, comparison in comparisons.items():
        comparisons[name] = dataclasses.replace(comparison, teachers=weak, remarks=["All students start from a file."])
    dkd = comparisons["dkd"]
    sharp = [
        student._replace(test=student.test._replace(logits=30 * student.test.logits))
        for student in dkd.students["distilled"][0]
    ]
    comparisons["dkd"] = dataclasses.replace(dkd, students={**dkd.students, "distilled": [sharp]})
    verdicts, _ = judge_together(comparisons, ask_all(comparisons), Ledger())
    sentence = lead_sentence(verdicts)
    for name, own in verdicts.items():
        judged = own.main
        interval = format_interval(judged.interval, 1 - judged.level, own.comparison.quantity)
        assert re.search(rf"{name} \([^()]*, {re.escape(interval)}\)", sentence), sentence
    for text in ("teacher's test accuracy", "All students start", "dkd: Its probabilities are worse", "hardly better"):
        assert sentence.count(text) == 1, text


def test_the_sentence_on_top_says_what_label_smoothing_achieves() -> None:
    """Once "Better than the labels alone: kd (…)", and nothing of label smoothing that was better still."""
    comparisons = compare_methods()
    for name, comparison in comparisons.items():
        good = make_comparison(gain=38).students["distilled"][0][::-1]
        comparisons[name] = dataclasses.replace(comparison, students=comparison.students | {"smoothed": [good]})
    verdicts, _ = judge_together(comparisons, ask_all(comparisons), Ledger())
    assert verdicts["kd"].main.verdict == "better than the labels alone"
    start = "Label smoothing 0.2, which needs no teacher, is better still: "
    assert start in verdicts["kd"].lines[-1]
    assert f"kd: {start}" in lead_sentence(verdicts)


def test_a_single_question_is_no_plural() -> None:
    assert "adjusted for 1 question of these" in lead_sentence({"kd": Verdicts(make_comparison())})


def test_a_failure_of_a_shared_control_is_said_once() -> None:
    comparisons = compare_methods()
    for name, comparison in comparisons.items():
        group = list(comparison.students["control"][0])
        test = group[0].test._replace(logits=torch.zeros_like(group[0].test.logits))
        controls = [[group[0]._replace(test=test), *group[1:]]]
        comparisons[name] = dataclasses.replace(comparison, students={**comparison.students, "control": controls})
    dkd = comparisons["dkd"]
    comparisons["dkd"] = dataclasses.replace(dkd, students={**dkd.students, "distilled": dkd.students["control"]})
    verdicts, _ = judge_together(comparisons, ask_all(comparisons), Ledger())
    sentence = lead_sentence(verdicts)
    assert sentence.count("A student has collapsed if") == sentence.count("always predicting") == 1
    assert "Students collapsed: 1 of 4 (control), 1 of 4 (distilled student of dkd)." in sentence


def test_the_margin_is_named_in_the_unit_of_the_quantity() -> None:
    comparisons = {
        name: dataclasses.replace(make_comparison(gain=0), method=name, margin=5.0) for name in ("kd", "dkd")
    }
    verdicts, _ = judge_together(comparisons, ask_all(comparisons), Ledger())
    assert verdicts["kd"].main.verdict == "no difference larger than d"
    assert "No difference larger than 20 errors: kd (" in lead_sentence(verdicts)
    assert [row[-1] for row in method_rows(verdicts)] == ["no difference larger than 20 errors"] * 2


def test_a_longer_control_that_beats_several_methods_is_said_once() -> None:
    longer = [make_predictions(5_000 + seed, errors) for seed, errors in enumerate((1, 2, 1, 3))]
    comparisons = {
        name: dataclasses.replace(
            comparison,
            students={**comparison.students, "longer": [longer]},
            longer_epochs=27,
            longer_of="dkd, dist",
        )
        for name, comparison in compare_methods().items()
    }
    verdicts, _ = judge_together(comparisons, ask_all(comparisons), Ledger())
    assert lead_sentence(verdicts).startswith(
        "The students are under-trained: training on the labels alone for 27 epochs (the cost of dkd, dist) beats the "
        "control and the distilled students of kd, dkd, dist. 3 methods"
    )


@pytest.mark.slow
def test_methods_with_ids_and_features_together_and_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("compare", "--out", str(tmp_path), *QUICK, "--pairs", "2", "--smoothing", "0")
    assert kd_command(*few, "--methods", "kd,crd,rkd", "--set", "crd.negatives=32") == 0
    metrics, steps = tmp_path / "results" / "metrics", tmp_path / ".kd" / "steps"
    overview = json.loads((metrics / "comparisons.json").read_text())
    assert list(overview["methods"]) == ["kd", "crd", "rkd"]
    assert overview["sentence"] in capsys.readouterr().out.replace("\n", " ")
    assert not (metrics / "comparison.json").exists()
    students = {path.name for path in steps.glob("distilled-seed-*")}
    for name, flags in {"kd": (), "crd": ("--method", "crd", "--set", "negatives=32")}.items():
        assert kd_command(*few, *flags, "--no-longer") == 0
        alone = json.loads((metrics / "comparison.json").read_text())
        among = json.loads((metrics / f"comparison-{name}.json").read_text())
        assert alone["verdicts"][0]["control"] == among["verdicts"][0]["control"]
        assert alone["verdicts"][0]["questions"] == 3
    assert {path.name for path in steps.glob("distilled-seed-*")} == students  # all reused
    assert [entry.method for entry in read_ledger(tmp_path / ".kd").entries] == ["kd", "crd", "rkd"]
