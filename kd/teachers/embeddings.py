"""Teachers that return embeddings instead of logits: read from a file, as features for a fitted head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from kd.checks import require
from kd.teachers.logit_files import read_rows

KIND = "embeddings"


def read_embeddings(
    path: Path | str, *, samples: int, ids: Sequence[str] | None = None, id_column: str = "id"
) -> Tensor:
    """Read embeddings [N, D] float32 from a file, row i for sample i.

    Args:
        path: ``.npy`` [N, D]; ``.npz`` with such an array, named ``embeddings`` or the only one; ``.csv`` with a column
            per feature, with or without a header.
        samples: number of samples N of the dataset.
        ids, id_column: see ``kd.teachers.logit_files.read_logits``.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, does not fit the data, has values that are not finite, or the same row for
            every sample.
    """
    path = Path(path)
    require(ids is None or len(ids) == samples, "ids", len(ids or ()), f"one for each of {samples:,} samples")
    _, values = read_rows(path, KIND, samples, ids, id_column, check_columns=_require_table)
    if bool((values == values[:1]).all()):
        raise ValueError(
            f"invalid teacher {KIND} in {path}: its rows should differ. Got the same one for every sample."
        )
    return values


def _require_table(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not shape[1]:
        raise ValueError(
            f"it must be [samples, features], one row per sample. Got shape {list(shape)}. Average tokens or positions"
        )
