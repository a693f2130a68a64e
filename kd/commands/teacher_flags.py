"""``--teacher``: a model to train, a model with its weights, or logits or probabilities from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

OUTPUT_KINDS = ("logits", "probabilities")  # used in place of a model name for precomputed outputs
_FILES = (".pth", ".pt", ".safetensors", ".npy", ".npz", ".csv")


class TeacherChoice(NamedTuple):
    """A value of ``--teacher``: a model name, with a weights file or None; or a kind of outputs, with their file."""

    spec: str
    file: Path | None

    def __str__(self) -> str:
        return self.spec if self.file is None else f"{self.spec}={self.file}"

    @property
    def is_precomputed(self) -> bool:
        return self.spec in OUTPUT_KINDS


def parse_teachers(texts: Sequence[str]) -> list[TeacherChoice]:
    """Parse the values of ``--teacher``; without any, the teacher is ``convnet``.

    Raises:
        ValueError: a value of another form, such as a file without a model name.
    """
    choices = []
    for text in texts or ("convnet",):
        spec, sign, file = text.partition("=")
        if not spec or bool(sign) != bool(file) or spec.endswith(_FILES) or (spec in OUTPUT_KINDS and not file):
            raise ValueError(
                "--teacher must be NAME, NAME=FILE for trained weights, or logits=FILE or probabilities=FILE for "
                f"precomputed outputs. Got {text!r} instead. Weights need their model's name: --teacher "
                "cnn:32=teacher.pth."
            )
        choices.append(TeacherChoice(spec, Path(file) if sign else None))
    return choices
