"""A command line made from annotated constants: it sets what it is told, leaves the rest, and helps with mistakes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import config
from kd.commands.config_flags import check_constants, command_line, current_settings, help_texts
from kd.commands.settings import RunSettings

SOURCE = """
from pathlib import Path
from typing import Annotated

import torch

DEVICE: Annotated[torch.device, "where it runs"] = torch.device("cpu")
EPOCHS: Annotated[int, "passes over the data, at least 1"] = 10
TEMPERATURE: Annotated[float, "softens, above 0"] = 5
LIMIT: Annotated[int | None, "toy size; None uses all"] = None
DATA_DIR: Annotated[Path | None, "a folder; None uses the embedded data"] = None
RESULTS_DIR: Annotated[Path, "where the results go"] = Path("results")
helper: Annotated[int, "not a setting: it is not in capitals"] = 3


def check() -> None:
    pass
"""
DEFAULTS = {
    "DEVICE": torch.device("cpu"),
    "EPOCHS": 10,
    "TEMPERATURE": 5,
    "LIMIT": None,
    "DATA_DIR": None,
    "RESULTS_DIR": Path("results"),
}


@pytest.fixture
def module() -> ModuleType:
    """A small module of constants."""
    made = ModuleType("constants")
    exec(SOURCE, vars(made))
    return made


def run(module: ModuleType, *arguments: str) -> dict[str, Any]:
    command_line(module, arguments, program="prog", description="What it does.")
    return {name: getattr(module, name) for name in DEFAULTS}


def test_without_arguments_nothing_changes(module: ModuleType) -> None:
    assert run(module) == DEFAULTS


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--epochs", "3"], "EPOCHS", 3),
        (["--temperature", "2.5"], "TEMPERATURE", 2.5),
        (["--temperature", "4"], "TEMPERATURE", 4.0),
        (["--limit", "2000"], "LIMIT", 2000),
        (["--data-dir", "some/where"], "DATA_DIR", Path("some/where")),
        (["--results-dir", "else/where"], "RESULTS_DIR", Path("else/where")),
        (["--results_dir", "else/where"], "RESULTS_DIR", Path("else/where")),
        (["--device", "cuda:1"], "DEVICE", torch.device("cuda:1")),
    ],
)
def test_an_argument_sets_its_constant_with_its_type_and_leaves_the_others(
    module: ModuleType, arguments: list[str], name: str, value: object
) -> None:
    values = run(module, *arguments)
    assert values == DEFAULTS | {name: value}
    assert isinstance(values[name], type(value))


def test_several_arguments_count_together(module: ModuleType) -> None:
    values = run(module, "--epochs", "2", "--limit", "100", "--device", "meta")
    assert values == DEFAULTS | {"EPOCHS": 2, "LIMIT": 100, "DEVICE": torch.device("meta")}


def test_none_can_be_given_back(module: ModuleType) -> None:
    module.LIMIT = 300  # type: ignore[attr-defined]
    assert run(module)["LIMIT"] == 300
    assert run(module, "--limit", "None")["LIMIT"] is None


def test_a_value_set_before_is_the_default(module: ModuleType) -> None:
    module.EPOCHS = 7  # type: ignore[attr-defined]
    assert run(module, "--limit", "500")["EPOCHS"] == 7


def test_help_lists_each_constant_with_meaning_and_default(
    module: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        run(module, "--help")
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "What it does." in shown
    for flag, meaning, default in (
        ("--device", "where it runs", "cpu"),
        ("--epochs", "passes over the data, at least 1", "10"),
        ("--temperature", "softens, above 0", "5"),
        ("--limit", "toy size; None uses all", "None"),
        ("--results-dir", "where the results go", "results"),
    ):
        assert flag in shown
        assert meaning in shown
        assert f"(default: {default}" in shown[shown.index(flag) :]
    assert "helper" not in shown


@dataclasses.dataclass
class Declared:
    """Settings with help."""

    depth: int = 1
    """how deep it goes,
    in metres"""
    other: str = ""

    def method(self) -> None:
        """This is no help of ``other``."""


def test_a_constant_without_a_text_of_its_own_has_that_of_the_declared_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert help_texts(Declared) == {"depth": "how deep it goes, in metres"}
    module = ModuleType("constants")
    exec("from typing import Annotated\nDEPTH: int = 2\nWIDTH: Annotated[int, 'how wide'] = 3", vars(module))
    with pytest.raises(SystemExit):
        command_line(module, ["--help"], program="prog", description=None, declared=Declared)
    shown = " ".join(capsys.readouterr().out.split())
    assert "how deep it goes, in metres (default: 2)" in shown
    assert "how wide (default: 3)" in shown
    command_line(module, ["--depth", "5"], program="prog", description=None, declared=Declared)
    assert (module.DEPTH, module.WIDTH) == (5, 3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epoch", "3"], "--epochs"),
        (["--temprature", "3"], "--temperature"),
        (["--epochs", "many"], "--epochs"),
        (["--limit", "2.5"], "--limit"),
    ],
)
def test_a_wrong_name_or_value_ends_with_an_error_that_names_the_right_one(
    module: ModuleType, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(module, *arguments)
    assert ended.value.code not in (0, None)
    assert expected in capsys.readouterr().err
    assert {name: getattr(module, name) for name in DEFAULTS} == DEFAULTS


def test_an_unknown_device_ends_with_what_is_allowed(module: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"--device must be cpu, cuda, cuda:N or mps\. Got 'gpu' instead"):
        run(module, "--device", "gpu")


def test_the_current_values_go_through_json_unchanged(module: ModuleType) -> None:
    values = current_settings(module)
    expected = DEFAULTS | {"DEVICE": "cpu", "RESULTS_DIR": str(Path("results"))}
    assert json.loads(json.dumps(values, allow_nan=False)) == values == expected


def test_the_current_values_are_those_of_now(module: ModuleType) -> None:
    module.EPOCHS = 1  # type: ignore[attr-defined]
    assert current_settings(module)["EPOCHS"] == 1


def test_names_that_are_settings_pass(module: ModuleType) -> None:
    module.EPOCHS = 3  # type: ignore[attr-defined]
    module.note = "not a constant"  # type: ignore[attr-defined]
    check_constants(module)


def test_a_mistyped_constant_is_refused_with_a_suggestion(module: ModuleType) -> None:
    module.EPOCH = 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"constants\.EPOCH is not a setting\. Did you mean EPOCHS\?.*TEMPERATURE"):
        check_constants(module)


def test_a_name_like_no_other_is_refused_with_the_list(module: ModuleType) -> None:
    module.XYZZY = 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"XYZZY is not a setting\. There are: DEVICE, EPOCHS") as caught:
        check_constants(module)
    assert "Did you mean" not in str(caught.value)


def test_every_constant_of_the_pipeline_has_a_meaning_and_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in vars(config) if name.isupper()]
    assert list(current_settings(config)) == names
    with pytest.raises(SystemExit):
        command_line(config, ["--help"], program="main.py", description=None, declared=RunSettings)
    shown = capsys.readouterr().out
    assert all(f"--{name.lower().replace('_', '-')}" in shown for name in names)
