"""Import rules between modules and forbidden constructs, checked statically on the source."""

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
    """Return all modules imported in the file, also inside functions; ``from a import b`` as ``a`` and ``a.b``."""
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


def test_package_and_recipes_do_not_import_the_pipeline() -> None:
    for path in [*PACKAGE, *RECIPES]:
        assert not {name.split(".")[0] for name in _imports(path)} & set(ROOT_MODULES), path


@pytest.mark.parametrize("name", ROOT_MODULES[1:])
def test_nothing_imports_main_and_config_imports_no_root_file(name: str) -> None:
    allowed = {
        "config": set(),
        "models": {"config"},
        "train": {"config"},
        "distillation": {"config", "models"},
        "visualization": {"config"},
    }
    assert _imports(ROOT / f"{name}.py") & set(ROOT_MODULES) <= allowed[name]


# Layers of the package, highest first. A unit (folder or top-level module) may import only units of lower layers.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("deploy",),
    ("report", "teachers"),
    ("evaluation", "training"),
    ("methods",),
    ("data", "models"),
    ("storage",),
    ("losses",),
    ("devices", "imports", "seeding"),
    ("arms", "checks", "console", "formatting", "types"),
)
BELOW = {
    unit: {name for lower in LAYERS[number + 1 :] for name in lower}
    for number, layer in enumerate(LAYERS)
    for unit in layer
}
# The Python interfaces of the package do not import the commands or the report.
BELOW["classifier"] = BELOW["regressor"] = {"teachers", *BELOW["teachers"]}
BELOW["__init__"] = {"classifier", "regressor", *BELOW["classifier"]}
# A nested folder may import its parent folder and everything that the parent may import, but not its siblings. The
# parent does not import nested folders. Units that may import the parent may import its nested folders.
INNER = ("commands/compare", "commands/run", "commands/sweep", "data/sources")


def _unit(module: str) -> str:
    """Return the unit of ``kd.a.b.c``: a folder or a top-level module."""
    _, *parts = module.split(".")
    inner = "/".join(parts[:2])
    return inner if inner in INNER else parts[0] if parts else "__init__"


def _may_import(unit: str, target: str) -> bool:
    parent, _, _ = unit.partition("/")
    target_parent, _, nested = target.partition("/")
    if unit == target:
        return True
    return not nested and unit != parent if parent == target_parent else target_parent in BELOW[parent]


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {_module(path): path for path in PACKAGE}


def _named_modules(path: Path) -> set[str]:
    """Return the package's modules that the file imports anywhere or that are named by a string constant."""
    names = _imports(path) & set(MODULES)
    names |= {name.rpartition(".")[0] for name in _imports(path) if name.rpartition(".")[0] in MODULES}
    strings = (node.value for node in ast.walk(_tree(path)) if isinstance(node, ast.Constant))
    return names | {text.partition(":")[0] for text in strings if isinstance(text, str)} & set(MODULES)


def test_every_file_of_the_package_is_in_the_table() -> None:
    assert {_unit(module).partition("/")[0] for module in MODULES} == set(BELOW)


