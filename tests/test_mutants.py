"""The mutation check (``tests/mutants.py``) can be run: each of its snippets occurs once, and its tests exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in (ROOT / "kd").rglob("*.py")}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.meaning.replace(" ", "-"))
def test_the_snippet_of_a_mutant_occurs_once_and_its_tests_exist(mutant: Mutant, sources: dict[Path, str]) -> None:
    assert sum(code.count(mutant.original) for code in sources.values()) == 1
    assert all((ROOT / name).is_file() for name in mutant.tests.split())
