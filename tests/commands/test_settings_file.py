"""Settings files: a written file is read as the same settings, and flags override it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from kd.commands.compare.settings import CompareSettings
from kd.commands.run.settings import DistillSettings
from kd.commands.settings import RunSettings
from kd.commands.settings_file import UNSAVED, read, saved_settings, to_toml, with_file
from kd.commands.sweep.settings import SweepSettings

KINDS: dict[str, Any] = {
    "run": RunSettings,
    "compare": CompareSettings,
    "sweep": SweepSettings,
    "distill": DistillSettings,
}


def parsed(command: str, *flags: str) -> Any:
    return with_file(tyro.cli(KINDS[command], args=flags), flags)


# A string that starts with a dash cannot come from a command line.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda t: t[0] != "-")
names = texts.filter(lambda text: not set("/:=") & set(text))  # also of files in the working folder
floats = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
settings = st.builds(
    SweepSettings,
    data=names,
    data_dir=st.none() | names.map(Path),
    student=names | names.map("{}.py:Net".format) | st.tuples(names, names).map("=".join),
    freeze=st.lists(texts).map(tuple),
    epochs=st.integers(1),
    learning_rate=floats,
    temperature=floats,
    nesterov=st.booleans(),
    optimizer=st.sampled_from(["adam", "sgd"]),
    teacher_epochs=st.none() | st.integers(1),
    set=st.lists(texts).map(tuple),
    columns=st.none() | st.tuples(texts, texts),
    target=st.none() | texts,
    class_names=st.lists(texts).map(tuple),
    teacher=st.lists(names | st.tuples(names, names).map("=".join)).map(tuple),
    limit=st.none() | st.integers(100),
    temperatures=st.lists(floats, min_size=1).map(tuple),
    vary=st.lists(texts).map(tuple),
)


@given(settings=settings)
@hypothesis.settings(max_examples=10)  # an example parses a command line twice, which is slow
def test_a_written_file_is_read_as_the_same_settings(settings: SweepSettings, tmp_path_factory: Any) -> None:
    settings = dataclasses.replace(settings, out=Path("runs/out"))
    with contextlib.chdir(tmp_path_factory.mktemp("work")):
        settings.file.parent.mkdir(parents=True)
        settings.file.write_bytes(to_toml(settings, command="sweep"))
        again = parsed("sweep", f"--config={settings.file}")
    assert dataclasses.replace(again, config=None) == settings


@pytest.mark.parametrize("command", KINDS)
def test_a_file_has_every_setting_of_its_command_except_the_unsaved(command: str) -> None:
    optional = {"limit": 300, "columns": ("a", "b"), "image_size": 8, "data_dir": Path("x"), "unlabelled": Path("y")}
    optional |= {"target": "c", "class_weights": "balanced", "mixup": 0.2, "cutmix": 1.0, "label_map": Path("z")}
    settings = KINDS[command](**optional, views=2)
    names = set(tomllib.loads(to_toml(settings, command=command).decode()))
    maybe_none = {"processes", "trials", "workers", "smoothing", "splits", "slices", "ids", "track"}
    maybe_none |= {field.name for field in dataclasses.fields(settings) if field.name.startswith("teacher_")}
    assert names | maybe_none == {field.name for field in dataclasses.fields(settings)} - UNSAVED | maybe_none


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('epochs = 3\nnesterov = true\nteacher = ["a", "b"]\nclass_names = ["x", "y"]\nout = "there"\n')
    return path


def test_flags_override_the_file(file: Path) -> None:
    flags = ("--epochs", "7", "--no-nesterov", "--teacher=c", "--class-names", "z")
    settings = parsed("run", "--config", str(file), *flags)
    assert (settings.epochs, settings.nesterov, settings.teacher, settings.class_names) == (7, False, ("c",), ("z",))
    assert settings.out == file.parent / "there"
    underscored = parsed("run", f"--config={file}", "--class_names", "z")
    assert (underscored.class_names, underscored.teacher) == (("z",), ("a", "b"))


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "notepad.toml").write_bytes(b"\xef\xbb\xbfepochs = 3\r\n")
    assert parsed("run", "--config", str(tmp_path / "notepad.toml")).epochs == 3


def test_only_distill_starts_from_the_file_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("epochs = 4\n")
    assert parsed("distill", f"--out={tmp_path}").epochs == 4
    assert parsed("distill", "--out", str(tmp_path), "--epochs", "5").epochs == 5
    assert parsed("distill", "--out", str(tmp_path / "none")).epochs == RunSettings().epochs
    assert parsed("run", f"--out={tmp_path}").epochs == RunSettings().epochs


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"epochs = ", "is not a TOML settings file"),
        (b"\xff", "is not a TOML settings file"),
        (b"epoch = 3", "'epoch' is not a setting of this command. Did you mean epochs"),
        (b"fresh = true", "'fresh' is not a setting"),
        (b"[run]\nepochs = 3", "run must be a boolean"),
        (b"epochs = 2026-01-01", "epochs must be a boolean"),
        (b"set = [[1]]", "set must be a boolean"),
        (b"a" + b".b" * 50_000 + b" = 1", "a must be a boolean"),
        (b"a = " + b"[" * 100_000, "is not a TOML settings file"),
        (b"image_size = [8, 8]", "image_size must be a single value. Got [8, 8] instead"),
        (b"epochs = []", "epochs must be a single value. Got [] instead"),
        (b"#" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)
def test_an_invalid_file_is_refused_by_name(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.toml") as error:
        parsed("run", "--config", str(file))
    assert expected in str(error.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot read the settings in .*none\.toml: No such file"):
        read(tmp_path / "none.toml")


def test_settings_without_a_file_are_returned_unchanged() -> None:
    settings = RunSettings(epochs=3)
    assert with_file(settings, ["--epochs", "3"]) is settings


@pytest.mark.parametrize(
    ("flags", "teacher", "augment"),
    [
        ((), ("a", "b"), ("flip",)),
        (("--teacher", "c"), ("c",), ("flip",)),
        (("--teacher=c", "--teacher=d", "--augment=crop:2"), ("c", "d"), ("crop:2",)),
    ],
)
def test_a_repeatable_flag_replaces_the_values_of_the_file(
    tmp_path: Path, flags: tuple[str, ...], teacher: tuple[str, ...], augment: tuple[str, ...]
) -> None:
    """By default tyro appends to them."""
    (tmp_path / "mine.toml").write_text('teacher = ["a", "b"]\naugment = ["flip"]\n')
    settings = parsed("run", f"--config={tmp_path / 'mine.toml'}", *flags)
    assert (settings.teacher, settings.augment) == (teacher, augment)


def test_a_flag_can_set_none_and_the_last_of_two_files_counts(tmp_path: Path) -> None:
    for name, limit in (("first", 200), ("last", 300)):
        (tmp_path / f"{name}.toml").write_text(f"limit = {limit}\nlearning_rate = 1\n")
    files = [f"--config={tmp_path / name}.toml" for name in ("first", "last")]
    settings = parsed("run", *files)
    assert (settings.limit, type(settings.learning_rate)) == (300, float)
    assert parsed("run", *files, "--limit", "None").limit is None


def test_a_byte_order_mark_of_an_editor_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("epochs = 3\n", encoding="utf-8-sig")
    assert parsed("run", f"--config={tmp_path / 'mine.toml'}").epochs == 3


def test_a_value_of_the_wrong_type_is_refused_by_file_and_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('epochs = "three"')
    with pytest.raises(SystemExit) as error:
        parsed("run", f"--config={file}")
    assert error.value.code == 2
    output = "".join(capsys.readouterr().err.split())
    assert "bad.toml" in output
    assert "--epochs" in output


def test_saved_settings_follow_a_moved_folder(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('epochs = 4\nout = "elsewhere"\n')
    settings = saved_settings(tmp_path)
    assert (settings.epochs, settings.out) == (4, tmp_path)


@pytest.mark.parametrize("line", ['class_names = ["--fresh"]', 'columns = ["x", "--download"]', 'augment = ["-h"]'])
def test_a_list_does_not_become_flags(line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"mine\.toml: items of \w+ must not begin with a hyphen\. Got '-"):
        parsed("run", f"--config={tmp_path / 'mine.toml'}")


@pytest.mark.parametrize(
    "line", ["class_names = true", "label_order = false", "data = true\nseed = 3", "epochs = true"]
)
def test_a_boolean_is_no_value_of_another_setting(line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"mine\.toml: \w+ must not be a boolean\. Got (true|false) instead"):
        parsed("run", f"--config={tmp_path / 'mine.toml'}")


# --- paths

PATHS = {
    "data": ["photos", "own.npz", "mine.py", "wds:shards/{train,val}-{00..12}.tar", "hf:saved"],
    "data_dir": ["root"],
    "unlabelled": ["more"],
    "student": ["net.py:Net", "cnn:8=s.pth", "net.py:Net=s.pth", "cnn:8=s.pth::state_dict_ema"],
    "teacher": ["cnn:8=t.pth", "net.py:Net", "net.py:Net=t.pth", "logits=a.csv", "net.py:Net=t.pth::model.ema"],
    "augment": ["mine.py:turn"],
    "class_weights": ["weights.csv"],
    "label_map": ["map.csv"],
}
PATHS["teacher"] += ["embeddings=e.npy"]
WORDS = {
    "class_weights": ["balanced"],
    "data": ["mnist", "sklearn:digits", "torchvision:CIFAR10", "hf:org/name"],
    "student": ["cnn:8", "mlp"],
}


def with_value(name: str, text: str, **others: Any) -> RunSettings:
    is_path = name in {"data_dir", "unlabelled", "label_map"}
    value = (text,) if name in {"teacher", "augment"} else Path(text) if is_path else text
    others |= {"teacher": ("cnn:8=t.pth",)} if name == "label_map" else {}  # only for a trained teacher
    return RunSettings(**{name: value}, **others)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(name, text, marks=[pytest.mark.slow] if number > 2 else [])
        for name, texts in PATHS.items()
        for number, text in enumerate(texts, start=1)
    ],
)
def test_a_written_file_means_the_same_files_from_any_folder(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, other = tmp_path / "work", tmp_path / "other" / "deep"
    for folder in (work, other, work / "saved"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(work)
    settings = with_value(name, text, out=Path("runs/a"))
    settings.file.parent.mkdir(parents=True)
    settings.file.write_bytes(to_toml(settings, command="run"))
    assert dataclasses.replace(parsed("run", "--config", "runs/a/run.toml"), config=None) == settings
    monkeypatch.chdir(other)
    moved = parsed("run", "--config", str(work / "runs/a/run.toml"))
    assert moved.out == work / "runs/a"
    file = text.rpartition("=")[2].removeprefix("wds:").removeprefix("hf:")
    assert str(work / file) in str(getattr(moved, name))
    relative = saved_settings(Path(os.path.relpath(work / "runs/a")), trust=True)
    assert os.path.relpath(work / file) in str(getattr(relative, name))


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WORDS.items() for text in texts])
def test_a_name_is_no_path(name: str, text: str, tmp_path: Path) -> None:
    settings = with_value(name, text, out=tmp_path)
    settings.file.write_bytes(to_toml(settings, command="run"))
    assert getattr(parsed("run", f"--config={settings.file}"), name) == text


@pytest.mark.parametrize("own", ["own.py:mine", "a=b.py:mine", "./own.py:mine"])
def test_settings_of_ones_own_methods_are_read_back_from_any_folder(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def mine(student_logits, teacher_logits, scale=1.0): ...\n"
    monkeypatch.setenv("KD_CONFIG_DIR", str(tmp_path / "configuration"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path(own.rpartition(":")[0]).write_text(code)
    given = ("--methods", f"dkd, {own}", "--set", f"{own}.scale=2", "--set", "dkd.beta=4")
    settings = parsed("compare", *given, "--out", "deep/out")
    Path("deep/out").mkdir(parents=True)
    settings.file.write_bytes(to_toml(settings, command="compare"))
    for folder in (".", "..", "deep/out"):
        monkeypatch.chdir(tmp_path / "work" / folder)
        read_back = parsed("compare", "--config", os.path.relpath(tmp_path / "work/deep/out/compare.toml"))
        by_method = read_back.by_method
        assert [name.rpartition("/")[2] for name in by_method] == ["dkd", Path(own).name]
        assert [method.set for method in by_method.values()] == [("beta=4",), ("scale=2",)]


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    settings = RunSettings(data=str(tmp_path / "photos"), out=tmp_path / "out")
    assert tomllib.loads(to_toml(settings, command="run").decode())["data"] == settings.data


def test_a_path_that_exists_only_in_the_working_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.toml").write_text('data = "photos"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"mine\.toml: 'photos' does not exist in .*sub, only in the working folder"):
        parsed("run", "--config=sub/mine.toml")


def test_a_file_of_an_earlier_version_keeps_its_meaning(tmp_path: Path) -> None:
    head = "# kd run --config THIS_FILE repeats this command. Other flags override the file.\n"
    (tmp_path / "run.toml").write_text(head + 'out = "run"\ndata = "photos"\n')
    settings = parsed("run", f"--config={tmp_path / 'run.toml'}")
    assert (settings.out, settings.data) == (Path("run"), "photos")
