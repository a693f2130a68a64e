"""Precomputed logits as a teacher: inputs are looked up by a hash of their content, never by position."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.data.datasets import hash_input
from kd.data.loaders import make_loader

_MISSING = -1


class LogitLookup(nn.Module):
    """A teacher without weights that returns the stored logits of each input it recognises.

    Inputs are identified by a BLAKE2b hash of their bytes, so a shuffled loader cannot mix up rows. Hashes and logits
    are buffers and therefore part of ``state_dict()``.

    Args:
        known: [N, 2] int64, hashes of the inputs (see ``hash_inputs``).
        logits: [N, K] float32, one row per hash.
    """

    def __init__(self, known: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.known: Tensor
        self.logits: Tensor
        self.register_buffer("known", known)
        self.register_buffer("logits", logits)
        self._row_of: dict[tuple[int, ...], int] = {}
        self.register_load_state_dict_post_hook(lambda module, _: module._row_of.clear())  # type: ignore[no-untyped-call]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits [B, K] of inputs [B, ...].

        Raises:
            ValueError: no logits are stored for an input.
        """
        if not self._row_of:
            self._row_of.update(_find_first_rows(self.known))
        rows = [self._row_of.get(tuple(digest), _MISSING) for digest in hash_inputs(inputs).tolist()]
        if missing := rows.count(_MISSING):
            raise ValueError(
                f"no stored logits for {missing:,} of {len(rows):,} inputs. Stored logits are valid only for the "
                "inputs they were computed from: the same dataset, without augmentation."
            )
        return self.logits[torch.tensor(rows, device=self.logits.device)]


def build_lookup(parts: Iterable[tuple[Dataset[Any], Sequence[int]]], logits: Tensor) -> LogitLookup:
    """Build a lookup teacher for some splits of a dataset.

    If identical inputs have different logits, the first row wins and a warning is issued.

    Args:
        parts: for each split, samples (input, ...) and the row of ``logits`` for each sample.
        logits: [R, K]; may contain rows of other samples too.
    """
    hashes, selected_logits = [], []
    for dataset, rows in parts:
        hashes += [hash_inputs(batch[0]) for batch in make_loader(dataset, batch_size=256)]
        selected_logits.append(logits[torch.as_tensor(rows)])
    teacher = LogitLookup(torch.cat(hashes), torch.cat(selected_logits))
    first_row = _find_first_rows(teacher.known)
    rows_used = torch.tensor([first_row[tuple(digest)] for digest in teacher.known.tolist()])
    conflicts = int((teacher.logits != teacher.logits[rows_used]).any(dim=1).sum())
    if conflicts:
        warnings.warn(
            f"{conflicts:,} of {len(rows_used):,} inputs are identical to an earlier input but have different "
            "teacher logits; the logits of the first one are used",
            stacklevel=2,
        )
    return teacher


def hash_inputs(inputs: Tensor) -> Tensor:
    """Return a hash [B, 2] int64 of the content of each input of a batch [B, ...]."""
    rows = inputs.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    joined = b"".join(map(hash_input, rows))
    return torch.frombuffer(bytearray(joined), dtype=torch.int64).reshape(len(rows), -1)


def _find_first_rows(known: Tensor) -> dict[tuple[int, ...], int]:
    """Map each hash to its first row."""
    first_row: dict[tuple[int, ...], int] = {}
    for row, digest in enumerate(known.tolist()):
        first_row.setdefault(tuple(digest), row)
    return first_row
