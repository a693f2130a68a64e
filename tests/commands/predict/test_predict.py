"""``kd predict``: equal to the run's own predictions, whatever the inputs come as; bad inputs are named."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

import kd
from kd import cli
from kd.storage.files import sha256

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
CLASSES = ["=red", "green", "blue"]
HEIGHT, WIDTH = 6, 5


def images(count: int, seed: int) -> tuple[Pixels, np.ndarray[Any, Any]]:
    """Return images [N, 3, H, W] that are mostly red, green or blue, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 100, (count, 3, HEIGHT, WIDTH), dtype=np.uint8)
    pixels[np.arange(count), labels] += 120
    return pixels, labels


TEST, LABELS = images(60, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small run on these images."""
    folder = tmp_path_factory.mktemp("predict")
    x, y = images(150, seed=0)
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=TEST, y_test=LABELS, classes=np.array(CLASSES))
    flags = ["--teacher", "mlp:8", "--student", "mlp:4", "--epochs", "3", "--batch-size", "32"]
    assert cli.main(["run", "--data", str(folder / "data.npz"), "--out", str(folder / "run"), *flags]) == 0
    return folder / "run"


def save_image(path: Path, pixels: Pixels, **options: Any) -> Path:
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with the test images in their order."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate(TEST):
        save_image(folder / f"{number:02}.png", pixels)
    return folder


def predict(run: Path, *arguments: object, code: int = 0) -> list[dict[str, str]]:
    """Run the command and return the rows of its CSV file."""
    file = run.parent / "answers.csv"
    file.unlink(missing_ok=True)
    assert cli.main(["predict", "--model", str(run), "--csv", str(file), *map(str, arguments)]) == code
    return read_csv(file)


def read_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def answers(rows: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    return [(row["label"], row["class"], row["probability"]) for row in rows]


def saved(run: Path, arm: str) -> list[tuple[str, str, str]]:
    """Return label, class and probability of the run's own test predictions."""
    rows = read_csv(run / "results" / "predictions" / "test_predictions.csv")
    return [(row[f"{arm}_prediction"], row[f"{arm}_prediction_name"], row[f"{arm}_confidence"]) for row in rows]


@pytest.mark.parametrize("arm", ["distilled", "control", "teacher"])
def test_the_test_images_get_the_predictions_of_the_run(run: Path, photos: Path, arm: str) -> None:
    rows = predict(run, photos, "--arm", arm)
    assert answers(rows) == saved(run, arm)
    assert [Path(row["input"]).name for row in rows] == [f"{number:02}.png" for number in range(60)]


def test_arrays_tables_and_standard_input_give_the_same_answers_as_images(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(predict(run, photos))
    np.savez(tmp_path / "rows.npz", x=TEST)
    np.savez(tmp_path / "last.npz", x=TEST.transpose(0, 2, 3, 1), ids=np.array([f"item {n}" for n in range(60)]))
    np.save(tmp_path / "rows.npy", TEST)
    np.savetxt(tmp_path / "rows.csv", TEST.reshape(60, -1), fmt="%d", delimiter=",")
    for name in ("rows.npz", "last.npz", "rows.npy", "rows.csv"):
        assert answers(predict(run, tmp_path / name)) == expected, name
    assert [row["input"] for row in predict(run, tmp_path / "last.npz", "--ids", "ids")][7].endswith("last.npz: item 7")
    for path, rows in (
        (tmp_path / "rows.npz", expected),
        (tmp_path / "rows.csv", expected),
        (photos / "04.png", expected[4:5]),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        assert answers(predict(run, "-")) == rows, path


def test_the_order_of_the_inputs_is_the_order_of_the_answers(run: Path, photos: Path) -> None:
    names = [str(photos / f"{number:02}.png") for number in (9, 3, 3, 41, 0)]
    rows = predict(run, *names)
    assert [row["input"] for row in rows] == names
    assert answers(rows) == [saved(run, "distilled")[number] for number in (9, 3, 3, 41, 0)]


def test_a_photo_that_exif_turns_is_turned_as_in_training(run: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be shown turned by 90 degrees clockwise
    turned = np.rot90(TEST[0], axes=(1, 2))
    rows = predict(run, save_image(tmp_path / "a.png", TEST[0]), save_image(tmp_path / "b.png", turned, exif=exif))
    assert answers(rows)[0] == answers(rows)[1]


def test_images_of_another_size_or_mode_are_converted_and_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = save_image(tmp_path / "large.png", TEST[0].repeat(4, axis=1).repeat(4, axis=2))
    Image.fromarray(TEST[0, 0]).save(tmp_path / "gray.png")
    rows = predict(run, large, tmp_path / "gray.png", save_image(tmp_path / "same.png", TEST[0]))
    assert rows[0]["class"] == rows[2]["class"] == "'=red"  # a spreadsheet does not take it for a formula
    out = capsys.readouterr().out
    assert "1 of 3 images were scaled and cropped to 6 × 5 pixels." in out
    assert "1 of 3 images were converted from gray to RGB." in out


def test_inputs_that_cannot_be_used_are_named_and_the_others_predicted(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = photos / "00.png"
    (tmp_path / "damaged.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("hello", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(tmp_path / "deep.png")
    np.savez(tmp_path / "floats.npz", x=TEST / 255)
    np.savez(tmp_path / "other.npz", y=TEST)
    np.savez(tmp_path / "shape.npz", x=TEST[:, :, :4])
    (tmp_path / "cells.csv").write_text("1,2,3\n4,5,6\n", encoding="utf-8")
    (tmp_path / "words.csv").write_text("1,2,3\n4,five,6\n", encoding="utf-8")
    reasons = {
        "damaged.png": "",
        "text.jpg": "its content is none of JPEG, PNG",
        "empty": "no image files",
        "deep.png": "8 bits per channel",
        "floats.npz": "its inputs should be uint8, as in training. Got float32 from 0 to",
        "other.npz": "it should hold an array x. Got y",
        "shape.npz": f"its inputs should be [3, 6, 5] of uint8. Got an array [{len(TEST)}, 3, 4, 5]",
        "cells.csv": "it should have 90 columns",
        "words.csv": "line 2 should hold numbers. Got 'five'",
        "nothing.png": "there is no such file",
    }
    rows = predict(run, good, *(tmp_path / name for name in reasons), good, code=1)
    assert answers(rows)[0] == answers(rows)[-1] == saved(run, "distilled")[0]
    failed = rows[1:-1]
    assert [Path(row["input"]).name for row in failed] == list(reasons)
    for row, reason in zip(failed, reasons.values(), strict=True):
        assert reason in row["error"], row
        assert row["error"]
        assert not row["class"]
    err = capsys.readouterr().err
    assert "error: 10 of 12 inputs cannot be predicted:" in err
    assert "damaged.png (" in err
    assert "and 7 more. The others are predicted." in err


def test_a_row_that_is_not_finite_does_not_spoil_the_others(tmp_path: Path) -> None:
    """Table data: float32 rows, here without a header."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    x = (random.normal(size=(120, 3)) + labels[:, None]).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x[20:], y_train=labels[20:], x_test=x[:20], y_test=labels[:20])
    flags = ["--teacher", "mlp:4", "--student", "mlp:4", "--epochs", "1"]
    assert cli.main(["run", "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run"), *flags]) == 0
    table = [["a", "b", "c"], *x[:20].tolist()]
    table[3] = [1.0, float("nan"), 2.0]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    rows = predict(tmp_path / "run", tmp_path / "rows.csv", code=1)
    saved_rows = read_csv(tmp_path / "run" / "results" / "predictions" / "test_predictions.csv")
    expected = [(row["distilled_prediction"], row["distilled_confidence"]) for row in saved_rows]
    found = [(row["label"], row["probability"]) for row in rows]
    assert found[:2] + found[3:] == expected[:2] + expected[3:]
    assert rows[2]["error"] == "it has NaN, infinity or a number beyond float32"
    assert rows[2]["input"].endswith("rows.csv: row 3")


def test_json_and_csv_say_the_same(run: Path, photos: Path, tmp_path: Path) -> None:
    rows = predict(run, photos, "--json", tmp_path / "answers.json", "--top", 2)
    content = json.loads((tmp_path / "answers.json").read_bytes())
    assert [entry["input"] for entry in content["predictions"]] == [row["input"] for row in rows]
    for entry, row in zip(content["predictions"], rows, strict=True):
        assert [f"{one['probability']:.6f}" for one in entry["classes"]] == [row["probability"], row["probability_2"]]
        assert [str(entry["classes"][0]["label"]), str(int(entry["unlike"]))] == [row["label"], row["unlike"]]
        assert entry["classes"][0]["class"] == row["class"].removeprefix("'") == CLASSES[int(row["label"])]
    weights = (run / "models" / "student_distilled.pth").read_bytes()
    assert content["model"]["sha256"] == sha256(weights)
    assert content["unlike"]["n"] == 60


def test_the_manifest_states_threshold_and_false_alarms(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predicting the test images counts exactly the false alarms that the run has measured."""
    manifest = json.loads((run / "models" / "manifest.json").read_bytes())
    for arm, file in (("distilled", "student_distilled"), ("control", "student_regular"), ("teacher", "teacher_model")):
        unlike = manifest["models"][f"{file}.pth"]["unlike"]
        rows = predict(run, photos, "--arm", arm)
        assert sum(int(row["unlike"]) for row in rows) == unlike["false_alarms"]
        alarms = f"{unlike['false_alarms']} of 60 inputs may be unlike the training data: their maximum"
        assert alarms in capsys.readouterr().out


def test_a_dash_prints_csv_or_json_alone(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = predict(run, photos)
    capsys.readouterr()
    assert cli.main(["predict", "--model", str(run), str(photos), "--csv", "-"]) == 0
    out, err = capsys.readouterr()
    assert list(csv.DictReader(io.StringIO(out))) == expected
    assert "60 inputs may be unlike" in err
    assert cli.main(["predict", "--model", str(run), str(photos), "--json", "-", "--csv", str(run.parent / "x")]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [entry["input"] for entry in content["predictions"]] == [row["input"] for row in expected]


def test_any_of_the_paths_of_a_run_names_its_model(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = saved(run, "control")
    assert answers(predict(run, photos, "--model", run / "models" / "student_regular.pth")) == expected
    for path in (run / "models", run / "models" / "manifest.json"):
        assert answers(predict(run, photos, "--model", path, "--arm", "control")) == expected
    monkeypatch.chdir(run)  # as the working folder of main.py
    assert answers(predict(run, photos, "--model", ".", "--arm", "control")) == expected


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda folder: folder / "rum", "there is no model"),
        (lambda folder: write(folder / "net.pth", b""), "has no manifest.json beside it"),
        (lambda folder: write(folder / "net.pt2", b""), "A .pt2 file may contain code and is never loaded"),
        (lambda folder: write(folder / "run.toml", b"").parent, "has not saved its models: it was interrupted"),
        (lambda folder: write(folder / "compare.toml", b"").parent, "holds a kd compare, which saves no models"),
        (lambda folder: folder, "there is no"),
        (lambda folder: write(folder / "photo.png", b""), "must be a model file"),
    ],
)
def test_a_model_that_is_not_there_is_explained(
    make: Any, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "--model", str(make(tmp_path)), "x.png"]) == 1
    assert error in " ".join(capsys.readouterr().err.split())


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_weights_that_are_not_those_of_the_manifest_are_refused(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("student_distilled.pth", "student_regular.pth", "manifest.json"):
        (tmp_path / name).write_bytes((run / "models" / name).read_bytes())
    (tmp_path / "student_distilled.pth").write_bytes((run / "models" / "student_regular.pth").read_bytes())
    assert cli.main(["predict", "--model", str(tmp_path), str(photos)]) == 1
    assert "student_distilled.pth is damaged: expected SHA-256" in capsys.readouterr().err


def test_an_arm_is_for_run_folders_and_a_run_folder_is_no_input(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "models" / "student_regular.pth"
    assert cli.main(["predict", "--model", str(file), "--arm", "teacher", str(photos)]) == 1
    assert "--arm must be omitted. Got 'teacher' instead" in capsys.readouterr().err
    (row,) = predict(run, run, code=1)
    assert row["error"] == "it is the folder of a model, not of inputs. Pass it as --model"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "INPUTS must be one or more files or folders"),
        (["-", "-"], "- must be given once"),
        (["x.png", "--top", "0"], "--top must be an integer of at least 1"),
        (["rows.csv", "--csv", "rows.csv"], "--csv must be another file than the inputs"),
        (["a.png", "--csv", "x", "--json", "x"], "--csv and --json must be two different files"),
    ],
)
def test_mistakes_are_reported_before_anything_is_loaded(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", *arguments])
    assert end.value.code == 2
    assert error in capsys.readouterr().err


@pytest.mark.slow
def test_noise_and_inverted_digits_are_said_to_be_unlike_digits_more_often_than_test_images(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli.main(["run", "--limit", "2000", "--epochs", "2", "--out", str(out)]) == 0
    noise = np.random.default_rng(0).integers(0, 256, (300, 1, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x=noise)
    digits = kd.load_mnist(train=False).inputs[:300].numpy()
    np.savez(tmp_path / "test.npz", x=digits)
    np.savez(tmp_path / "inverted.npz", x=255 - digits)
    for arm in ("teacher", "control", "distilled"):
        shares = {}
        for name in ("noise", "inverted", "test"):
            rows = predict(out, tmp_path / f"{name}.npz", "--arm", arm)
            shares[name] = sum(int(row["unlike"]) for row in rows) / len(rows)
        assert min(shares["noise"], shares["inverted"]) > 0.9 > 0.1 > shares["test"], (arm, shares)


@pytest.mark.slow
def test_an_exported_folder_predicts_like_its_run(run: Path, photos: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "safetensors"):
        pytest.importorskip(name, reason="needs the export extra")
    folder = run.parent / "exported"
    flags = ["--formats", "onnx", "safetensors", "--to", str(folder)]
    assert cli.main(["export", "--out", str(run), *flags]) == 0
    expected = predict(run, photos)
    for path in (folder, folder / "model.onnx", folder / "model.safetensors"):
        rows = predict(path, photos) if path == folder else predict(folder, photos, "--model", path)
        assert [(row["class"], row["unlike"]) for row in rows] == [(row["class"], row["unlike"]) for row in expected]
        for row, other in zip(rows, expected, strict=True):
            assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
