"""Python files that a settings file names run only with consent; one's own runs go on without a question."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd import cli
from kd.commands.trust import remember

PLUGIN = """
from pathlib import Path

from torch import nn

Path(__file__).with_name("ran").touch()


def Net(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""
QUICK = ("--data", "sklearn:digits", "--teacher", "mlp:8", "--epochs", "1")


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CONFIG_DIR", str(tmp_path / "configuration"))


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "sent" / "net.py"
    path.parent.mkdir()
    path.write_text(PLUGIN)
    return path


def write_settings(plugin: Path) -> Path:
    file = plugin.with_name("run.toml")
    file.write_text(f'data = "sklearn:digits"\nteacher = ["mlp:8"]\nepochs = 1\nstudent = "{plugin}:Net"\n')
    return file


def has_run(plugin: Path) -> bool:
    ran = plugin.with_name("ran")
    existed = ran.exists()
    ran.unlink(missing_ok=True)
    return existed


def run(*arguments: str | Path) -> int:
    try:
        return cli.main([*map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.parametrize("command", [("evaluate",), ("distill",), ("cache", "verify")])
def test_a_folder_from_somebody_else_runs_no_code(
    command: tuple[str, ...], plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(plugin)
    assert run(*command, "--out", plugin.parent) != 0
    assert not has_run(plugin)
    error = capsys.readouterr().err
    assert f"names the Python file {plugin}" in error
    assert "--trust" in error


def test_consent_is_remembered_until_the_file_changes(plugin: Path, tmp_path: Path) -> None:
    file = write_settings(plugin)
    out = tmp_path / "out"
    assert run("run", "--config", file, "--out", out, "--dry-run") != 0
    assert not has_run(plugin)
    assert run("run", "--config", file, "--out", out, "--dry-run", "--trust") == 0
    assert has_run(plugin)
    assert run("run", "--config", file, "--out", out, "--dry-run") == 0
    plugin.write_text(PLUGIN + "# changed\n")
    assert run("run", "--config", file, "--out", out, "--dry-run") != 0


def test_files_behind_a_link_inside_a_package_need_consent(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's imports follow links to folders."""
    plugin.write_text("import tools.more\n" + PLUGIN)
    for package in (plugin.parent / "tools", tmp_path / "elsewhere"):
        package.mkdir()
        (package / "__init__.py").touch()
    (plugin.parent / "tools" / "more").symlink_to(tmp_path / "elsewhere")
    (plugin.parent / "tools" / "more" / "circular").symlink_to(plugin.parent)
    remember([plugin, plugin.parent / "tools" / "__init__.py"])
    (tmp_path / "elsewhere" / "__init__.py").write_text("raise RuntimeError('it ran')")
    file = write_settings(plugin)
    assert run("distill", "--config", file, "--out", plugin.parent, "--dry-run") == 2
    assert not has_run(plugin)
    assert "repeat the command with --trust" in capsys.readouterr().err


def test_ones_own_runs_need_no_consent(plugin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("run", *QUICK, "--student", f"{plugin}:Net", "--out", out) == 0
    has_run(plugin)
    assert run("evaluate", "--out", out) == 0
    assert has_run(plugin)
    assert "trust" not in (out / "run.toml").read_text()


@pytest.mark.parametrize("methods", ["kd,{}:own", "{}:own , dkd", "{}:own"])
def test_methods_of_a_comparison_need_consent_too(
    methods: str, plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin.write_text(PLUGIN + "\n1 / 0\n")
    named, file = methods.format(plugin), plugin.with_name("compare.toml")
    file.write_text(f'methods = "{named}"\n')
    assert run("compare", "--config", file, "--out", tmp_path / "out") != 0
    assert not has_run(plugin)
    assert f"names the Python file {plugin}, whose code would be run" in capsys.readouterr().err
    assert run("compare", "--methods", named, "--out", tmp_path / "out") != 0  # trusted from then on
    assert has_run(plugin)
    assert run("compare", "--config", file, "--out", tmp_path / "out") != 0
    assert has_run(plugin)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null"])
def test_a_damaged_record_trusts_nothing(content: str, plugin: Path, tmp_path: Path) -> None:
    record = tmp_path / "configuration" / "trusted_files.json"
    record.parent.mkdir()
    record.write_text(content)
    write_settings(plugin)
    assert run("evaluate", "--out", plugin.parent) != 0
    assert not has_run(plugin)


def test_a_record_that_cannot_be_read_now_is_not_replaced(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "configuration" / "trusted_files.json"
    remember([plugin])
    before, other = record.read_bytes(), tmp_path / "other.py"
    other.write_text("")
    function = Path.read_bytes

    def fail(self: Path) -> bytes:
        if self == record:
            raise OSError(24, "Too many open files")
        return function(self)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        remember([other])
    assert record.read_bytes() == before
