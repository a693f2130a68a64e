"""The command ``kd``: fast help, short errors, and ``kd run`` equal to ``python main.py``."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest

import config
import main as pipeline
from kd import cli
from kd.checks import ranges
from kd.commands.help import GROUPS, help_texts
from kd.commands.settings import FLAGS_ALONE, RunSettings
from kd.devices import device_named

ROOT = Path(pipeline.__file__).parent
QUICK = ("--limit", "200", "--epochs", "1")
SETTINGS = {field.name: field.default for field in dataclasses.fields(RunSettings)}
MEANINGS = help_texts(RunSettings)
SHARED = [name for name in SETTINGS if name.upper() in inspect.get_annotations(config)]

# Runs the command and then prints to stderr which slow packages it has imported.
WATCHED = """
import sys
from kd.cli import main

try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
slow = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "optuna"} & set(sys.modules)
sys.exit(f"imported {sorted(slow)}" if slow else code)
"""


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a new process, with this checkout's ``kd`` and output in a pipe."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )


def words(text: str) -> str:
    """Return the text without frames and with single spaces."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that runs the command in this process, in an empty folder: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)  # fails for a text, which SystemExit also accepts
        return code, *capsys.readouterr()

    return call


# --- settings


def test_the_defaults_equal_those_of_config() -> None:
    others = {"MODELS_DIR", "RESULTS_DIR", "STATE_DIR", "BFLOAT16"}  # --precision replaces the last
    assert {name.upper() for name in SHARED} == set(inspect.get_annotations(config)) - others
    assert set(SETTINGS) - set(SHARED) == {"out"} | FLAGS_ALONE
    defaults = {name: getattr(config, name.upper()) for name in SHARED if name != "device"}
    assert {name: SETTINGS[name] for name in defaults} == defaults
    assert device_named(RunSettings().device) == config.DEVICE


def test_help_of_run_explains_every_setting_shared_with_config(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = call("run", "--help")
    assert (code, err) == (0, "")
    for name in SHARED:
        default = "repeatable" if SETTINGS[name] == () else f"default: {SETTINGS[name]}"
        assert f"{MEANINGS[name]} ({default})" in words(out), name


def test_every_number_is_declared_with_a_range() -> None:
    """For every command, exactly the numeric settings have ranges.

    Numbers in a list have the range of the single setting: ``--temperatures`` has the range of ``--temperature``.
    """
    for command in cli.COMMANDS.values():
        kinds = get_type_hints(command.settings)
        single = {name: kind for name, kind in kinds.items() if get_origin(kind) is not tuple}
        numbers = {name for name, kind in single.items() if {int, float} & {kind, *get_args(kind)}}
        texts = {name for name, kind in single.items() if str in {kind, *get_args(kind)}}
        assert set(ranges(command.settings)) - texts == numbers  # some texts have allowed values


def test_everything_is_under_the_out_folder() -> None:
    settings = RunSettings(out=Path("x"))
    assert (settings.models_dir, settings.results_dir, settings.state_dir) == (
        Path("x/models"),
        Path("x/results"),
        Path("x/.kd"),
    )


# --- help and errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("run", "--help"),
        ("compare", "--help"),
        ("sweep", "--help"),
        ("run", "--epochs", "0"),
        ("run", "--epoch"),
        ("sweep", "--vary", "student_width"),
        ("sweep", "--trials", "0"),
    ],
)
def test_help_and_errors_do_not_import_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = run("-c", WATCHED, *arguments, cwd=tmp_path)
    assert ended.returncode == (0 if "--help" in arguments else 2), ended.stderr
    assert "imported" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_commands_and_the_module_runs_as_the_command_does(tmp_path: Path) -> None:
    ended = run("-m", "kd", "--help", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    for name in cli.COMMANDS:
        assert f"• {name} " in ended.stdout


def test_the_installed_command_is_this_checkouts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"kd": "kd.__main__:main"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("rum",), "there is no command 'rum'. Did you mean run? Commands: run, compare, sweep, judge, distill"),
        (("zzz", "--help"), "there is no command 'zzz'. Commands: run, compare, sweep, judge, distill"),
        (("cache", "verfy"), "info"),
        (("run", "--epoch", "3"), "Perhaps you meant: --epochs INT"),
        (("run", "--temprature", "3"), "Perhaps you meant: --temperature FLOAT"),
        (("run", "--epochs", "three"), "Error parsing --epochs"),
        (("run", "--limit", "1.5"), "--limit"),
    ],
)
def test_a_wrong_name_or_type_is_refused_with_the_right_one(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert expected in words(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--temperature", "0", "a finite number above 0"),
        ("--temperature", "nan", "a finite number above 0"),
        ("--temperature", "inf", "a finite number above 0"),
        ("--alpha", "1.5", "in [0, 1]"),
        ("--epochs", "0", "an integer of at least 1"),
        ("--test-size", "1", "in (0, 1)"),
        ("--limit", "5", "None or an integer of at least 100"),
        ("--batch-size", "0", "an integer of at least 1"),
        ("--learning-rate", "-1", "a finite number above 0"),
        ("--student-width", "0", "an integer of at least 1"),
        ("--seed", "-1", "an integer of at least 0"),
        ("--random-state", "-1", "an integer of at least 0"),
        ("--snapshot-seconds", "-1", "at least 0"),
    ],
)
def test_a_value_out_of_range_gives_one_paragraph_with_the_flags_name(
    call: Call, tmp_path: Path, flag: str, value: str, allowed: str
) -> None:
    code, out, err = call("run", flag, value)
    assert (code, out) == (2, "")
    (paragraph,) = err.strip().splitlines()
    assert re.match(rf"error: {flag} must be {re.escape(allowed)}\. Got {re.escape(value)}.* instead", paragraph)
    assert list(tmp_path.iterdir()) == []


