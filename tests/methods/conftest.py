"""The file of a method of the user's own, in a temporary folder."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.methods.own_methods import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file with this code and return its path."""

    def write_file(code: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(code))
        return str(path)

    return write_file
