"""The package digest covers every module that can change a result, in any folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kd.storage.environment import (
    _RESULT_NEUTRAL,
    PACKAGE,
    _is_result_neutral,
    digest_package,
    package_digest,
    source_digest,
)
from kd.storage.run_folder import open_run

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent.as_posix() for path in FILES})
NEUTRAL_FOLDERS = {
    *("commands/compare", "commands/judge", "commands/predict", "commands/run", "commands/sweep", "report")
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's sources only. A test that changes it restores it."""
    folder = tmp_path_factory.mktemp("package")
    for path in FILES:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / path, folder / path)
    return folder


@pytest.mark.parametrize("folder", sorted({*FOLDERS} - NEUTRAL_FOLDERS))
def test_a_changed_byte_in_any_relevant_folder_changes_the_key(folder: str, package: Path) -> None:
    before = digest_package(package)
    assert before == digest_package(PACKAGE) == package_digest()
    relevant = [
        path
        for path in FILES
        if path.parent.as_posix() == folder and not _is_result_neutral(path.with_suffix("").as_posix())
    ]
    assert relevant
    for path in relevant:
        content = (package / path).read_bytes()
        (package / path).write_bytes(content + b"#")
        assert digest_package(package) != before, path
        (package / path).write_bytes(content)
    assert digest_package(package) == before


def test_a_changed_byte_in_any_folder_changes_the_complete_digest(package: Path) -> None:
    before = digest_package(package, complete=True)
    assert before == source_digest() != package_digest()
    for folder in FOLDERS:
        path = package / next(path for path in FILES if path.parent.as_posix() == folder)
        content = path.read_bytes()
        path.write_bytes(content + b"#")
        assert digest_package(package, complete=True) != before, folder
        path.write_bytes(content)


def test_opening_a_run_fixes_both_digests(tmp_path: Path) -> None:
    """Sources edited during a run must not be recorded as the loaded ones."""
    package_digest.cache_clear()
    source_digest.cache_clear()
    with open_run(tmp_path):
        assert package_digest.cache_info().currsize == source_digest.cache_info().currsize == 1


@pytest.mark.parametrize("folder", sorted(NEUTRAL_FOLDERS))
def test_a_changed_byte_in_a_display_folder_keeps_the_key(folder: str, package: Path) -> None:
    before = digest_package(package)
    contents = {path: (package / path).read_bytes() for path in FILES if path.parent.as_posix() == folder}
    for path in contents:
        (package / path).write_bytes(b"#")
    assert digest_package(package) == before
    for path, content in contents.items():
        (package / path).write_bytes(content)


def test_every_listed_neutral_module_exists() -> None:
    names = {path.with_suffix("").as_posix() for path in FILES} | {*FOLDERS}
    assert {*_RESULT_NEUTRAL.split()} <= names
