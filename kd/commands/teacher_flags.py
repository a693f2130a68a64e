"""``--teacher``: a model to train, a model with its weights, or logits or probabilities from a file; ``--student``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

OUTPUT_KINDS = ("logits", "probabilities")  # used in place of a model name for precomputed outputs
_FILES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar", ".npy", ".npz", ".csv")


class ModelChoice(NamedTuple):
    """A value of ``--teacher`` or ``--student``.

    Attributes:
        spec: model name, or a kind of outputs.
        file: of the weights or outputs; None for a model without a file.
        entry: name of the weights if the file is a checkpoint with several, else "".
    """

    spec: str
    file: Path | None
    entry: str = ""

    def __str__(self) -> str:
        entry = f"::{self.entry}" if self.entry else ""
        return self.spec if self.file is None else f"{self.spec}={self.file}{entry}"

    @property
    def is_precomputed(self) -> bool:
        return self.spec in OUTPUT_KINDS


def split_entry(text: str) -> tuple[str, str]:
    """Split ``FILE::ENTRY`` into the path and the name of the weights, which is "" if there is none."""
    file, sign, entry = text.rpartition("::")
    return (file, entry) if sign and file else (text, "")


def parse_teachers(texts: Sequence[str]) -> list[ModelChoice]:
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
        choices.append(_choose(spec, file))
    return choices


def parse_student(text: str) -> ModelChoice:
    """Parse the value of ``--student``.

    Raises:
        ValueError: a value of another form, such as a file without a model name.
    """
    spec, sign, file = text.partition("=")
    if not spec or bool(sign) != bool(file) or spec.endswith(_FILES) or spec in OUTPUT_KINDS:
        raise ValueError(
            "--student must be NAME, or NAME=FILE for pretrained weights. Got "
            f"{text!r} instead. Weights need their model's name: --student cnn:16=student.pth."
        )
    return _choose(spec, file)


def _choose(spec: str, file: str) -> ModelChoice:
    path, entry = (file, "") if spec in OUTPUT_KINDS else split_entry(file)
    return ModelChoice(spec, Path(path) if path else None, entry)
