"""Imports at run time: optional libraries (extras), and classes and functions from user files (plugins)."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from kd.checks import did_you_mean, similar_paths
from kd.console import say


def is_plugin(spec: str) -> bool:
    """Return whether the text refers to a Python file: ``file.py`` or ``file.py:Name``."""
    return spec.endswith(".py") or spec.rpartition(":")[0].endswith(".py")


def load_plugin(spec: str) -> Any:
    """Return the object ``Name`` from ``file.py:Name``. Runs the file's code and prints a line about it.

    The file may import modules and packages beside it, which then take precedence over installed ones. Its classes and
    functions, and theirs, can be sent to other processes (``kd.training.pool``).

    Raises:
        ValueError: the name is missing, the file's code fails, or the file does not define the name.
        OSError: the file cannot be read.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name:
        raise ValueError(
            f"{spec!r} must be FILE.py:NAME, a Python file and a name defined in it, such as net.py:Student."
        )
    path = Path(file)
    if not path.is_file():
        hint = similar_paths(path) or "Check its path."
        raise FileNotFoundError(f"there is no file {path} to load {name!r} from. {hint}")
    say(f"{path}: running its code for {name}")
    module = run_file(path)
    if name not in vars(module):
        public = [key for key in vars(module) if not key.startswith("_")]
        hint = did_you_mean(name, public, f"Define it, or name one of its objects: {', '.join(public) or 'none'}.")
        raise ValueError(f"{path} defines no {name!r}. {hint}")
    return getattr(module, name)


class _Loader(importlib.machinery.SourceFileLoader):
    """Source loader without bytecode cache: writes no ``__pycache__`` and never runs stale code after an edit."""

    def path_stats(self, path: str) -> Any:
        raise OSError(f"{path} is always compiled from source")


_NEVER_LOCAL = sys.stdlib_module_names | {"kd", "numpy", "torch", "torchvision"}


def find_local_modules(path: Path) -> dict[str, Path]:
    """Return the modules and packages beside a Python file that it imports, directly or through each other, by name.

    Only import statements count. The standard library and the libraries that kd itself uses are never local.
    """
    modules: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        for name in _list_imports(waiting.pop()) - _NEVER_LOCAL - modules.keys():
            candidates = (path.parent / f"{name}.py", path.parent / name / "__init__.py")
            if file := next((candidate for candidate in candidates if candidate.is_file()), None):
                modules[name] = file
                waiting += list_files({name: file})
    return modules


def list_files(modules: Mapping[str, Path]) -> list[Path]:
    """Return all files of modules from ``find_local_modules``; of a package, every file that Python could import."""
    suffixes = set(importlib.machinery.all_suffixes())
    files = []
    for file in modules.values():
        is_package = file.name == "__init__.py"
        files += [f for f in sorted(_walk(file.parent)) if f.suffix in suffixes] if is_package else [file]
    return files


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, also behind symbolic links to folders, which Python's imports follow."""
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:  # a circular link
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(path, name) for name in names)


def digest_source(spec: str) -> str:
    """Return the SHA-256 of the file of ``FILE.py:NAME`` and of the modules beside it that it imports.

    A file that does not exist has the digest of nothing; ``load_plugin`` raises the error.
    """
    path = Path(spec if spec.endswith(".py") else spec.rpartition(":")[0])
    files = [path, *list_files(find_local_modules(path))] if path.is_file() else []
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _list_imports(file: Path) -> set[str]:
    """Return the top-level names in the import statements of a file; none if it is not valid Python."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


class _LocalFinder:
    """Import hook for local modules and the submodules of local packages."""

    def __init__(self, modules: Mapping[str, Path]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> Any:
        if path is None and name in self.modules:
            file = self.modules[name]
            folders = [str(file.parent)] if file.name == "__init__.py" else None
            loader = _Loader(name, str(file))
            return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=folders)
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name.partition(".")[0] in self.modules else None
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


@contextmanager
def _importing_local_modules(path: Path) -> Iterator[None]:
    """Let a file import the modules beside it inside the block, newly read; hide other modules of these names."""
    import cloudpickle

    modules = find_local_modules(path)
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in modules}
    finder: Any = _LocalFinder(modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in hidden.items():
            if not isinstance(getattr(module, "__loader__", None), _Loader):  # not of an earlier plugin
                sys.modules[name] = module
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in modules and isinstance(getattr(module, "__loader__", None), _Loader):
                cloudpickle.register_pickle_by_value(module)  # other processes do not search the file's folder


def run_file(path: Path) -> ModuleType:
    """Run a Python file and return it as a module. Objects that it defines can be sent to other processes.

    Raises:
        ValueError: the file's code fails.
    """
    import cloudpickle

    # The prefix keeps a user's random.py from replacing the standard module in sys.modules.
    name = f"kd_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # needed while the code runs: dataclasses look up their module there
    try:
        with _importing_local_modules(path):
            spec.loader.exec_module(module)
    except SystemExit as error:
        del sys.modules[name]
        raise ValueError(
            f"{path} called sys.exit({error.code!r}) while its code ran. A program's last lines belong below "
            'if __name__ == "__main__":, so that the file can be loaded without running the program.'
        ) from error
    except Exception as error:  # user code can raise anything
        del sys.modules[name]
        raise ValueError(f"{path} failed while its code ran ({type(error).__name__}: {error}). Correct it.") from error
    cloudpickle.register_pickle_by_value(module)  # other processes cannot import it by its name
    return module


class MissingExtraError(ImportError):
    """An optional library is not installed. The message contains the command that installs it."""


def import_extra(module: str, *, library: str, name: str, needed_for: str) -> Any:
    """Import and return a module of an optional library.

    Args:
        module: dotted name of the module.
        library: name of the library in the error.
        name: extra that installs the library.
        needed_for: feature that needs the library, in the error.

    Raises:
        MissingExtraError: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{needed_for} needs {library}, which is not installed: pip install 'paired-distillation[{name}]'."
        ) from error
