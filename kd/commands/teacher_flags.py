"""``--teacher``: a model to train, a model with its weights, or logits or probabilities from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ANSWERS = ("logits", "probabilities")  # what stands in place of a model's name where there are only answers
_FILES = (".pth", ".pt", ".safetensors", ".npy", ".npz", ".csv")


class TeacherChoice(NamedTuple):
    """A teacher as the command line names it: a model, and the file of its weights where it is trained.

    Or the kind of its answers, and their file.
    """

    spec: str
    file: Path | None

    @property
    def is_answers(self) -> bool:
        return self.spec in ANSWERS


def chosen_teachers(texts: Sequence[str]) -> list[TeacherChoice]:
    """The teachers that ``--teacher`` names, at least one.

    Raises:
        ValueError: a file without the name of its model or of its kind.
    """
    chosen = []
    for text in texts or ("convnet",):
        spec, sign, file = text.partition("=")
        if not spec or bool(sign) != bool(file) or spec.endswith(_FILES) or (spec in ANSWERS and not file):
            raise ValueError(
                "--teacher must be NAME, NAME=FILE for trained weights, or logits=FILE or probabilities=FILE for "
                f"answers alone. Got {text!r} instead. Say of which model the weights are, as in --teacher "
                "cnn:32=teacher.pth."
            )
        chosen.append(TeacherChoice(spec, Path(file) if sign else None))
    return chosen
