"""Who may import whom, and what the package may not contain: read from the source, not from what happens to run."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import kd
import main

ROOT = Path(main.__file__).parent
PACKAGE = sorted((ROOT / "kd").rglob("*.py"))
ROOT_MODULES = ("main", "config", "models", "train", "distillation", "visualization")
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
SOURCES = [*PACKAGE, *(ROOT / f"{name}.py" for name in ROOT_MODULES)]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(path: Path) -> frozenset[str]:
    """Every module imported in the file, at whatever depth; ``from a import b`` as ``a`` and ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_package_and_recipes_know_nothing_of_the_pipeline() -> None:
    for path in [*PACKAGE, *RECIPES]:
        assert not {name.split(".")[0] for name in _imports(path)} & set(ROOT_MODULES), path


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


# From the highest floor of the package to the lowest. A room imports from the floors below its own; rooms on one floor
# never import each other, and neither does any room import from above.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("report", "teachers"),
    ("evaluation", "training"),
    ("methods",),
    ("data", "models"),
    ("storage",),
    ("losses",),
    ("devices", "imports", "seeding"),
    ("arms", "checks", "console", "types"),
)
BELOW = {
    room: {other for lower in FLOORS[number + 1 :] for other in lower}
    for number, row in enumerate(FLOORS)
    for room in row
}
# Two faces of the package for those who write Python: neither knows the commands or the report.
BELOW["classifier"] = {"teachers", *BELOW["teachers"]}
BELOW["__init__"] = {"classifier", *BELOW["classifier"]}
# A folder in a folder imports from the outer one and from what that may import; the outer one knows none of them, and
# they do not know each other. Whoever may import the outer one may import them.
INNER = ("commands/compare", "commands/run", "commands/sweep", "data/sources")


def _room(module: str) -> str:
    """The room of ``kd.a.b.c``: a folder, or a module beside the folders."""
    _, *parts = module.split(".")
    inner = "/".join(parts[:2])
    return inner if inner in INNER else parts[0] if parts else "__init__"


def _may_import(room: str, other: str) -> bool:
    outer, _, _ = room.partition("/")
    other_outer, _, inside = other.partition("/")
    if room == other:
        return True
    return not inside and room != outer if outer == other_outer else other_outer in BELOW[outer]


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {_module(path): path for path in PACKAGE}


def _named_modules(path: Path) -> set[str]:
    """Modules of the package that the file imports, at whatever depth, or names in a string of their own."""
    names = _imports(path) & set(MODULES)
    names |= {name.rpartition(".")[0] for name in _imports(path) if name.rpartition(".")[0] in MODULES}
    strings = (node.value for node in ast.walk(_tree(path)) if isinstance(node, ast.Constant))
    return names | {text.partition(":")[0] for text in strings if isinstance(text, str)} & set(MODULES)


def test_every_file_of_the_package_is_in_a_room_of_the_table() -> None:
    assert {_room(module).partition("/")[0] for module in MODULES} == set(BELOW)


