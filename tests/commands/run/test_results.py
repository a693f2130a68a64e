"""The files of a run agree with each other, are valid JSON and CSV, and carry the stamp of a quick run."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics
import torch
from torch import nn

import kd
from kd.commands.run import summary as summary_module
from kd.commands.run.files import result_files, weight_files
from kd.commands.run.results import Run, Timings
from kd.commands.run.verdict import choose_tone, list_remarks, write_verdict
from kd.evaluation.latency import Latency

NAMES = ("teacher", "control", "distilled")
IMAGES, CLASSES, EPOCHS = 40, 4, 2  # class 3 has no image in the test set
FOLDER = Path("results")
CSV_FILES = ("test_metrics", "curves", "per_class_accuracy", "confusion_matrices")
QUICK = "LIMIT=300"


def history(*extra: str) -> kd.History:
    quantities = [f"{split}_{name}" for split in ("train", "val") for name in ("loss", "acc", "ce", *extra)]
    curves = kd.History({name: [0.5 + 0.01 * i, 0.25] for i, name in enumerate(quantities)})
    curves.seconds = 1.23456
    return curves


def a_run(toy: str | None = QUICK, *, images: int = IMAGES) -> Run:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % (CLASSES - 1)
    logits = {name: torch.randn(images, CLASSES, generator=generator) for name in NAMES}
    for rows in logits.values():
        rows[torch.arange(images), labels] += 1.5
    pixels = torch.randint(0, 256, (images, 1, 4, 4), generator=generator).to(torch.uint8)
    return Run(
        histories={"teacher": history(), "control": history("hard"), "distilled": history("hard", "soft")},
        logits=logits,
        labels=labels,
        test=kd.ImageDataset(pixels, labels, mean=0.5, std=0.25),
        config={"EPOCHS": EPOCHS, "LIMIT": None, "DEVICE": "cpu", "ALPHA": 0.5},
        temperature=5,
        toy=toy,
    )


def some_models() -> dict[str, nn.Module]:
    return {
        f"{name}_model": nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, CLASSES))
        for name, width in zip(NAMES, (8, 3, 2), strict=True)
    }


FAST = Latency(1e-4, 2e-4, 1000, 1, "cpu")


def some_timings() -> Timings:
    return Timings(dict.fromkeys(NAMES, 1.235), dict.fromkeys(NAMES, FAST), "a processor")


def manifest_of(run: Run) -> dict[str, Any]:
    """Return the entries of ``manifest.json``, by file name."""
    torch.manual_seed(0)
    content = weight_files(Path("models"), some_models(), run)[Path("models/manifest.json")]
    entries: dict[str, Any] = strict_json(content)["models"]
    return entries


def entries_of(run: Run) -> dict[str, Any]:
    """Return the entries of ``manifest.json``, by model."""
    return dict(zip(run.logits, manifest_of(run).values(), strict=True))


def files_of(run: Run, timings: Timings | None = None) -> dict[Path, bytes]:
    return result_files(FOLDER, run, entries_of(run), timings or some_timings())


@pytest.fixture(scope="module")
def run() -> Run:
    return a_run()


@pytest.fixture(scope="module")
def files(run: Run) -> dict[Path, bytes]:
    return files_of(run)


@pytest.fixture(scope="module")
def summary(files: dict[Path, bytes]) -> dict[str, Any]:
    return strict_json(files[FOLDER / "metrics" / "metrics.json"])


@pytest.fixture(scope="module")
def predictions(files: dict[Path, bytes]) -> list[dict[str, str]]:
    return table(files, "predictions/test_predictions")


def strict_json(content: bytes) -> dict[str, Any]:
    """Parse JSON by the standard: unlike Python, refuse NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    parsed: dict[str, Any] = json.loads(content, parse_constant=refuse)
    return parsed


