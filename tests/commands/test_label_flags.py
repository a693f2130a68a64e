"""``--class-weights``, ``--label-smoothing``, ``--mixup`` and ``--cutmix``: for every model, in every command."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd import cli
from kd.commands.class_weights import class_weights, read_class_weights
from kd.commands.compare.settings import STRENGTHS, CompareSettings
from kd.commands.data import load_data
from kd.commands.dry_run import plan
from kd.commands.ledger import Digests, ask
from kd.commands.publish import model_settings
from kd.commands.settings import RunSettings
from kd.commands.steps import record_settings
from kd.methods import METHODS
from tests.test_cli import ROOT

CLASSES = ("cat", "dog", "cow")
QUICK = ("--limit", "200", "--epochs", "1", "--teacher", "mlp:16", "--student", "mlp:8")
MODELS = ("teacher_model.pth", "student_regular.pth", "student_distilled.pth")


def write(folder: Path, text: str) -> Path:
    path = folder / "weights.csv"
    path.write_text(text, encoding="utf-8")
    return path


def hashes(out: Path) -> list[str]:
    models = json.loads((out / "models/manifest.json").read_bytes())["models"]
    return [models[name]["sha256"] for name in MODELS]


# --- the file of weights


def test_weights_are_read_by_name_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffclass,weight\ndog, 2\n\ncow,0.5\ncat,1e3\n")
    assert read_class_weights(path, CLASSES).tolist() == [1000.0, 2.0, 0.5]


def test_a_class_whose_name_has_spaces_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, "class,weight\n a , 2\n,3\nb,1\n")
    assert read_class_weights(path, (" a ", "b", "")).tolist() == [2.0, 1.0, 3.0]


def test_an_error_lists_only_the_first_of_many_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Got '1, 2, .*19, 20 …' instead"):
        read_class_weights(write(tmp_path, "class,weight\n0,1\n"), [str(number) for number in range(1000)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"line 1 of .*weights.csv must be the header class,weight. Got \[\]"),
        ("cat,1\ndog,1\ncow,1\n", r"line 1 of .* must be the header class,weight"),
        ("class,weight\ncat,1\ndgo,1\ncow,1\n", r"line 3 of .* a weight for 'dgo', .* Did you mean dog\?"),
        ("class,weight\ncat,1\nzzz,1\n", r"line 3 of .* no class of the data. Classes: cat, dog, cow\."),
        ("class,weight\ncat,1\ndog,0\n", r"the weight of dog in line 3 of .* must be a finite number above 0. Got '0'"),
        ("class,weight\ncat,-1\n", r"the weight of cat in line 2"),
        ("class,weight\ncat,nan\n", r"the weight of cat in line 2"),
        ("class,weight\ncat,1e39\n", r"the weight of cat in line 2"),
        ("class,weight\ncat,1e-60\n", r"the weight of cat in line 2"),
        ("class,weight\ncat,two\n", r"the weight of cat in line 2 .* Got 'two'"),
        ("class,weight\ncat\n", r"line 2 of .* must be a class and its weight. Got '1 cells'"),
        ("class,weight\ncat,1\ncat,1\n", r"line 3 of .* must be a class without a weight yet. Got 'cat'"),
        ("class,weight\ncat,1\n", r"classes without a weight in .* must be none. Got 'dog, cow'"),
        ('class,weight\ncat,1\n"dog,1\n', r"line 3 of .* is no valid CSV"),
    ],
)
def test_an_error_in_the_file_names_class_and_line(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        class_weights(str(write(tmp_path, text)), torch.arange(3), CLASSES)


def test_a_file_that_is_no_text_or_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.csv").write_bytes(b"class,weight\ncat,\xff\n")
    with pytest.raises(ValueError, match=r"weights.csv must be CSV in UTF-8. Byte 17"):
        read_class_weights(tmp_path / "weights.csv", CLASSES)
    with pytest.raises(OSError, match=r"--class-weights .*none.csv: No such file"):
        class_weights(str(tmp_path / "none.csv"), torch.arange(3), CLASSES)


def test_an_edited_file_is_another_question(tmp_path: Path) -> None:
    path = write(tmp_path, "class,weight\ncat,1\ndog,1\ncow,1\n")
    settings, recorded = RunSettings(class_weights=str(path)), []
    for content in (path.read_text(), path.read_text(), "class,weight\ncat,1\ndog,1\ncow,2\n"):
        write(tmp_path, content)
        class_weights(settings.class_weights, torch.arange(3), CLASSES)
        path.unlink()  # what counts is what was read
        recorded.append(record_settings(settings, torch.device("cpu")))
    asked = [ask(None, Digests("", {}), command="compare", title="", config=config).key for config in recorded]
    assert asked[0] == asked[1] != asked[2]
    assert model_settings(recorded[0]) != model_settings(recorded[2])
    assert "CLASS_WEIGHTS_SHA256" not in record_settings(RunSettings(class_weights="balanced"), torch.device("cpu"))


def test_balanced_counts_the_training_split_alone(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [60, 20])
    data = {"x_train": generator.normal(size=(80, 3)).astype("float32"), "y_train": labels}
    data |= {"x_test": generator.normal(size=(40, 3)).astype("float32"), "y_test": np.arange(40) % 2}
    np.savez(tmp_path / "own.npz", **data)  # type: ignore[arg-type]  # numpy declares a keyword of its own
    loaded = load_data(RunSettings(data=str(tmp_path / "own.npz"), class_weights="balanced", test_size=0.25))
    assert loaded.class_weights is not None
    counts = torch.bincount(torch.tensor([label for _, label in loaded.train_set]))  # type: ignore[attr-defined]
    torch.testing.assert_close(loaded.class_weights, counts.sum() / (2 * counts))
    assert int(counts.sum()) == 60


# --- wiring


def test_the_page_lists_the_methods_that_mixed_samples_refuse() -> None:
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"refused for methods whose own loss .*?: (.*?)\.$", page, re.MULTILINE | re.DOTALL)
    refused = {name for name, method in METHODS.items() if "ids" in method.needs or not method.unlabelled}
    assert set(re.findall(r"`([\w-]+)`", listed)) == refused


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [("--label-smoothing", "0.2"), ("--class-weights", "{weights}"), ("--mixup", "0.5"), ("--cutmix", "1")],
)
def test_each_flag_changes_every_model_of_a_run(flags: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "class,weight\n" + "".join(f"{digit},{1 + digit}\n" for digit in range(10)))
    flags = tuple(flag.format(weights=tmp_path / "weights.csv") for flag in flags)
    for out, more in {"plain": (), "changed": flags}.items():
        assert cli.main(["run", *QUICK, *more, f"--out={tmp_path / out}"]) == 0
    pairs = zip(hashes(tmp_path / "plain"), hashes(tmp_path / "changed"), strict=True)
    assert all(plain != changed for plain, changed in pairs)
    before = hashes(tmp_path / "changed")
    assert cli.main(["run", f"--config={tmp_path / 'changed/run.toml'}"]) == 0
    assert hashes(tmp_path / "changed") == before
    config = json.loads((tmp_path / "changed/results/metrics/metrics.json").read_bytes())["config"]
    assert flags[0].removeprefix("--").replace("-", "_").upper() in config


def test_an_edited_file_of_weights_trains_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*QUICK, "--class-weights", str(tmp_path / "weights.csv"), f"--out={tmp_path}")
    found = []
    for last in (1, 5):
        write(tmp_path, "class,weight\n" + "".join(f"{digit},{last if digit == 9 else 1}\n" for digit in range(10)))
        assert cli.main(["run", *flags]) == 0
        found.append(hashes(tmp_path))
    assert all(first != second for first, second in zip(*found, strict=True))


@pytest.mark.usefixtures("no_pool")
@pytest.mark.slow
def test_a_comparison_trains_the_models_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--pairs", "2", "--smoothing", "0.3", "--no-longer", "--processes", "1")
    both = (*QUICK, "--mixup", "0.4", "--class-weights", "balanced", "--label-smoothing", "0.1", f"--out={tmp_path}")
    assert cli.main(["run", *both]) == 0
    assert cli.main(["compare", *both, *few]) == 0
    assert "did not see the same batches" not in capsys.readouterr().out
    students = (tmp_path / "results/metrics/comparison_students.csv").read_text()
    assert "smoothed" in students
    if torch.get_num_threads() == 1:
        assert all(digest in students for digest in hashes(tmp_path)[1:])


@pytest.mark.usefixtures("no_pool")
@pytest.mark.slow
def test_a_sweep_trains_with_weights_and_smoothing(tmp_path: Path) -> None:
    flags = (*QUICK, "--class-weights", "balanced", "--label-smoothing", "0.1", f"--out={tmp_path}")
    grid = ("--temperatures", "5", "--alphas", "0.5", "--seeds", "1", "--final-pairs", "2", "--processes", "1")
    assert cli.main(["run", *flags]) == 0
    assert cli.main(["sweep", *flags, *grid]) == 0
    for name in ("control", "distilled"):  # one thread or not: the step has the inputs of the run's student
        (run,) = tmp_path.glob(f".kd/steps/{name}-????????????????/description.json")
        (sweep,) = tmp_path.glob(f".kd/steps/{name}-seed-0-????????????????/description.json")
        objectives = [json.loads(file.read_bytes())["inputs"]["objective"] for file in (run, sweep)]
        assert objectives[0] == objectives[1]


def test_a_dry_run_takes_every_flag() -> None:
    settings = RunSettings(limit=200, epochs=1, teacher=("mlp:16",), student="mlp:8", mixup=0.2, cutmix=1.0)
    settings = dataclasses.replace(settings, class_weights="balanced", label_smoothing=0.1)
    estimate = plan(settings, load_data(settings), torch.device("cpu"))
    assert estimate.logits == 0  # the teacher runs on each mixture
    assert estimate.timings.distilled > 0


# --- refusals


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(flags)
    assert end.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("mixing", [("--mixup", "0.2"), ("--cutmix", "1")])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--unlabelled", "more"), "--mixup and --cutmix must be omitted with --unlabelled"),
        (("--augment", "flip", "--views", "3"), "--mixup and --cutmix must be omitted with --views"),
        (("--teacher", "logits=a.npy"), "must be omitted with a teacher of precomputed outputs"),
        (("--method", "crd"), "crd cannot train on mixed samples, because it stores a value for each sample"),
        (("--method", "dkd"), "dkd cannot train on mixed samples, because its own loss reads labels"),
    ],
)
def test_mixing_is_refused_by_name(
    mixing: tuple[str, ...], flags: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(capsys, "run", *mixing, *flags)
    assert expected in error
    assert mixing[0] in error


def test_the_refusal_lists_the_methods_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    error = refusal(capsys, "run", "--mixup", "1", "--method", "teacher-free")
    listed = error.partition("Methods for mixed samples: ")[2].split(".")[0].split(", ")
    assert listed == [name for name, method in METHODS.items() if method.unlabelled]
    for name in listed:
        RunSettings(method=name, mixup=1.0).check()
    for name in set(METHODS) - set(listed):
        with pytest.raises(ValueError, match=f"{name} cannot train on mixed samples"):
            RunSettings(method=name, mixup=1.0).check()


def test_a_sweep_refuses_mixing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "omitted. Got '--mixup 0.2' instead (kd sweep needs" in refusal(capsys, "sweep", "--mixup", "0.2")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--cutmix", "1"), "--cutmix must be used with images [C, H, W]. Got 'inputs of shape [13]'"),
        (("--class-weights", "none.csv"), "--class-weights none.csv: No such file or directory: none.csv"),
    ],
)
def test_flags_that_do_not_fit_the_data_are_refused(
    flags: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--data", "sklearn:wine", *flags, f"--out={tmp_path}"]) == 1
    assert expected in capsys.readouterr().err


def test_tokens_are_not_mixed(tmp_path: Path) -> None:
    tokens, labels = np.arange(400).reshape(100, 4), np.arange(100) % 2
    np.savez(tmp_path / "own.npz", x_train=tokens[:70], y_train=labels[:70], x_test=tokens[70:], y_test=labels[70:])
    with pytest.raises(
        ValueError, match=r"--mixup 0.5 must be used with images or tables .*Got 'inputs of torch.int64'"
    ):
        load_data(RunSettings(data=str(tmp_path / "own.npz"), mixup=0.5))


def test_tables_are_mixed(tmp_path: Path) -> None:
    flags = ("--data", "sklearn:wine", "--mixup", "0.4", "--epochs", "2", "--teacher", "mlp:8", "--student", "mlp:4")
    assert cli.main(["run", *flags, f"--out={tmp_path}"]) == 0


def test_the_smoothed_control_must_differ_from_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    error = refusal(capsys, "compare", "--label-smoothing", "0.1", "--smoothing", "0.1")
    assert "--smoothing must be unlike --label-smoothing 0.1. Got 0.1 instead" in error
    CompareSettings(label_smoothing=0.1, smoothing=0.2).check()
    CompareSettings(label_smoothing=0.0, smoothing=0.0).check()
    chosen = CompareSettings(label_smoothing=0.1)
    assert chosen.strengths == tuple(strength for strength in STRENGTHS if strength != 0.1)
    assert chosen.trainings["pilot"] == len(STRENGTHS) - 1
    assert CompareSettings().strengths == STRENGTHS


def test_a_student_of_label_smoothing_must_differ_from_its_control(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("run", "--method", "label-smoothing", "--label-smoothing", "0.1")
    assert "--label-smoothing must be unlike smoothing=0.1 of --method label-smoothing" in refusal(capsys, *flags)
    given: Any = {"method": "label-smoothing", "label_smoothing": 0.1}
    RunSettings(**given, set=("smoothing=0.2",)).check()
