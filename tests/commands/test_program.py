"""What a program prints: errors in words, and no warning of any package that controls the terminal."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from kd.commands.program import exit_status

CODE = """
import sys, warnings
from kd.commands.program import exit_status
sys.exit(exit_status(lambda: warnings.warn("no glyph for \\x1b]0;title\\x07 in this font, \\udcff")))
"""


def test_control_characters_in_warnings_are_printed_as_escapes() -> None:
    outcome = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True)
    assert b"warning: no glyph for \\x1b]0;title\\x07 in this font, \\udcff\n" in outcome.stderr
    assert b"\x1b" not in outcome.stderr


def test_an_error_in_words_is_printed_without_its_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fail_in_words() -> None:
        raise OSError(errno.ENOTDIR, "cannot write to folder a: Not a directory. Choose another folder.")

    assert exit_status(fail_in_words) == 1
    assert capsys.readouterr().err.strip() == (
        "error: cannot write to folder a: Not a directory. Choose another folder."
    )
    assert exit_status((tmp_path / "none").unlink) == 1  # Python's own names the file
    assert str(tmp_path / "none") in capsys.readouterr().err
