"""docs/own_data.md, on data: its example prints what stands below it, and every kind of source is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import main
from kd.data.sources import kinds

PAGE = (Path(main.__file__).parent / "docs" / "own_data.md").read_text(encoding="utf-8")
(TEXT,) = re.findall(r"^## Data .*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_prints_what_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    (program,), (printed,) = (re.findall(f"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("python", "text"))
    exec(program, {})
    assert capsys.readouterr().out == printed


def test_every_kind_that_an_error_names_is_in_the_table() -> None:
    for kind in re.findall(r"\w+(?=:NAME)|\.npz|\.py\b|IDX|mnist", kinds.KINDS):
        assert kind in TEXT
