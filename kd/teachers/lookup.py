"""A teacher of which only the answers are there, as a model: asked for an item, it says what its file says of it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd.data.loaders import make_loader

_DIGEST = 16  # bytes


class LogitLookup(nn.Module):
    """Knows each item by its content, so that no order can be mistaken; an item it does not know is an error.

    It has no parameters. Its answers are buffers, and so in its weights file.

    Args:
        known: [N, 2] int64, the items' digests (``digests``).
        logits: [N, K] float32, the answer to each.
    """

    def __init__(self, known: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.known: Tensor
        self.logits: Tensor
        self.register_buffer("known", known)
        self.register_buffer("logits", logits)
        self._rows: dict[tuple[int, ...], int] = {}
        self.register_load_state_dict_post_hook(lambda module, _: module._rows.clear())  # type: ignore[no-untyped-call]

    def forward(self, inputs: Tensor) -> Tensor:
        """The answers [B, K] to these items [B, ...].

        Raises:
            ValueError: the file has no answer to one of them.
        """
        if not self._rows:
            self._rows.update(_first_rows(self.known))
        rows = [self._rows.get(tuple(digest), -1) for digest in hash_inputs(inputs).tolist()]
        if unknown := rows.count(-1):
            raise ValueError(
                f"the teacher's file has no answer to {unknown:,} of {len(rows):,} items. It knows the items of "
                "the data that it was made for, as they are: not augmented, not others."
            )
        return self.logits[torch.tensor(rows, device=self.logits.device)]


def build_lookup(parts: Iterable[tuple[Dataset[Any], Sequence[int]]], logits: Tensor) -> LogitLookup:
    """A teacher for the items of these parts, from the logits [R, K] of more items.

    Where two items are the same and their answers are not, the first one's counts, with a warning.

    Args:
        parts: items (input, ...), and for each the row of its answer.
    """
    known, predictions = [], []
    for dataset, rows in parts:
        known += [hash_inputs(batch[0]) for batch in make_loader(dataset, batch_size=256)]
        predictions.append(logits[torch.as_tensor(rows)])
    teacher = LogitLookup(torch.cat(known), torch.cat(predictions))
    first = _first_rows(teacher.known)
    own = torch.tensor([first[tuple(digest)] for digest in teacher.known.tolist()])
    other = int((teacher.logits != teacher.logits[own]).any(dim=1).sum())
    if other:
        warnings.warn(
            f"{other:,} of {len(own):,} items are the same as an earlier one, but the teacher's file answers "
            "otherwise; its answer to the earlier one counts",
            stacklevel=2,
        )
    return teacher


def hash_inputs(inputs: Tensor) -> Tensor:
    """[B, 2] int64 of the content of each item of a batch [B, ...]."""
    rows = inputs.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    joined = b"".join(hashlib.blake2b(row.data, digest_size=_DIGEST).digest() for row in rows)
    return torch.frombuffer(bytearray(joined), dtype=torch.int64).reshape(len(rows), -1)


def _first_rows(known: Tensor) -> dict[tuple[int, ...], int]:
    """For each digest the first row that has it."""
    found: dict[tuple[int, ...], int] = {}
    for row, digest in enumerate(known.tolist()):
        found.setdefault(tuple(digest), row)
    return found