def table(files: dict[Path, bytes], name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file, and check that each has exactly the header's columns."""
    rows = list(csv.DictReader(io.StringIO(files[FOLDER / f"{name}.csv"].decode(), newline="")))
    assert rows
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


def test_the_files_are_metrics_timings_and_five_tables(files: dict[Path, bytes]) -> None:
    tables = {FOLDER / "metrics" / f"{name}.csv" for name in CSV_FILES}
    predictions = FOLDER / "predictions" / "test_predictions.csv"
    objects = {FOLDER / "metrics" / f"{name}.json" for name in ("metrics", "timings")}
    assert set(files) == {predictions, *objects, *tables}


def test_the_same_run_gives_the_same_bytes(files: dict[Path, bytes]) -> None:
    assert files_of(a_run()) == files


def test_nan_is_refused() -> None:
    broken = a_run()
    broken.histories["teacher"]["val_loss"][1] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        files_of(broken)


@pytest.mark.parametrize("toy", [QUICK, None])
def test_every_file_has_the_stamp_of_a_quick_run(toy: str | None) -> None:
    run = a_run(toy)
    files = files_of(run)
    manifest = strict_json(weight_files(Path("models"), some_models(), run)[Path("models/manifest.json")])
    assert manifest["toy"] == strict_json(files[FOLDER / "metrics" / "metrics.json"])["toy"] == toy
    for name in (*(f"metrics/{name}" for name in CSV_FILES), "predictions/test_predictions"):
        assert {row["run"] for row in table(files, name)} == {toy or "full"}


# --- each table


def test_every_prediction_is_listed_with_its_confidence(run: Run, predictions: list[dict[str, str]]) -> None:
    columns = [f"{name}_{column}" for name in NAMES for column in ("prediction", "confidence")]
    assert list(predictions[0]) == ["run", "index", "label", *columns]
    assert [int(row["index"]) for row in predictions] == list(range(IMAGES))
    assert [int(row["label"]) for row in predictions] == run.labels.tolist()
    for name in NAMES:
        probabilities = run.logits[name].softmax(dim=1)
        assert [int(row[f"{name}_prediction"]) for row in predictions] == probabilities.argmax(dim=1).tolist()
        confidences = [float(row[f"{name}_confidence"]) for row in predictions]
        assert confidences == pytest.approx(probabilities.amax(dim=1).tolist(), abs=1e-6)


def test_curves_have_a_row_per_model_and_epoch_and_blanks_for_missing_terms(run: Run, files: dict[Path, bytes]) -> None:
    rows = table(files, "metrics/curves")
    assert [(row["model"], int(row["epoch"])) for row in rows] == [(n, e + 1) for n in NAMES for e in range(EPOCHS)]
    for row in rows:
        curves = run.histories[row["model"]]
        for quantity in run.histories["distilled"]:
            expected = str(curves[quantity][int(row["epoch"]) - 1]) if quantity in curves else ""
            assert row[quantity] == expected, (row["model"], quantity)


def test_confusion_counts_equal_scikit_learns(run: Run, files: dict[Path, bytes]) -> None:
    rows = table(files, "metrics/confusion_matrices")
    assert len(rows) == len(NAMES) * CLASSES**2
    for name in NAMES:
        counts = {(int(r["true"]), int(r["predicted"])): int(r["count"]) for r in rows if r["model"] == name}
        expected = sklearn.metrics.confusion_matrix(run.labels, run.logits[name].argmax(dim=1), labels=range(CLASSES))
        assert [[counts[t, p] for p in range(CLASSES)] for t in range(CLASSES)] == expected.tolist()
        assert sum(counts.values()) == IMAGES


def test_with_many_classes_only_confusions_that_occur_are_listed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary_module, "LISTED_CLASSES", CLASSES - 1)
    files = files_of(run)
    assert "confusion_matrices" not in strict_json(files[FOLDER / "metrics" / "metrics.json"])
    rows = table(files, "metrics/confusion_matrices")
    counts = {(r["model"], int(r["true"]), int(r["predicted"])): int(r["count"]) for r in rows}
    assert len(counts) == len(rows) < len(NAMES) * CLASSES**2
    for name, matrix in run.confusion_matrices.items():
        assert {key[1:]: n for key, n in counts.items() if key[0] == name} == {
            (true, predicted): int(matrix[true, predicted]) for true, predicted in matrix.nonzero().tolist()
        }


