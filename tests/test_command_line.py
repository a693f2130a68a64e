"""``python main.py``: every constant has a flag, errors are one paragraph, and the output is plain text."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import config
import main
from kd.commands.help import help_texts
from kd.commands.settings import RunSettings
from tests.conftest import ToyRun

CONSTANTS = inspect.get_annotations(config)
MEANINGS = help_texts(RunSettings)
PROGRAM = Path(main.__file__)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Terminal:
    """Return a function that runs the command line in this process: exit status, output, errors."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *arguments: str) -> Outcome:
        message = ""
        try:
            code: Any = main._cli(list(arguments))
        except SystemExit as end:  # the interpreter defines the meaning of a number and of a text
            code = 1 if isinstance(end.code, str) else (end.code or 0)
            message = end.code if isinstance(end.code, str) else ""
        out, err = self.capture.readouterr()
        return Outcome(code, out, err + message)


@pytest.fixture
def terminal(toy: object, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only parse the flags; the values are in ``config`` afterwards."""
    monkeypatch.setattr(main, "main", lambda: None)


def _words(text: str) -> str:
    """Return the text without frames and with single spaces."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.mark.usefixtures("no_run")
def test_a_flag_overrides_each_constant(terminal: Terminal) -> None:
    overrides = {
        "DEVICE": torch.device("cpu"),
        "BATCH_SIZE": 64,
        "TEST_SIZE": 0.2,
        "RANDOM_STATE": 7,
        "EPOCHS": 3,
        "LEARNING_RATE": 0.01,
        "SEED": 5,
        "TEMPERATURE": 4.0,
        "ALPHA": 0.25,
        "STUDENT": "cnn",
        "STUDENT_WIDTH": 32,
        "LIMIT": 2000,
        "DATA_DIR": Path("copy"),
        "MODELS_DIR": Path("m"),
        "RESULTS_DIR": Path("r"),
        "STATE_DIR": Path("s"),
        "SNAPSHOT_SECONDS": 5.0,
    }
    without_value, chosen = {"FRESH", "BFLOAT16"}, {"METHOD", "SET"}  # tested separately
    assert set(overrides) == set(CONSTANTS) - without_value - chosen
    flags = [part for name, value in overrides.items() for part in (f"--{name.lower().replace('_', '-')}", str(value))]
    assert terminal(*flags).code == 0
    assert {name: getattr(config, name) for name in overrides} == overrides


@pytest.mark.usefixtures("no_run")
def test_a_method_and_its_settings_can_be_set(terminal: Terminal) -> None:
    assert terminal("--method", "dkd", "--set", "beta=2", "--set", "warmup=0").code == 0
    assert (config.METHOD, config.SET) == ("dkd", ("beta=2", "warmup=0"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "dkdd"), "there is no method 'dkdd'. Did you mean dkd or kd?"),
        (("--method", "nkd", "--set", "beta=2"), "nkd has no setting 'beta'. It has temperature, gamma"),
        (("--method", "nkd", "--temperature", "4"), "are settings of kd, not of nkd. Use --set, with any of"),
        (("--set", "alpha=0.2"), "--set alpha does not apply to kd. Got --set alpha=0.2; use --alpha instead"),
        (("--set", "beta=2"), "kd has no setting 'beta'. It has temperature, alpha, divergence"),
    ],
)
def test_a_setting_of_another_method_is_refused(terminal: Terminal, flags: tuple[str, ...], message: str) -> None:
    code, _, err = terminal(*flags)
    assert code != 0
    assert message in err


@pytest.mark.usefixtures("no_run")
def test_flags_not_given_keep_the_values_of_config(terminal: Terminal) -> None:
    config.EPOCHS, config.LIMIT = 7, 500
    assert terminal("--temperature", "4").code == 0
    assert (config.EPOCHS, config.LIMIT, config.TEMPERATURE) == (7, 500, 4)


def test_help_lists_every_constant_with_its_meaning_and_default(terminal: Terminal) -> None:
    before = {name: getattr(config, name) for name in CONSTANTS}
    code, out, err = terminal("--help")
    text = _words(out)
    assert (code, err) == (0, "")
    for name, hint in CONSTANTS.items():
        assert f"--{name.lower().replace('_', '-')}" in text
        default = "repeatable" if before[name] == () else f"default: {_words(str(before[name]))}"
        meaning = hint.__metadata__[0] if hasattr(hint, "__metadata__") else MEANINGS[name.lower()]
        assert f"{meaning} ({default})" in text or name.endswith("_DIR")
    assert {name: getattr(config, name) for name in CONSTANTS} == before


