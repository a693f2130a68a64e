"""Tables for tests, written as files and opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd.data.sources import Source, open_source, split_source
from kd.data.sources.partition import Splits
from kd.data.sources.table_encoding import Encoding, encoding_of

ROWS = 200


def make_columns(rows: int = ROWS, seed: int = 0) -> dict[str, list[str]]:
    """Return a table of text: numbers, categories, booleans, missing values, and columns without information."""
    rng = np.random.default_rng(seed)
    age = [f"{value:.1f}" for value in rng.normal(40, 10, rows)]
    columns = {
        "row": [str(number) for number in range(rows)],
        "age": ["NA" if rng.random() < 0.2 else value for value in age],
        "income": [f"{value:.3e}" for value in rng.lognormal(10, 1, rows)],
        "colour": [("red", "green", "blue", "")[int(k)] for k in rng.integers(0, 4, rows)],
        "town": [f"town {min(int(k), 30)}" for k in rng.geometric(0.3, rows)],
        "smoker": [("True", "FALSE", "false")[int(k)] for k in rng.integers(0, 3, rows)],
        "since": [f"2020-{1 + int(k) % 12:02d}-11" for k in rng.integers(0, 12, rows)],
        "name": [f"person {number}" for number in rng.permutation(rows)],
        "unit": ["cm"] * rows,
        "nothing": [""] * rows,
    }
    columns["kind"] = [("yes" if float(x) > 30_000 else "no") for x in columns["income"]]
    return columns


def write_table(path: Path, columns: dict[str, list[str]], separator: str = ",") -> Path:
    lines = [separator.join(columns), *(separator.join(row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def open_columns(tmp_path: Path, columns: dict[str, list[str]], target: str = "kind", **options: Any) -> Source:
    return open_source(write_table(tmp_path / "table.csv", columns), target=target, **options)


def split_columns(tmp_path: Path, columns: dict[str, list[str]], **options: Any) -> Splits:
    return split_source(open_columns(tmp_path, columns), **options)


def inputs_of(dataset: Any) -> torch.Tensor:
    return torch.stack([dataset[index][0] for index in range(len(dataset))])


def encoding(dataset: Any) -> Encoding:
    result = encoding_of(dataset)
    assert result is not None
    return result
