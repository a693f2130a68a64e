"""The digest of the package's own code: every module that may change a result is in it, wherever it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kd.storage.environment import _RESULT_NEUTRAL, PACKAGE, _is_result_neutral, digest_package, package_digest

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent.as_posix() for path in FILES})
WITHOUT_RESULTS = {"commands/compare", "commands/run", "commands/sweep", "report"}


def copied(folder: Path) -> Path:
    """The package's sources alone."""
    for path in FILES:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / path, folder / path)
    return folder


@pytest.mark.parametrize("folder", sorted({*FOLDERS} - WITHOUT_RESULTS))
def test_a_byte_changed_in_any_folder_that_counts_changes_the_key(folder: str, tmp_path: Path) -> None:
    package = copied(tmp_path)
    before = digest_package(package)
    assert before == digest_package(PACKAGE) == package_digest()
    counting = [
        path
        for path in FILES
        if path.parent.as_posix() == folder and not _is_result_neutral(path.with_suffix("").as_posix())
    ]
    assert counting
    for path in counting:
        content = (package / path).read_bytes()
        (package / path).write_bytes(content + b"#")
        assert digest_package(package) != before, path
        (package / path).write_bytes(content)
    assert digest_package(package) == before


@pytest.mark.parametrize("folder", sorted(WITHOUT_RESULTS))
def test_a_byte_changed_where_it_is_only_shown_changes_no_key(folder: str, tmp_path: Path) -> None:
    package = copied(tmp_path)
    before = digest_package(package)
    for path in FILES:
        if path.parent.as_posix() == folder:
            (package / path).write_bytes(b"#")
    assert digest_package(package) == before


def test_every_module_that_does_not_count_is_there() -> None:
    names = {path.with_suffix("").as_posix() for path in FILES} | {*FOLDERS}
    assert {*_RESULT_NEUTRAL.split()} <= names