@pytest.mark.parametrize(
    ("wrong", "right"), [("--epoch", "--epochs"), ("--temprature", "--temperature"), ("--batchsize", "--batch-size")]
)
def test_an_unknown_flag_is_refused_with_the_right_one(terminal: Terminal, wrong: str, right: str) -> None:
    code, out, err = terminal(wrong, "3")
    assert code != 0
    assert out == ""
    assert f"Unrecognized options: {wrong}" in _words(err)
    assert f"{right} " in _words(err).replace(wrong + " ", "")


@pytest.mark.parametrize(("flag", "value"), [("--epochs", "three"), ("--alpha", "half"), ("--limit", "1.5")])
def test_a_value_of_the_wrong_type_is_refused_with_the_flags_name(terminal: Terminal, flag: str, value: str) -> None:
    code, out, err = terminal(flag, value)
    assert code != 0
    assert out == ""
    assert flag in err
    assert value in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--temperature", "0", "above 0"),
        ("--temperature", "nan", "above 0"),
        ("--alpha", "1.5", "in [0, 1]"),
        ("--alpha", "-0.1", "in [0, 1]"),
        ("--epochs", "0", "at least 1"),
        ("--test-size", "1", "in (0, 1)"),
        ("--test-size", "0", "in (0, 1)"),
        ("--limit", "5", "None or an integer of at least 100"),
        ("--batch-size", "0", "at least 1"),
        ("--learning-rate", "0", "above 0"),
        ("--student-width", "0", "at least 1"),
        ("--seed", "-1", "at least 0"),
        ("--random-state", "-1", "at least 0"),
        ("--device", "nonsense", "cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_value_out_of_range_gives_one_paragraph_with_name_range_and_value(
    terminal: Terminal, tmp_path: Path, flag: str, value: str, allowed: str
) -> None:
    code, out, err = terminal(flag, value)
    assert code != 0
    assert out == ""
    (paragraph,) = err.strip().splitlines()
    name = flag if flag == "--device" else flag[2:].upper().replace("-", "_")
    assert re.match(rf"error: {name} must be .*{re.escape(allowed)}.* Got .*{re.escape(value)}.* instead", paragraph)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_device_gives_one_paragraph(terminal: Terminal) -> None:
    code, _, err = terminal("--device", "cuda:99")
    assert code == 1
    assert "cuda:99" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("wrong", "right"), [("EPOCH", "EPOCHS"), ("TEMPRATURE", "TEMPERATURE")])
def test_a_misspelt_constant_set_in_config_is_refused_with_the_right_name(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, right: str
) -> None:
    monkeypatch.setattr(config, wrong, 3, raising=False)
    code, out, err = terminal()
    assert (code, out) == (1, "")
    assert f"config.{wrong} is not a setting. Did you mean {right}?" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("EPOCHS", "3"), ("EPOCHS", 2.5), ("ALPHA", None), ("MODELS_DIR", "models")]
)
def test_a_constant_of_the_wrong_type_set_in_config_is_refused_by_name(
    terminal: Terminal, name: str, value: object
) -> None:
    setattr(config, name, value)
    code, _, err = terminal()
    assert code != 0
    assert name in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_evaluation_prints_accuracies_distributions_and_one_verdict(
    toy_run: ToyRun, toy: object, capsys: pytest.CaptureFixture[str]
) -> None:
    students = toy_run.students[:2]
    teacher, control, distilled = main.evaluate_all_models(students[0], *students, toy_run.data.test_loader)
    out = capsys.readouterr().out
    for name, result in (("teacher", teacher), ("control", control), ("distilled", distilled)):
        cells = [re.findall(r"[\w,.%]+", line) for line in out.splitlines() if re.match(rf"\W*{name}\b", line)]
        assert [name, f"{result.accuracy:.2%}", f"{result.errors:,}"] in [[*row[:2], *row[-1:]] for row in cells]
    predictions = [result.logits.argmax(dim=1) for result in (teacher, control, distilled)]
    for digit in range(10):
        counts = [f"{int((answer == digit).sum()):,}" for answer in (toy_run.data.test_dataset.labels, *predictions)]
        assert [str(digit), *counts] in [re.findall(r"[\w,.%]+", line) for line in out.splitlines()]
    verdict = out.strip().splitlines()[-1]
    assert f"{distilled.errors:,} errors, the control {control.errors:,}" in verdict
    assert re.search(r"exact McNemar p (= [\d.e-]+|< 0.0001)", verdict)
    assert re.search("these two networks", verdict, flags=re.IGNORECASE)
    assert "QUICK RUN on 300 training images" in out