@pytest.mark.parametrize("path", PACKAGE, ids=_id)
def test_every_import_leads_down(path: Path) -> None:
    """At whatever depth it stands, under ``TYPE_CHECKING`` or as a module's name in a string."""
    own = _room(_module(path))
    named = _named_modules(path) - ({"kd"} if own != "__init__" else set())  # a text such as "kd" is no import
    assert not {name for name in named if not _may_import(own, _room(name))}
    whole = [node for node in ast.walk(_tree(path)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not [node for node in whole if isinstance(node, ast.ImportFrom) and (node.level or node.module == "kd")]
    assert "kd" not in {alias.name for node in whole if isinstance(node, ast.Import) for alias in node.names}


def test_the_table_allows_and_refuses_what_it_says() -> None:
    """So that a slip in its rule is seen."""
    assert _may_import("commands/sweep", "commands")
    assert _may_import("cli", "commands/sweep")
    assert _may_import("data/sources", "storage")
    assert _may_import("training", "data/sources")
    assert not _may_import("commands/sweep", "commands/compare")
    assert not _may_import("commands", "commands/run")
    assert not _may_import("data", "data/sources")
    assert not _may_import("models", "data")
    assert not _may_import("data/sources", "models")
    assert not _may_import("storage", "data/sources")
    assert not _may_import("classifier", "commands")


@cache
def _at_import(path: Path) -> set[str]:
    """What is imported together with the file: not what its functions import, nor what is for type checkers alone."""
    names: set[str] = set()
    for node in _tree(path).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _with_all_it_imports(module: str) -> set[str]:
    """Every name that is imported when this module is, inside the package by way of its other modules."""
    seen, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
            waiting += [*_at_import(MODULES[name]), *parents]
    return seen


@pytest.mark.parametrize("module", ["kd.cli", "kd.commands", "kd.methods"])
def test_help_is_answered_without_torch(module: str) -> None:
    assert not {name for name in _with_all_it_imports(module) if name.split(".")[0] in {"torch", "matplotlib", "scipy"}}


def test_data_in_memory_needs_no_library_of_images() -> None:
    assert not {name for name in _with_all_it_imports("kd.data") if name.split(".")[0] in {"PIL", "torchvision"}}
    assert "PIL" in {name.split(".")[0] for name in _with_all_it_imports("kd.data.sources")}


def test_scikit_learn_is_imported_only_where_its_face_is_used() -> None:
    imported = {module: _with_all_it_imports(f"kd.{module}") for module in kd._MODULES}
    assert {module for module, names in imported.items() if any(n.startswith("sklearn") for n in names)} == {
        "classifier"
    }


def test_the_table_of_methods_names_what_it_does_not_import() -> None:
    assert not {name for name in _imports(MODULES["kd.methods.table"]) if name.split(".")[0] in ("kd", "torch")}


def test_the_tree_in_the_docs_is_the_tree_on_disk() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = [text for text in page.split("```")[1::2] if text.startswith("\nkd/ ")]
    told, above = [], list[str]()
    for line in block.strip("\n").split("\n"):
        name, _, meaning = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], name.rstrip("/")]
        told.append("/".join(above))
        assert meaning.strip(), f"{line!r} says only the name"
    package = ROOT / "kd"
    files = {path for path in PACKAGE if path.name != "__init__.py" or path.parent == package}
    folders = {path.parent for path in PACKAGE}
    assert sorted(told) == sorted(path.relative_to(ROOT).as_posix() for path in files | folders)


def test_a_constant_is_read_at_use_never_frozen_by_a_from_import() -> None:
    for path in SOURCES:
        assert not [name for name in _imports(path) if name.startswith("config.")], path


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


def test_no_device_is_written_into_the_code_and_nothing_unsafe_is_called() -> None:
    for path in [*SOURCES, *RECIPES]:
        names = [name for name, _ in _calls(path)]
        assert not [name for name in names if name.endswith(".cuda")], path
        assert not {"eval", "exec", "pickle.load", "pickle.loads", "os.system"} & set(names), path
        assert not {name.split(".")[0] for name in _imports(path)} & {"pickle", "urllib", "requests", "socket"}, path


def test_the_package_prints_only_through_its_console() -> None:
    assert [_id(path) for path in PACKAGE if "print" in [name for name, _ in _calls(path)]] == []


def test_a_module_only_defines_at_import() -> None:
    """Top-level statements are definitions; only the guard for running as a program may do something."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for path, node in ((file, node) for file in SOURCES for node in _tree(file).body):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in {"__name__ == '__main__'", "TYPE_CHECKING"}
        assert isinstance(node, allowed) or docstring or guard, (path, ast.unparse(node))


def test_a_file_fits_into_one_sitting() -> None:
    lines = {_id(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*SOURCES, *RECIPES]}
    assert {path: count for path, count in lines.items() if count > 300} == {}
