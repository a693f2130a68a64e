"""Who may import whom, and what the package may not contain: read from the source, not from what happens to run."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import kd
import main

ROOT = Path(main.__file__).parent
PACKAGE = sorted((ROOT / "kd").rglob("*.py"))
ROOT_MODULES = ("main", "config", "models", "train", "distillation", "visualization")
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
SOURCES = [*PACKAGE, *(ROOT / f"{name}.py" for name in ROOT_MODULES)]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> set[str]:
    """Every module imported in the file, at whatever depth; ``from a import b`` as ``a`` and ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PACKAGE, ids=_id)
def test_the_package_knows_nothing_of_the_pipeline(path: Path) -> None:
    assert not {name.split(".")[0] for name in _imports(path)} & set(ROOT_MODULES)


@pytest.mark.parametrize("path", RECIPES, ids=_id)
def test_a_recipe_needs_the_toolkit_and_never_the_pipeline(path: Path) -> None:
    assert not {name.split(".")[0] for name in _imports(path)} & set(ROOT_MODULES)


@pytest.mark.parametrize("name", ROOT_MODULES[1:])
def test_main_stands_at_the_top_and_config_at_the_bottom(name: str) -> None:
    allowed = {
        "config": set(),
        "models": {"config"},
        "train": {"config"},
        "distillation": {"config", "models"},
        "visualization": {"config"},
    }
    assert _imports(ROOT / f"{name}.py") & set(ROOT_MODULES) <= allowed[name]


LOWEST = [
    *(ROOT / "kd" / "losses").glob("*.py"),
    *(ROOT / "kd" / f"{n}.py" for n in ("types", "checks", "models/networks", "devices")),
]


@pytest.mark.parametrize("path", LOWEST, ids=_id)
def test_the_lowest_modules_import_nothing_above_them(path: Path) -> None:
    inside = {name for name in _imports(path) if name.split(".")[0] == "kd" and not name.startswith("kd.losses.")}
    assert inside <= {"kd.checks", "kd.checks.require", "kd.checks.require_every_label"}


def test_the_table_of_methods_names_what_it_does_not_import() -> None:
    folder = ROOT / "kd" / "methods"
    assert not {name for name in _imports(folder / "table.py") if name.split(".")[0] in ("kd", "torch")}
    inside = {name for name in _imports(folder / "factory.py") if name.split(".")[0] == "kd"}
    for_type_checkers = {"kd.types", "kd.types.Batch", "kd.types.Objective"}
    on_use = {"kd.models.inference", "kd.models.inference.device_of", "kd.models.inference.evaluating"}
    without_torch = {"kd.checks", "kd.checks.require"}
    rest = {name for name in inside if not name.startswith("kd.methods.table")}
    assert rest <= for_type_checkers | on_use | without_torch


def test_the_loop_knows_no_method() -> None:
    inside = {name.split(".")[1] for name in _imports(ROOT / "kd" / "training" / "loop.py") if name.startswith("kd.")}
    assert not inside & {"losses", "methods", "teachers", "report", "commands", "console"}


def test_data_sources_know_data_and_nothing_that_learns_from_it() -> None:
    paths = [path for path in PACKAGE if path.parent.name == "sources"]
    inside = {name.split(".")[1] for path in paths for name in _imports(path) if name.startswith("kd.")}
    assert inside <= {"checks", "console", "data", "imports", "seeding", "storage", "types"}


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_a_constant_is_read_at_use_never_frozen_by_a_from_import(path: Path) -> None:
    assert not [name for name in _imports(path) if name.startswith("config.")]


def test_no_file_that_hides_or_gathers() -> None:
    assert not [path for path in PACKAGE if path.name == "utils.py"]
    assert not (ROOT / "models" / "__init__.py").exists()
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/models/", "/results/"} <= set(ignored)
    assert not {"models", "models/", "results", "results/"} & set(ignored)


def test_the_public_names_are_few_sorted_and_there() -> None:
    assert len(kd.__all__) <= 26
    assert kd.__all__ == sorted(kd.__all__)
    assert all(hasattr(kd, name) for name in kd.__all__)


def test_the_public_names_are_what_a_type_checker_sees_and_what_is_imported_on_use() -> None:
    (shown,) = (node for node in _tree(ROOT / "kd" / "__init__.py").body if isinstance(node, ast.If))
    imports = [node for node in shown.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(shown.body)
    homes = {alias.asname or alias.name: node.module for node in imports for alias in node.names}
    assert set(homes) == set(kd.__all__)
    assert homes == {name: f"kd.{module}" for module, names in kd._MODULES.items() for name in names}


def test_a_public_name_is_the_one_of_its_module_and_another_is_refused() -> None:
    for module, names in kd._MODULES.items():
        assert all(getattr(kd, name) is getattr(importlib.import_module(f"kd.{module}"), name) for name in names)
    assert set(kd.__all__) <= set(dir(kd))
    with pytest.raises(AttributeError, match="module 'kd' has no attribute 'nonsense'"):
        kd.nonsense  # noqa: B018


def test_files_are_read_by_torch_in_one_place_and_safely() -> None:
    loads = [(_id(path), call) for path in SOURCES for name, call in _calls(path) if name in {"torch.load", "load"}]
    assert {place for place, _ in loads} == {"kd/storage/weights.py"}
    for _, call in loads:
        assert [
            k.value.value for k in call.keywords if k.arg == "weights_only" and isinstance(k.value, ast.Constant)
        ] == [True]


@pytest.mark.parametrize("path", [*SOURCES, *RECIPES], ids=_id)
def test_no_device_is_written_into_the_code_and_nothing_unsafe_is_called(path: Path) -> None:
    names = [name for name, _ in _calls(path)]
    assert not [name for name in names if name.endswith(".cuda")]
    assert not {"eval", "exec", "pickle.load", "pickle.loads", "os.system"} & set(names)
    assert not {name.split(".")[0] for name in _imports(path)} & {"pickle", "urllib", "requests", "socket"}


@pytest.mark.parametrize("path", PACKAGE, ids=_id)
def test_the_package_prints_only_through_its_console(path: Path) -> None:
    assert "print" not in [name for name, _ in _calls(path)]


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_a_module_only_defines_at_import(path: Path) -> None:
    """Top-level statements are definitions; only the guard for running as a program may do something."""
    for node in _tree(path).body:
        allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in {"__name__ == '__main__'", "TYPE_CHECKING"}
        assert isinstance(node, allowed) or docstring or guard, ast.unparse(node)


@pytest.mark.parametrize("path", [*SOURCES, *RECIPES], ids=_id)
def test_a_file_fits_into_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