@pytest.mark.parametrize("path", PACKAGE, ids=_id)
def test_every_import_goes_to_a_lower_layer(path: Path) -> None:
    """Includes imports in functions and under ``TYPE_CHECKING``, and module names in strings."""
    unit = _unit(_module(path))
    modules = _named_modules(path) - ({"kd"} if unit != "__init__" else set())  # the string "kd" is not an import
    assert not {name for name in modules if not _may_import(unit, _unit(name))}
    imports = [node for node in ast.walk(_tree(path)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not [node for node in imports if isinstance(node, ast.ImportFrom) and (node.level or node.module == "kd")]
    assert "kd" not in {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}


def test_the_table_allows_and_refuses_known_examples() -> None:
    """Guards against mistakes in ``_may_import``."""
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
def _top_level_imports(path: Path) -> set[str]:
    """Return the imports that run with the file, without imports in functions or under ``TYPE_CHECKING``."""
    names: set[str] = set()
    for node in _tree(path).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _transitive_imports(module: str) -> set[str]:
    """Return all names that are imported with this module, directly or through other modules of the package."""
    seen, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
            waiting += [*_top_level_imports(MODULES[name]), *parents]
    return seen


@pytest.mark.parametrize("module", ["kd.cli", "kd.commands", "kd.methods"])
def test_help_does_not_import_torch(module: str) -> None:
    assert not {name for name in _transitive_imports(module) if name.split(".")[0] in {"torch", "matplotlib", "scipy"}}


def test_matplotlib_is_imported_only_to_draw() -> None:
    """A repeated run draws nothing: every figure is up to date."""
    imported = {module: _top_level_imports(path) for module, path in MODULES.items()}
    assert [m for m, names in imported.items() if any(name.split(".")[0] == "matplotlib" for name in names)] == []


def test_data_in_memory_needs_no_image_library() -> None:
    assert not {name for name in _transitive_imports("kd.data") if name.split(".")[0] in {"PIL", "torchvision"}}
    assert "PIL" in {name.split(".")[0] for name in _transitive_imports("kd.data.sources")}


def test_scikit_learn_is_imported_only_by_the_estimators() -> None:
    imported = {module: _transitive_imports(f"kd.{module}") for module in kd._MODULES}
    assert {module for module, names in imported.items() if any(n.startswith("sklearn") for n in names)} == {
        "classifier",
        "regressor",
    }


def test_the_table_of_methods_does_not_import_the_factories() -> None:
    assert not {name for name in _imports(MODULES["kd.methods.table"]) if name.split(".")[0] in ("kd", "torch")}


def test_the_tree_in_the_docs_matches_the_files() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = [text for text in page.split("```")[1::2] if text.startswith("\nkd/ ")]
    listed, parents = [], list[str]()
    for line in block.strip("\n").split("\n"):
        name, _, meaning = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name.rstrip("/")]
        listed.append("/".join(parents))
        assert meaning.strip(), f"{line!r} has no description"
    package = ROOT / "kd"
    files = {path for path in PACKAGE if path.name != "__init__.py" or path.parent == package}
    folders = {path.parent for path in PACKAGE}
    assert sorted(listed) == sorted(path.relative_to(ROOT).as_posix() for path in files | folders)


def test_config_constants_are_never_imported_by_name() -> None:
    for path in SOURCES:
        assert not [name for name in _imports(path) if name.startswith("config.")], path


def test_no_utils_module_and_no_source_ignored_by_git() -> None:
    assert not [path for path in PACKAGE if path.name == "utils.py"]
    assert not (ROOT / "models" / "__init__.py").exists()
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/models/", "/results/"} <= set(ignored)
    assert not {"models", "models/", "results", "results/"} & set(ignored)


def test_the_public_names_are_few_sorted_and_exist() -> None:
    assert len(kd.__all__) <= 28
    assert kd.__all__ == sorted(kd.__all__)
    assert all(hasattr(kd, name) for name in kd.__all__)


def test_the_public_names_match_the_type_checkers_imports_and_the_lazy_ones() -> None:
    (guard,) = (node for node in _tree(ROOT / "kd" / "__init__.py").body if isinstance(node, ast.If))
    imports = [node for node in guard.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(guard.body)
    homes = {alias.asname or alias.name: node.module for node in imports for alias in node.names}
    assert set(homes) == set(kd.__all__)
    assert homes == {name: f"kd.{module}" for module, names in kd._MODULES.items() for name in names}


def test_a_public_name_comes_from_its_module_and_unknown_names_are_refused() -> None:
    for module, names in kd._MODULES.items():
        assert all(getattr(kd, name) is getattr(importlib.import_module(f"kd.{module}"), name) for name in names)
    assert set(kd.__all__) <= set(dir(kd))
    with pytest.raises(AttributeError, match="module 'kd' has no attribute 'nonsense'"):
        kd.nonsense  # noqa: B018


def test_torch_loads_files_in_one_place_and_safely() -> None:
    loads = [(_id(path), call) for path in SOURCES for name, call in _calls(path) if name in {"torch.load", "load"}]
    assert {place for place, _ in loads} == {"kd/storage/weights.py"}
    for _, call in loads:
        assert [
            k.value.value for k in call.keywords if k.arg == "weights_only" and isinstance(k.value, ast.Constant)
        ] == [True]


def test_no_device_is_hard_coded_and_no_unsafe_function_is_called() -> None:
    for path in [*SOURCES, *RECIPES]:
        names = [name for name, _ in _calls(path)]
        assert not [name for name in names if name.endswith(".cuda")], path
        assert not {"eval", "exec", "pickle.load", "pickle.loads", "os.system"} & set(names), path
        assert not {name.split(".")[0] for name in _imports(path)} & {"pickle", "urllib", "requests", "socket"}, path


def test_the_package_prints_only_through_its_console() -> None:
    assert [_id(path) for path in PACKAGE if "print" in [name for name, _ in _calls(path)]] == []


def test_a_module_only_defines_at_import() -> None:
    """Top-level statements are definitions, except in the guard for running as a program."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for path, node in ((file, node) for file in SOURCES for node in _tree(file).body):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in {"__name__ == '__main__'", "TYPE_CHECKING"}
        assert isinstance(node, allowed) or docstring or guard, (path, ast.unparse(node))


def test_files_have_at_most_300_lines() -> None:
    lines = {_id(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*SOURCES, *RECIPES]}
    assert {path: count for path, count in lines.items() if count > 300} == {}
