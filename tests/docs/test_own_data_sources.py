"""The section on data in docs/own_data.md: its example prints the documented output; all kinds of source are listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import main
from kd.data.sources import kinds

PAGE = (Path(main.__file__).parent / "docs" / "own_data.md").read_text(encoding="utf-8")
(TEXT,) = re.findall(r"^## Data .*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_prints_the_documented_output(capsys: pytest.CaptureFixture[str]) -> None:
    (program,), (printed,) = (re.findall(f"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("python", "text"))
    exec(program, {})
    assert capsys.readouterr().out == printed


def test_every_kind_in_the_error_message_is_in_the_table() -> None:
    for kind in re.findall(r"\w+(?=:NAME)|\.npz|\.py\b|IDX|mnist", kinds.KINDS):
        assert kind in TEXT
