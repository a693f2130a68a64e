"""``kd judge``: verdicts on predictions from files or arrays, the same as those of ``kd compare`` on these numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kd
from kd import cli
from kd.commands.slices_report import show_slices
from kd.evaluation.comparison_slices import WITHHELD, describe_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.report.blocks import Paragraph
from tests.commands.compare.comparisons import make_comparison


def arrays(kind: str = "logits", gain: int = 25) -> dict[str, Any]:
    """Return the arms of a comparison of 400 items as arrays, and the labels."""
    comparison = make_comparison(gain=gain)

    def convert(logits: torch.Tensor) -> np.ndarray:
        values = {"logits": logits, "probabilities": logits.double().softmax(1), "classes": logits.argmax(1)}[kind]
        return values.numpy()

    arms = {arm: [convert(student.test.logits) for student in groups[0]] for arm, groups in comparison.students.items()}
    return {**arms, "labels": comparison.labels.numpy()}


@pytest.mark.parametrize("kind", ["logits", "probabilities", "classes"])
def test_it_finds_what_compare_finds(kind: Any) -> None:
    found, expected = kd.judge(**arrays(kind), kind=kind, margin=0.5), Verdicts(make_comparison()).main
    assert found.verdict == expected.verdict == "helps"
    assert found.judgement.interval == pytest.approx(expected.interval)
    assert found.judgement.p == pytest.approx(expected.p)
    assert found.sentence.endswith("4 paired seeds and 400 test items, given the conditions shared by all pairs.")


def test_without_label_smoothing_it_never_helps() -> None:
    values = arrays()
    del values["smoothed"]
    judged = kd.judge(**values)
    assert judged.verdict == "better than the labels alone"
    assert "there is no control with label smoothing" in judged.sentence
    assert kd.judge(**values, smoothed=None).sentence == judged.sentence


def test_arms_may_be_iterators() -> None:
    values = arrays()
    read = {arm: iter(values[arm]) for arm in ("control", "distilled", "smoothed")}
    assert kd.judge(**read, labels=values["labels"]).sentence == kd.judge(**values).sentence


def test_what_decides_can_be_chosen() -> None:
    judged = kd.judge(**arrays(), decide="recall:1", class_names=("a", "1", "c", "d", "e"))
    assert "misses of class 1" in judged.sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": []}, "control must be at least 2. Got '0 students'"),
        ({"distilled": [np.zeros((400, 5))]}, "distilled must be 4, one for each control. Got '1 students'"),
        ({"kind": "probabilities"}, r"control\[0\]"),
        ({"kind": "classes"}, r"control\[0\] must be of shape \[400\]"),
        ({"labels": np.arange(400)}, "labels must be within 0 … 4"),
        ({"labels": np.zeros(7, int)}, r"control\[0\] must be of shape \[7, 5\]"),
        ({"margin": 0}, "margin must be above 0"),
        ({"class_names": ("a",)}, r"class_names \(--class-names\) must be 5"),
        ({"decide": "accuracy"}, "--decide must be auto"),
        ({"kind": "class"}, "kind must be logits, probabilities or classes. Got 'class'"),
        ({"labels": np.zeros(0, int)}, "labels must be the class of each test item. Got 'none'"),
        ({"labels": np.full(400, "a")}, "labels must be an array of numbers"),
        (
            {"control": [array.astype(float) * 1e300 for array in arrays()["control"]]},
            r"control\[0\] must be at most 3.40282e\+38",
        ),
        ({"control": [array[:, :1] for array in arrays()["control"]]}, r"\[0\] must be of shape \[N, K\] with K ≥ 2"),
        ({"class_names": ("a", "a", "c", "d", "e")}, r"class_names \(--class-names\) must be different names"),
    ],
)
def test_predictions_that_do_not_fit_raise(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kd.judge(**{**arrays(), **change})


def save(folder: Path, values: dict[str, Any]) -> list[str]:
    np.save(folder / "labels.npy", values["labels"])
    flags = ["--labels", str(folder / "labels.npy")]
    for arm in ("control", "distilled", "smoothed"):
        flags.append(f"--{arm}")
        for number, array in enumerate(values[arm]):
            path = folder / f"{arm}{number}.npy"
            np.save(path, array)
            flags.append(str(path))
    return flags


@pytest.mark.pictures
def test_files_give_the_same_verdict_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = save(tmp_path, arrays())
    assert cli.main(["judge", *flags, "--margin", "0.5", "--out", str(tmp_path / "out")]) == 0
    expected = kd.judge(**arrays(), margin=0.5)
    printed = capsys.readouterr().out
    assert expected.sentence in printed
    assert "decided by: test errors; equivalence margin: 2 errors" in printed
    content = json.loads((tmp_path / "out" / "results" / "metrics" / "judgement.json").read_text())
    assert content["sentence"] == expected.sentence
    assert content["verdict"] == "helps"
    assert "Where it helps" in (tmp_path / "out" / "results" / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--control must be at least 2 files. Got '0 files'"),
        (["--control", "a.npy", "b.npy"], "--distilled must be 2 files, as many as --control"),
    ],
)
def test_missing_files_are_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["judge", *flags])
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_file_that_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = arrays()
    values["distilled"][2] = values["distilled"][2][:-1]
    assert cli.main(["judge", *save(tmp_path, values), "--out", str(tmp_path / "out")]) == 1
    assert "distilled2.npy: it must have a row for each of 400 labels" in " ".join(capsys.readouterr().err.split())


def save_tables(folder: Path, *, is_shuffled: bool) -> list[str]:
    """Write CSV files with ids; shuffled ones have rows and columns in another order, and a further row."""
    values, flags = arrays(), ["--ids", "file"]
    ids = [f"{number}.png" for number in range(400)]
    rows = [f"{name},{label}" for name, label in zip(ids, values["labels"], strict=True)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    for arm in ("control", "distilled", "smoothed"):
        flags.append(f"--{arm}")
        for number, logits in enumerate(values[arm]):
            random = np.random.default_rng(number)
            rows, columns = np.arange(400), np.arange(5)
            if is_shuffled and arm != "control":
                rows, columns = random.permutation(400), random.permutation(5)
            lines = [",".join([ids[row], *map(str, logits[row, columns])]) for row in rows] + ["x.png,1,2,3,4,5"]
            path = folder / f"{arm}{number}.csv"
            path.write_text("\n".join([",".join(["file", *("abcde"[column] for column in columns)]), *lines]))
            flags.append(str(path))
    return [*flags, "--labels", str(folder / "labels.csv")]


def test_rows_are_matched_by_ids_and_columns_by_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged = kd.judge(**arrays())
    assert cli.main(["judge", *save_tables(tmp_path, is_shuffled=True), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert judged.sentence in printed
    assert "distilled0.csv: its columns are reordered by the names of the classes" in printed
    assert "distilled0.csv: 1 of 401 rows belong to no sample and are ignored" in printed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels", "file,label\n1.png,0\n1.png,1", "labels.csv: ids must be unique. Got '1.png' more than once"),
        ("labels", "file,label\n1.png,cat", "labels.csv: line 2 should hold numbers. Got 'cat'"),
        ("labels", "file,label\n1.png,cat", "(in Python, id_column). Classes are numbers from 0."),
        ("labels", "file,label\n1.png,0.5", "labels.csv: it must hold whole numbers, one class for each item. Got 0.5"),
        ("labels", "file,a,b\n1.png,0,1", "labels.csv: it must have a single column, the class of each item"),
        ("distilled0", "file,a,b,c,d,e\n1.png,0,1,2,3,4", "distilled0.csv: it must have a row for each of the 400"),
        ("distilled0", "file,a,b,c,d,e\n1.png,0,1,2,3,", "Got an empty cell. Fill it"),
        ("distilled0", "file,a,b\n1.png,0;1;2,3", "Got '0;1;2'. Separate the cells by commas"),
    ],
)
def test_a_table_that_does_not_fit_is_named(
    name: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = save_tables(tmp_path, is_shuffled=False)
    (tmp_path / f"{name}.csv").write_text(content)
    assert cli.main(["judge", *flags, "--out", str(tmp_path / "out")]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_error_about_predictions_names_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = arrays()
    values["distilled"][1] = values["distilled"][0]
    assert cli.main(["judge", *save(tmp_path, values), "--out", str(tmp_path / "out")]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "distilled1.npy must be the predictions of another student. Got the same as" in message
    assert "distilled0.npy: a copy" in message


def test_ids_that_are_not_read_are_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = save(tmp_path, arrays())
    path = Path(flags[flags.index("--control") + 1])
    np.savez(path.with_suffix(".npz"), logits=np.load(path), ids=np.arange(400))
    flags[flags.index(str(path))] = str(path.with_suffix(".npz"))
    assert cli.main(["judge", *flags, "--out", str(tmp_path / "out")]) == 0
    assert "control0.npz: arrays that are not read: ids" in capsys.readouterr().out


def test_other_classes_in_a_header_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = save_tables(tmp_path, is_shuffled=False)
    assert cli.main(["judge", *flags, "--class-names", *"abcdf", "--out", str(tmp_path / "out")]) == 1
    message = "control0.csv: its columns should be the classes a, b, c, d, f, as in the other files or --class-names."
    assert message in " ".join(capsys.readouterr().err.split())


def test_probabilities_are_no_logits() -> None:
    with pytest.raises(ValueError, match=r"control\[0\] must be logits.*probabilities.*pass kind='probabilities'"):
        kd.judge(**arrays("probabilities"))
    sigmoids = arrays()
    sigmoids["distilled"] = [1 / (1 + np.exp(-logits)) for logits in sigmoids["distilled"]]
    with pytest.raises(ValueError, match=r"distilled\[0\] must be logits"):
        kd.judge(**sigmoids)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "classes"])
def test_a_student_counts_once(kind: Any) -> None:
    values = arrays(kind)
    values["distilled"][3] = values["distilled"][1].copy()
    with pytest.raises(ValueError, match=r"distilled\[3\] must be .* another student. Got the same as distilled\[1\]"):
        kd.judge(**values, kind=kind)


@pytest.mark.parametrize("fill", ["right", "constant"])
def test_predicted_classes_may_be_equal_if_they_are_right_or_constant(fill: str) -> None:
    values = arrays("classes")
    classes = values["labels"] if fill == "right" else np.zeros_like(values["labels"])
    values["distilled"] = [classes] * len(values["distilled"])
    assert kd.judge(**values, kind="classes").verdict


@pytest.mark.parametrize("kind", ["logits", "probabilities", "classes"])
@pytest.mark.parametrize("other", ["control", "distilled"])
def test_label_smoothing_is_an_arm_of_its_own(kind: Any, other: str) -> None:
    """Controls passed a second time as students with label smoothing once gave "helps"."""
    values = arrays(kind)
    values["smoothed"] = [array.copy() for array in values[other]]
    with pytest.raises(ValueError, match=rf"smoothed\[0\] must be .* label smoothing. Got the same as {other}\[0\]"):
        kd.judge(**values, kind=kind)


def test_tensors_with_a_graph_and_unsigned_integers_are_taken() -> None:
    expected = kd.judge(**arrays()).sentence
    values = arrays()
    values["control"] = [torch.from_numpy(logits).requires_grad_() for logits in values["control"]]
    assert kd.judge(**{**values, "labels": values["labels"].astype(np.uint16)}).sentence == expected
    classes = arrays("classes")
    unsigned = {
        arm: [array.astype(np.uint64) for array in classes[arm]] for arm in ("control", "distilled", "smoothed")
    }
    judged = kd.judge(**unsigned, labels=classes["labels"], kind="classes")
    assert judged.sentence == kd.judge(**classes, kind="classes").sentence


@pytest.mark.parametrize("kind", ["pandas", "big-endian", "reversed view"])
def test_arrays_of_any_layout_are_read_row_by_row(kind: str) -> None:
    def convert(values: np.ndarray) -> Any:
        if kind == "pandas":  # as after a random split
            pd = pytest.importorskip("pandas")
            return (pd.DataFrame if values.ndim == 2 else pd.Series)(values).set_axis(range(399, -1, -1))
        return values.astype(values.dtype.newbyteorder(">")) if kind == "big-endian" else values[::-1].copy()[::-1]

    values = arrays()
    converted = {arm: [convert(v) for v in group] for arm, group in values.items() if arm != "labels"}
    assert kd.judge(**converted, labels=convert(values["labels"])).sentence == kd.judge(**values).sentence


def test_masked_values_are_refused() -> None:
    values = arrays()
    values["distilled"][1] = np.ma.masked_greater(values["distilled"][1], 3)
    with pytest.raises(ValueError, match=r"distilled\[1\] must be an array without masked values"):
        kd.judge(**values)


def test_ids_and_indices_are_not_taken_for_classes_and_scores() -> None:
    values = arrays("classes")
    with pytest.raises(ValueError, match=r"the largest class must be below 100,000. Got '4,000,000,000'"):
        kd.judge(**{**values, "labels": 10**9 * values["labels"]}, kind="classes")
    logits = arrays()
    with_index = {
        arm: [np.column_stack([np.arange(len(rows)), rows]) for rows in logits[arm]] for arm in ("control", "distilled")
    }
    with pytest.raises(
        ValueError, match=r"control\[0\] must be a score for each class. Got 'a first column that counts"
    ):
        kd.judge(**with_index, labels=logits["labels"])


def test_identical_arms_are_recognised() -> None:
    values = arrays()
    judged = kd.judge(values["control"], values["control"], values["labels"])
    assert "Every distilled student has the same predictions as its control." in judged.sentence
    values["distilled"][0] = values["control"][0]
    assert "In 1 of 4 pairs the distilled student has the same predictions" in kd.judge(**values).sentence


def test_a_rare_class_without_a_difference_shows_no_small_difference() -> None:
    """Fourteen rare items, on which no pair differs, may hide a difference of several percentage points."""
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [14, 600])
    hard = rng.random(600) < 0.02

    def predict() -> np.ndarray:
        return np.concatenate([np.ones(14, int), (rng.random(600) < 0.5 * hard).astype(int)])

    control, distilled = ([predict() for _ in range(10)] for _ in range(2))
    for decide in ("auto", "recall:1"):
        judged = kd.judge(control, distilled, labels, kind="classes", decide=decide, margin=2.0)
        assert judged.verdict == "inconclusive"


def test_a_page_of_predictions_does_not_claim_how_they_were_trained(tmp_path: Path) -> None:
    assert cli.main(["judge", *save(tmp_path, arrays()), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "results" / "report.html").read_text()
    assert "same initial weights" not in page
    assert "How they were trained is not\nknown here" in page


def test_classes_that_are_texts_are_refused_with_the_remedy() -> None:
    classes, names = arrays("classes"), np.array(list("abcde"))
    with pytest.raises(ValueError, match=r"labels must be an array of numbers.*Number the classes from 0\."):
        kd.judge(classes["control"], classes["distilled"], names[classes["labels"]], kind="classes")


def test_rows_in_another_order_than_the_labels_are_suspected() -> None:
    values = arrays()
    order = np.random.default_rng(0).permutation(len(values["labels"]))
    shuffled = kd.judge(values["control"], [array[order] for array in values["distilled"]], values["labels"])
    assert "Check that the predictions have the same order of items" in shuffled.sentence
    assert "Check that" not in kd.judge(**values).sentence
    sharp = {arm: [500 * array for array in values[arm]] for arm in ("control", "distilled")}
    overconfident = kd.judge(**sharp, labels=values["labels"], decide="nll")
    assert overconfident.verdict == "not decided"  # no better than the frequencies of the classes
    assert "Check that" not in overconfident.sentence


def test_slices_of_models_that_learned_nothing_are_no_evidence() -> None:
    """Controls that always predict one class and students that always predict the other differ on both classes."""
    labels = np.arange(200) % 2
    judged = kd.judge([np.zeros(200, int)] * 8, [np.ones(200, int)] * 8, labels, kind="classes")
    assert judged.verdict == "not decided"
    first, second = describe_slices(judged.slices, withheld=judged.verdicts.is_withheld)
    assert first == WITHHELD
    assert second.startswith("By class: fewer errors on 1 (-100.00); more errors on 0 (+100.00)")
    assert describe_slices(judged.slices) == [second]
    assert show_slices(judged.slices, withheld=True)[0] == Paragraph(WITHHELD)


def test_names_of_classes_are_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = save(tmp_path, arrays())
    (tmp_path / "names.csv").write_text("label\n" + "cat\n" * 400)
    assert cli.main(["judge", *flags, "--labels", str(tmp_path / "names.csv"), "--out", str(tmp_path / "out")]) == 1
    text = " ".join(capsys.readouterr().err.split())
    assert "should hold numbers. Got 'cat'. Only an id column may hold text" in text
    assert "Classes are numbers from 0." in text


def test_no_impossible_difference_is_reported() -> None:
    """Once "-557.34 to +317.91 percentage points" and "pairs detect a true difference of 541.55"."""
    labels = np.repeat([0, 1], [300, 1])
    found, missed = labels.copy(), np.zeros(301, int)
    control, distilled = [missed.copy() for _ in range(6)], [found.copy() for _ in range(6)]
    for seed, arm in enumerate((*control, *distilled)):
        arm[[seed, seed + 20]] = 1
    judged = kd.judge(control, distilled, labels, kind="classes", decide="recall:1")
    assert judged.judgement.interval == (-100.0, 100.0)
    assert (
        "Even the largest possible difference is not detected by 6 pairs with 80 % power; to detect 0.10"
        in judged.sentence
    )
    single = kd.judge([[0], [1]], [[1], [0]], [0], kind="classes")
    assert "(95 % CI -1.0 to +1.0)" in single.sentence