def test_an_order_of_labels_without_a_loaded_teacher_is_refused(call: Call, tmp_path: Path) -> None:
    code, _, err = call("run", "--label-order", "b", "a")
    assert code == 2
    assert "--label-order must be omitted. Got 'b a' instead" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("device", "expected"), [("gpu", "--device must be cpu, cuda"), ("cuda:99", "--device must be a device of this")]
)
def test_a_missing_device_gives_one_paragraph_before_any_file(
    call: Call, tmp_path: Path, device: str, expected: str
) -> None:
    code, out, err = call("run", "--device", device)
    assert (code, out) == (1, "")
    (paragraph,) = err.strip().splitlines()
    assert f"error: {expected}" in paragraph
    assert list(tmp_path.iterdir()) == []


def test_a_function_of_the_users_that_ends_the_program_is_an_error(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def load(): raise SystemExit(0)\n")
    code, _, err = call("run", *QUICK, "--data", "mine.py")
    assert code == 1
    assert "error: a Python file of yours called sys.exit(0) before the command was done" in err


def test_a_folder_that_cannot_be_written_is_named_before_any_work(call: Call, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    code, out, err = call("run", *QUICK, "--out", "out")
    assert (code, out) == (1, "")
    assert f"cannot write to folder {Path('out/models')}" in err


def test_a_missing_library_gives_one_paragraph(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code, _, err = call("run", "--data", "sklearn:digits", "--teacher", "timm:resnet18")
    assert code == 1
    (paragraph,) = err.strip().splitlines()
    assert paragraph.startswith("error: timm:resnet18 needs timm, which is not installed: pip install")


@pytest.mark.parametrize(
    ("arguments", "flag", "hint"),
    [
        (("--method", "kdd"), "--method", "Did you mean kd"),
        (("--method", "fitnet", "--set", "wight=3"), "--set wight=3", "Did you mean weight?"),
        (("--method", "fitnet", "--set", "weight=x"), "--set weight=x", ""),
        (("--data", "minst"), "--data minst", "Did you mean mnist?"),
        (("--data", "digts"), "--data digts", "Did you mean sklearn:digits?"),
        (("--data", "sklearn:digit"), "--data sklearn:digit", "Did you mean digits?"),
        (("--data", "sklern:iris"), "--data sklern:iris", "Did you mean sklearn:iris"),
        (("--data", "torchvision:MNST"), "--data torchvision:MNST", "Did you mean MNIST"),
        (("--data", "photo"), "--data photo", "Did you mean photos?"),
        (("--data", "mine/own1.npz"), "--data mine/own1.npz", f"Did you mean {Path('mine/own.npz')}?"),
        (("--data", "mine/nest.py"), "--data mine/nest.py", f"Did you mean {Path('mine/nets.py')}?"),
        (("--student", "mpl:3"), "--student mpl:3", "Did you mean mlp?"),
        (("--teacher", "resnt50"), "--teacher resnt50", "Did you mean torchvision:resnet50"),
        (("--student", "mine/nest.py:Net"), "--student mine/nest.py:Net", f"Did you mean {Path('mine/nets.py')}?"),
        (("--teacher", "cnn:8=mine/teachr.pth"), "--teacher cnn:8=mine/teachr.pth", "teacher.pth?"),
        (("--student", "cnn", "--method", "fitnet", "--set", "student_layers=layr1"), "--set student_layers", "layer1"),
        (("--augment", "flp"), "--augment", "Did you mean flip?"),
        (("--augment", "trivialaugmnt"), "--augment", "Did you mean trivialaugment"),
        (("--data", "sklearn:wine", "--unlabelled", "photos"), "--unlabelled photos", ""),
        (("--config", "none.toml"), "--config", ""),
        (("--out", ""), "--out must be followed by a value. Got '' instead", "a variable of the shell may be unset"),
        (("--out=",), "--out must be followed by a value. Got '' instead", ""),
        (("--out", "mine/nets.py"), f"--out {Path('mine/nets.py')}", ""),
        (("--data", "sklearn:wine", "--test-size", "0.999"), "--test-size", ""),
    ],
)
def test_a_mistake_is_answered_with_its_flag_and_a_similar_name(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], flag: str, hint: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "mine").mkdir()
    for name in ("own.npz", "nets.py", "teacher.pth"):
        (tmp_path / "mine" / name).touch()
    code, _, err = call("run", *(() if "--data" in arguments else ("--limit", "200")), *arguments)
    assert code in {1, 2}
    assert flag in err
    assert hint in err


# --- information


def test_the_bare_command_prints_its_help(call: Call) -> None:
    assert call() == call("--help")
    code, out, err = call()
    assert (code, err) == (0, "")
    assert "sweep" in out


def test_the_version_is_that_of_the_package(call: Call) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert call("--version") == (0, f"kd {project['version']}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_setting_is_in_exactly_one_group_of_the_help(name: str, call: Call) -> None:
    settings = cli.COMMANDS[name].settings
    fields = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    assert sorted(fields) == sorted(member for group in GROUPS.values() for member in group if member in fields)
    code, out, err = call(name, "--help")
    assert (code, err) == (0, "")
    flags = re.findall(r"^  (?:(--[\w-]+)|info|INPUTS)", out, re.MULTILINE)
    assert sorted(flags) == sorted("" if n in {"action", "inputs"} else f"--{n.replace('_', '-')}" for n in fields)
    assert max(map(len, out.splitlines())) <= 120
    titles = re.findall(r"^(\w[\w ]*):$", out, re.MULTILINE)
    assert titles == [title for title in GROUPS if title in titles]


def test_help_fits_a_narrow_terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = call("run", "--help")
    assert max(map(len, out.splitlines())) <= 80


def test_cache_without_an_action_lists_the_logits(call: Call) -> None:
    code, out, err = call("cache", "--out", "none")
    assert (code, out) == (1, "")
    assert "run.toml does not exist" in err


@pytest.mark.skipif(os.name == "nt", reason="Windows stores names as text")
@pytest.mark.parametrize(
    "flags", [("--data", "a\udce9"), ("--out", "a\udce9"), ("--data", "mnist", "--config=\udcff.toml")]
)
def test_arguments_that_are_not_text_are_refused_before_any_work(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", *flags])
    assert re.search(r"error: arguments must be readable text in UTF-8\. Got '.*\\udc", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