def test_a_class_without_test_images_has_no_accuracy(files: dict[Path, bytes], summary: dict[str, Any]) -> None:
    rows = [row for row in table(files, "metrics/per_class_accuracy") if row["class"] == "3"]
    assert [(row["images"], row["correct"], row["accuracy"]) for row in rows] == [("0", "0", "")] * len(NAMES)
    assert [shares[3] for shares in summary["per_class_accuracy"].values()] == [None] * len(NAMES)


def test_the_summary_contains_settings_curves_and_notes() -> None:
    run = a_run()
    for name in NAMES[1:]:
        run.histories[name].notes.append("They saw different batches.")
    files = files_of(run)
    summary = strict_json(files[FOLDER / "metrics" / "metrics.json"])
    timings = strict_json(files[FOLDER / "metrics" / "timings.json"])
    assert summary["config"] == run.config
    assert summary["curves"] == run.histories
    assert summary["notes"] == ["They saw different batches."]
    assert timings["training_seconds"] == dict.fromkeys(NAMES, 1.235)
    assert timings["latency_seconds"] == dict.fromkeys(NAMES, FAST._asdict())
    assert summary["environment"]["torch"] == version("torch")


# --- numbers that are in several files


def test_errors_agree_between_all_files(
    run: Run, files: dict[Path, bytes], summary: dict[str, Any], predictions: list[dict[str, str]]
) -> None:
    tests = {row["model"]: row for row in table(files, "metrics/test_metrics")}
    per_class = table(files, "metrics/per_class_accuracy")
    manifest = strict_json(weight_files(Path("models"), some_models(), run)[Path("models/manifest.json")])
    assert list(tests) == list(NAMES)
    for name in NAMES:
        errors = sum(row["label"] != row[f"{name}_prediction"] for row in predictions)
        correct = sum(int(row["correct"]) for row in per_class if row["model"] == name)
        diagonal = sum(summary["confusion_matrices"][name][k][k] for k in range(CLASSES))
        assert 0 < errors == int(tests[name]["errors"]) == IMAGES - correct == IMAGES - diagonal
        metrics = summary["test"][name]
        assert metrics == manifest["models"][f"{name}_model.pth"]["test"]
        assert metrics == {key: type(metrics[key])(tests[name][key]) for key in tests[name].keys() - {"run", "model"}}
        assert metrics["accuracy"] == pytest.approx(1 - errors / IMAGES)
        assert metrics["accuracy_low_95"] < metrics["accuracy"] < metrics["accuracy_high_95"]


def test_per_class_accuracies_agree_with_predictions(
    summary: dict[str, Any], predictions: list[dict[str, str]]
) -> None:
    images = Counter(row["label"] for row in predictions)
    for name in NAMES:
        hits = Counter(row["label"] for row in predictions if row["label"] == row[f"{name}_prediction"])
        expected = [hits[k] / images[k] if images[k] else None for k in map(str, range(CLASSES))]
        assert summary["per_class_accuracy"][name] == pytest.approx(expected)


def test_the_comparison_of_the_students_agrees_with_predictions(
    summary: dict[str, Any], predictions: list[dict[str, str]]
) -> None:
    pairs = Counter(
        (row["control_prediction"] != row["label"], row["distilled_prediction"] != row["label"]) for row in predictions
    )
    comparison = summary["control_against_distilled"]
    assert comparison["only_first_wrong"] == pairs[True, False]
    assert comparison["only_second_wrong"] == pairs[False, True]
    assert 0 < comparison["p_value"] <= 1


# --- weights


