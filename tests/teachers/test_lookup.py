"""Lookup teachers return the stored logits of each input in any order."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Subset, TensorDataset

import kd
from kd import cli
from kd.commands.data import load_data
from kd.commands.dry_run import plan
from kd.commands.models import new_teachers
from kd.commands.settings import RunSettings
from kd.data.sources import open_source
from kd.data.sources.scan import raw_batches, scan
from kd.teachers.lookup import LogitLookup, build_lookup, hash_inputs

STUDENT = ("--student", "mlp:8", "--epochs", "1")


def make_data(rows: int = 12) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(rows, 2, 3, generator=generator), torch.arange(rows) % 3)


@given(order=st.permutations(range(12)), queried=st.permutations(range(12)), cut=st.integers(1, 11))
def test_each_input_gets_its_logits_in_any_order(order: list[int], queried: list[int], cut: int) -> None:
    data, logits = make_data(), torch.arange(36.0).reshape(12, 3)
    parts = [(Subset(data, rows), rows) for rows in (order[:cut], order[cut:])]
    teacher = build_lookup(parts, logits)
    torch.testing.assert_close(teacher(data.tensors[0][queried]), logits[queried], rtol=0, atol=0)


def test_a_lookup_is_collected_verified_saved_and_loaded_like_any_teacher(tmp_path: Path) -> None:
    data, logits = make_data(), torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    teacher = build_lookup([(data, range(12))], logits)
    collected = kd.collect_logits(teacher, data)
    torch.testing.assert_close(collected.logits, logits, rtol=0, atol=0)
    kd.verify_logits(teacher, data, collected)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    empty = LogitLookup(torch.zeros_like(teacher.known), torch.zeros_like(teacher.logits))
    with pytest.raises(ValueError, match="no stored logits for 12 of 12 inputs"):
        empty(data.tensors[0])
    kd.load_weights(empty, tmp_path / "teacher.pth")
    torch.testing.assert_close(empty(data.tensors[0]), logits, rtol=0, atol=0)


def test_an_unknown_input_raises() -> None:
    data = make_data()
    teacher = build_lookup([(data, range(12))], torch.zeros(12, 3))
    inputs = data.tensors[0].clone()
    inputs[4, 0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"no stored logits for 1 of 12 inputs.*without augmentation"):
        teacher(inputs)


def test_the_first_of_two_conflicting_rows_is_used_with_a_warning() -> None:
    data = TensorDataset(torch.tensor([[1.0], [2.0], [1.0], [2.0]]), torch.tensor([0, 1, 0, 1]))
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
    with pytest.warns(UserWarning, match="1 of 4 inputs are identical to an earlier input"):
        teacher = build_lookup([(data, range(4))], logits)
    torch.testing.assert_close(teacher(data.tensors[0])[2], logits[0])


def test_the_hash_depends_on_the_content_of_each_input() -> None:
    rows = torch.rand(5, 4)
    hashes = hash_inputs(rows)
    assert hashes.shape == (5, 2)
    assert len(set(map(tuple, hashes.tolist()))) == 5
    assert torch.equal(hash_inputs(rows.flip(0)).flip(0), hashes)
    assert torch.equal(hash_inputs(rows.T.contiguous().T), hashes)


# --- from the command line


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    """Return a file of teacher probabilities for the wine data of scikit-learn, and the probabilities."""
    source = open_source("sklearn:wine")
    inputs = torch.cat([batch[0] for batch in raw_batches(source.train)]).double()
    labels = scan(source.train).labels
    scaled = (inputs - inputs.mean(0)) / inputs.std(0)
    centres = torch.stack([scaled[labels == label].mean(0) for label in range(3)])
    probabilities = (-torch.cdist(scaled, centres)).softmax(dim=1).numpy()
    file = tmp_path_factory.mktemp("answers") / "answers.csv"
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["class_2", "class_0", "class_1"])  # a different class order, given by the header
        writer.writerows(probabilities[:, [2, 0, 1]])
    return file, probabilities


@pytest.mark.usefixtures("no_pool")
def test_a_run_uses_the_file_for_every_split(
    predictions: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, probabilities = predictions
    flags = ("--data", "sklearn:wine", "--teacher", f"probabilities={file}", *STUDENT)
    assert cli.main(["run", *flags, f"--out={tmp_path}"]) == 0
    rows = load_data(RunSettings(data="sklearn:wine")).rows["test"]
    with (tmp_path / "results/predictions/test_predictions.csv").open() as handle:
        predicted = [int(row["teacher_prediction"]) for row in csv.DictReader(handle)]
    assert predicted == probabilities[np.asarray(rows)].argmax(axis=1).tolist()
    assert cli.main(["cache", "verify", f"--out={tmp_path}"]) == 0
    assert "rows match the saved teacher" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "models/manifest.json").read_text())["models"]
    assert manifest["teacher_model.pth"]["parameters"] == 0
    few = ("--pairs", "2", "--processes", "1")
    assert cli.main(["compare", *flags, *few, f"--out={tmp_path}"]) == 0
    students = (tmp_path / "results/metrics/comparison_students.csv").read_text()
    assert "smoothed" in students
    assert "longer" not in students  # cached logits cost nothing, so no longer training is needed to match them


def test_a_dry_run_accepts_a_file(predictions: tuple[Path, np.ndarray[Any, Any]]) -> None:
    settings = RunSettings(data="sklearn:wine", teacher=(f"probabilities={predictions[0]}",), student="mlp:8", epochs=2)
    dry_run = plan(settings, load_data(settings), torch.device("cpu"))
    assert (dry_run.models["teacher"].parameters, dry_run.trainings["teacher"]) == (0, 0)


def test_rows_of_given_splits_follow_those_of_the_training_split() -> None:
    data = load_data(RunSettings(limit=200))
    assert data.rows["test"] == range(6_000, 7_000)
    assert set(data.rows["train"]) | set(data.rows["val"]) <= set(range(6_000))
    labels = data.all_labels
    for part, dataset in {"train": data.train_set, "val": data.val_set, "test": data.test_set}.items():
        torch.testing.assert_close(labels[torch.as_tensor(data.rows[part])], scan(dataset).labels)


def test_a_file_and_a_model_form_an_ensemble(predictions: tuple[Path, np.ndarray[Any, Any]]) -> None:
    settings = RunSettings(data="sklearn:wine", teacher=(f"probabilities={predictions[0]}", "mlp:8"), student="mlp:8")
    assert [teacher.trained for teacher in new_teachers(settings, load_data(settings))] == [True, False]
    assert settings.trainings["teacher"] == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--method", "fitnet"), "fitnet needs the teacher's features"),
        (("--unlabelled", "more.npz"), "--unlabelled needs a teacher model"),
    ],
)
def test_unsupported_flags_with_cached_logits_raise_at_once(
    flags: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "--teacher", "logits=answers.npy", *flags])
    assert end.value.code == 2
    assert expected in capsys.readouterr().err
