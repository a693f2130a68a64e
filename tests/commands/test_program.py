"""What a program prints: no warning of any package controls the terminal."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, warnings
from kd.commands.program import exit_status
sys.exit(exit_status(lambda: warnings.warn("no glyph for \\x1b]0;title\\x07 in this font, \\udcff")))
"""


def test_control_characters_in_warnings_are_printed_as_escapes() -> None:
    outcome = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True)
    assert b"warning: no glyph for \\x1b]0;title\\x07 in this font, \\udcff\n" in outcome.stderr
    assert b"\x1b" not in outcome.stderr
