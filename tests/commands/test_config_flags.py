"""Command line of annotated constants: flags set their constants only, and mistakes get a helpful error."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import config
from kd.commands.config_flags import check_constants, command_line, current_settings
from kd.commands.help import help_texts
from kd.commands.settings import RunSettings

SOURCE = """
from pathlib import Path
from typing import Annotated

import torch

DEVICE: Annotated[torch.device, "where it runs"] = torch.device("cpu")
EPOCHS: Annotated[int, "passes over the data, at least 1"] = 10
TEMPERATURE: Annotated[float, "softens, above 0"] = 5
LIMIT: Annotated[int | None, "quick run; None uses all"] = None
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
    module = ModuleType("constants")
    exec(SOURCE, vars(module))
    return module


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
def test_an_argument_sets_only_its_constant_with_its_type(
    module: ModuleType, arguments: list[str], name: str, value: object
) -> None:
    values = run(module, *arguments)
    assert values == DEFAULTS | {name: value}
    assert isinstance(values[name], type(value))


def test_several_arguments_set_their_constants(module: ModuleType) -> None:
    values = run(module, "--epochs", "2", "--limit", "100", "--device", "meta")
    assert values == DEFAULTS | {"EPOCHS": 2, "LIMIT": 100, "DEVICE": torch.device("meta")}


def test_an_argument_can_set_none(module: ModuleType) -> None:
    module.LIMIT = 300  # type: ignore[attr-defined]
    assert run(module)["LIMIT"] == 300
    assert run(module, "--limit", "None")["LIMIT"] is None


def test_the_current_value_is_the_default(module: ModuleType) -> None:
    module.EPOCHS = 7  # type: ignore[attr-defined]
    assert run(module, "--limit", "500")["EPOCHS"] == 7


def test_help_lists_each_constant_with_meaning_and_default(
    module: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as error:
        run(module, "--help")
    assert error.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "What it does." in output
    for flag, meaning, default in (
        ("--device", "where it runs", "cpu"),
        ("--epochs", "passes over the data, at least 1", "10"),
        ("--temperature", "softens, above 0", "5"),
        ("--limit", "quick run; None uses all", "None"),
        ("--results-dir", "where the results go", "results"),
    ):
        assert flag in output
        assert meaning in output
        assert f"(default: {default}" in output[output.index(flag) :]
    assert "helper" not in output


@dataclasses.dataclass
class Declared:
    """Settings with help."""

    depth: int = 1
    """how deep it goes,
    in metres"""
    other: str = ""

    def method(self) -> None:
        """This is no help of ``other``."""


def test_the_help_of_a_bare_constant_comes_from_the_settings_class(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert help_texts(Declared) == {"depth": "how deep it goes, in metres"}
    module = ModuleType("constants")
    exec("from typing import Annotated\nDEPTH: int = 2\nWIDTH: Annotated[int, 'how wide'] = 3", vars(module))
    with pytest.raises(SystemExit):
        command_line(module, ["--help"], program="prog", description=None, declared=Declared)
    output = " ".join(capsys.readouterr().out.split())
    assert "how deep it goes, in metres (default: 2)" in output
    assert "how wide (default: 3)" in output
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
def test_the_error_about_a_wrong_name_or_value_names_the_flag(
    module: ModuleType, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        run(module, *arguments)
    assert error.value.code not in (0, None)
    assert expected in capsys.readouterr().err
    assert {name: getattr(module, name) for name in DEFAULTS} == DEFAULTS


def test_the_error_about_an_unknown_device_lists_the_known_ones(module: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"--device must be cpu, cuda, cuda:N or mps\. Got 'gpu' instead"):
        run(module, "--device", "gpu")


@pytest.mark.parametrize("arguments", [["--results-dir", ""], ["--epochs", "3", "--results-dir="]])
def test_an_empty_folder_is_refused(module: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--results-dir must be followed by a value\. Got '' instead"):
        run(module, *arguments)
    assert {name: getattr(module, name) for name in DEFAULTS} == DEFAULTS


def test_json_preserves_the_current_values(module: ModuleType) -> None:
    values = current_settings(module)
    expected = DEFAULTS | {"DEVICE": "cpu", "RESULTS_DIR": str(Path("results"))}
    assert json.loads(json.dumps(values, allow_nan=False)) == values == expected


def test_current_values_follow_a_changed_constant(module: ModuleType) -> None:
    module.EPOCHS = 1  # type: ignore[attr-defined]
    assert current_settings(module)["EPOCHS"] == 1


def test_known_constants_and_lower_case_names_pass(module: ModuleType) -> None:
    module.EPOCHS = 3  # type: ignore[attr-defined]
    module.note = "not a constant"  # type: ignore[attr-defined]
    check_constants(module)


def test_a_mistyped_constant_is_refused_with_a_suggestion(module: ModuleType) -> None:
    module.EPOCH = 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"constants\.EPOCH is not a setting\. Did you mean EPOCHS\?.*TEMPERATURE"):
        check_constants(module)


def test_a_name_without_similar_ones_is_refused_with_the_list(module: ModuleType) -> None:
    module.XYZZY = 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"XYZZY is not a setting.*DEVICE, EPOCHS") as error:
        check_constants(module)
    assert "Did you mean" not in str(error.value)


def test_every_constant_of_the_pipeline_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in vars(config) if name.isupper()]
    assert list(current_settings(config)) == names
    with pytest.raises(SystemExit):
        command_line(config, ["--help"], program="main.py", description=None, declared=RunSettings)
    output = capsys.readouterr().out
    assert all(f"--{name.lower().replace('_', '-')}" in output for name in names)