def test_the_manifest_describes_the_weights_files(run: Run, tmp_path: Path) -> None:
    models = some_models()
    written = weight_files(tmp_path, models, run)
    assert {path.name for path in written} == {"manifest.json", *(f"{name}.pth" for name in models)}
    kd.publish(written)
    for (name, model), width in zip(models.items(), (8, 3, 2), strict=True):
        entry = strict_json(written[tmp_path / "manifest.json"])["models"][f"{name}.pth"]
        content = (tmp_path / f"{name}.pth").read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (kd.storage.files.sha256(content), len(content))
        assert entry["class"] == "Sequential"
        assert entry["parameters"] == 16 * width + width + width * CLASSES + CLASSES
        assert entry["multiply_adds"] == 16 * width + width * CLASSES
        state = torch.load(tmp_path / f"{name}.pth", weights_only=True)
        assert entry["shapes"] == {key: list(tensor.shape) for key, tensor in state.items()}
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in state.items())


def test_the_numbers_of_models_and_results_must_be_equal(run: Run) -> None:
    with pytest.raises(ValueError, match="zip"):
        weight_files(Path("models"), {"teacher_model": nn.Flatten()}, run)


def test_the_mask_of_wrong_predictions_marks_the_errors() -> None:
    run = a_run()
    perfect = replace(run, logits={**run.logits, "teacher": nn.functional.one_hot(run.labels, CLASSES).float()})
    assert not perfect.wrong["teacher"].any()
    assert perfect.wrong["control"].tolist() == (run.logits["control"].argmax(dim=1) != run.labels).tolist()


def an_unequal_run(teacher: list[int], control: list[int], distilled: list[int]) -> Run:
    """Return a run on 90 items of class 0 and 10 of class 1; each model gets so many of each class wrong."""
    labels = torch.tensor([0] * 90 + [1] * 10)

    def logits(wrong: list[int]) -> torch.Tensor:
        predicted = labels.clone()
        predicted[: wrong[0]], predicted[90 : 90 + wrong[1]] = 1, 0
        return nn.functional.one_hot(predicted, 2).float()

    wrong = dict(zip(NAMES, (teacher, control, distilled), strict=True))
    test = kd.ImageDataset(torch.zeros(100, 1, 4, 4, dtype=torch.uint8), labels, mean=0.5, std=0.25)
    return replace(
        a_run(), logits={name: logits(of_model) for name, of_model in wrong.items()}, labels=labels, test=test
    )


def test_fewer_errors_from_a_neglected_class_are_not_called_better() -> None:
    """``kd compare`` judges such data by the balanced error; ``kd run`` once said "is better"."""
    neglecting = an_unequal_run([0, 0], [30, 0], [5, 6])
    assert choose_tone(neglecting) == "open"
    text = write_verdict(neglecting)
    assert "The distilled student makes fewer errors, but not with equal weight of all classes: " in text
    assert "Its balanced error is 32.78 %, the control's 16.67 %. This applies to these two networks only" in text
    better = an_unequal_run([0, 0], [30, 2], [5, 2])
    assert choose_tone(better) == "better"
    assert "student is better: " in write_verdict(better)
    assert "Its balanced error is 12.78 %, the control's 26.67 %." in write_verdict(better)
    assert choose_tone(an_unequal_run([0, 0], [5, 6], [30, 0])) == "open"


def test_a_student_that_learned_nothing_is_no_success() -> None:
    """Once "Better, in this one pair" above "No better than always predicting 0 …: control, distilled student"."""
    useless = an_unequal_run([0, 0], [90, 5], [70, 3])
    assert "control, distilled student. The distilled student is better: " in write_verdict(useless)
    assert choose_tone(useless) == "open"
    assert choose_tone(an_unequal_run([0, 0], [90, 5], [20, 3])) == "better"


def test_a_teacher_is_weak_in_the_quantity_of_the_comparison() -> None:
    assert (
        "no better than the control: balanced error 50.00 %"
        in list_remarks(an_unequal_run([0, 10], [90, 0], [0, 0]))[0]
    )
    assert list_remarks(an_unequal_run([20, 0], [0, 8], [0, 0])) == []  # more errors, but a lower balanced error
    assert "balanced error" not in write_verdict(a_run())
