"""``--teacher``: a model to train, a model with its weights, or logits or probabilities from a file; ``--student``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kd.checks import require
from kd.imports import is_plugin
from kd.methods import method_named

PRETRAINED = "pretrained"  # in place of a file: the published weights of timm:NAME or torchvision:NAME
AUTO = "auto"  # a network that fits the data; see kd.commands.auto_network
EMBEDDINGS = "embeddings"
OUTPUT_KINDS = ("logits", "probabilities", EMBEDDINGS)  # in place of a model name, for precomputed outputs
FIT = "fit"  # value of --teacher-head
TRAINED_HERE = "a teacher trained here has the dataset's classes"
_FILES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar", ".npy", ".npz", ".csv")


class ModelChoice(NamedTuple):
    """A value of ``--teacher`` or ``--student``.

    Attributes:
        spec: model name, a kind of outputs, or the whole of FILE.onnx and hf:FOLDER.
        file: of the weights or outputs, or the folder; None for a model without a file.
        entry: name of the weights if the file is a checkpoint with several, or of an output of an ONNX file, else "".
    """

    spec: str
    file: Path | None
    entry: str = ""

    def __str__(self) -> str:
        entry = f"::{self.entry}" if self.entry else ""
        if self.is_onnx or self.is_huggingface:
            return f"{self.spec}{entry}"
        return self.spec if self.file is None else f"{self.spec}={self.file}{entry}"

    @property
    def is_precomputed(self) -> bool:
        return self.spec in OUTPUT_KINDS

    @property
    def is_onnx(self) -> bool:
        return self.spec.endswith(".onnx")

    @property
    def is_huggingface(self) -> bool:
        return self.spec.startswith("hf:")

    @property
    def is_pretrained(self) -> bool:
        return self.file == Path(PRETRAINED) and self.spec.partition(":")[0] in ("timm", "torchvision")

    @property
    def is_foreign(self) -> bool:
        """Whether the teacher comes with its own network and weights; see ``kd.commands.foreign_teachers``."""
        return self.is_onnx or self.is_huggingface or self.is_pretrained

    @property
    def may_be_loaded(self) -> bool:
        """Whether this is a network that comes with trained weights, or a user's file that may load some."""
        return not self.is_precomputed and (self.file is not None or is_plugin(self.spec))


def split_entry(text: str) -> tuple[str, str]:
    """Split ``FILE::ENTRY`` into the path and the name of the weights, which is "" if there is none."""
    file, sign, entry = text.rpartition("::")
    return (file, entry) if sign and file else (text, "")


def parse_teachers(texts: Sequence[str]) -> list[ModelChoice]:
    """Parse the values of ``--teacher``; without any, the teacher is ``auto``.

    Raises:
        ValueError: a value of another form, such as a file without a model name.
    """
    choices = []
    for text in texts or (AUTO,):
        if (foreign := _parse_foreign(text)) is not None:
            choices.append(foreign)
            continue
        spec, sign, file = text.partition("=")
        if not spec or bool(sign) != bool(file) or spec.endswith(_FILES) or (spec in OUTPUT_KINDS and not file):
            raise ValueError(
                "--teacher must be NAME, NAME=FILE for trained weights, FILE.onnx, hf:FOLDER, or logits=FILE, "
                f"probabilities=FILE or embeddings=FILE for precomputed outputs. Got {text!r} instead. Weights need "
                "their model's name: "
                "--teacher cnn:32=teacher.pth."
            )
        choices.append(_choose(spec, file))
    return choices


def _parse_foreign(text: str) -> ModelChoice | None:
    """Return the choice of ``FILE.onnx``, ``FILE.onnx::OUTPUT`` or ``hf:FOLDER``; None for other texts.

    Raises:
        ValueError: an ONNX file after a model's name, or ``hf:`` without a folder.
    """
    path, output = split_entry(text)
    if path.endswith(".onnx"):
        name, sign, file = path.partition("=")
        if sign and not Path(path).is_file():
            raise ValueError(f"an ONNX file contains its network: --teacher {file}, without {name}=. Got {text!r}.")
        return ModelChoice(path, Path(path), output)
    if not text.startswith("hf:"):
        return None
    if not text.removeprefix("hf:"):
        raise ValueError(f"--teacher hf: must be followed by a folder or a name, as in hf:FOLDER. Got {text!r}.")
    return ModelChoice(text, Path(text.removeprefix("hf:")))


def parse_student(text: str) -> ModelChoice:
    """Parse the value of ``--student``.

    Raises:
        ValueError: a value of another form, such as a file without a model name.
    """
    spec, sign, file = text.partition("=")
    if split_entry(text)[0].endswith(".onnx") or text.startswith("hf:") or file == PRETRAINED:
        raise ValueError(
            "--student must be a network that is trained here: NAME, or NAME=FILE for pretrained weights. Got "
            f"{text!r}. FILE.onnx, hf: and =pretrained are teachers; FILE may hold published weights, such as timm's "
            "model.safetensors."
        )
    if not spec or bool(sign) != bool(file) or spec.endswith(_FILES) or spec in OUTPUT_KINDS:
        raise ValueError(
            "--student must be NAME, or NAME=FILE for pretrained weights. Got "
            f"{text!r} instead. Weights need their model's name: --student cnn:16=student.pth."
        )
    return _choose(spec, file)


def _choose(spec: str, file: str) -> ModelChoice:
    path, entry = (file, "") if spec in OUTPUT_KINDS else split_entry(file)
    return ModelChoice(spec, Path(path) if path else None, entry)


def check_teachers(
    choices: Sequence[ModelChoice], method: str, output_flags: Mapping[str, str], inputs: Sequence[str]
) -> None:
    """Check that the teachers suit the method, and that the flags for trained teachers suit the teachers.

    Args:
        output_flags: values of those of ``--label-order``, ``--label-map`` and ``--teacher-head fit`` that are given.
        inputs: items of ``--teacher-input``.

    Raises:
        ValueError: the error names the flag.
    """
    if "teacher" in method_named(method).needs:
        _require_features(choices, method)
    _check_outputs(choices, output_flags)
    loaded = any(choice.may_be_loaded for choice in choices)
    advice = "a teacher trained here sees the students' inputs"
    require(loaded or not inputs, "--teacher-input", " ".join(inputs), "omitted without a loaded teacher", advice)


def _require_features(choices: Sequence[ModelChoice], method: str) -> None:
    """Refuse teachers of which only the outputs are known, and several teachers."""
    if any(choice.is_precomputed for choice in choices) and any(choice.spec != EMBEDDINGS for choice in choices):
        raise ValueError(
            f"--method {method} needs the teacher's features, but --teacher logits=FILE has only its outputs. Use "
            "--teacher NAME=WEIGHTS, or a method that needs only logits, such as kd."
        )
    if any(choice.is_onnx for choice in choices):
        raise ValueError(
            f"--method {method} needs the teacher's features, but --teacher FILE.onnx has only its outputs. Use the "
            "same network as a torch model (NAME=WEIGHTS, hf:FOLDER or FILE.py:NAME), or a method that needs only "
            "logits, such as kd."
        )
    given, advice = " ".join(map(str, choices)), f"{method} uses the features of one teacher"
    require(len(choices) == 1, "--teacher", given, "given once", advice)


def _check_outputs(choices: Sequence[ModelChoice], flags: Mapping[str, str]) -> None:
    """Check that the flags for the classes of trained teachers suit the teachers and each other."""
    kinds = {choice.spec for choice in choices if choice.is_precomputed}
    for first, flag in itertools.pairwise(flags):
        require(False, flag, flags[flag], f"omitted with {first}", "each of them adapts the teacher's classes")
    for flag, value in flags.items():
        loaded = [choice.file is not None or is_plugin(choice.spec) for choice in choices]
        # An order may be that of one teacher among others.
        fits = any(loaded) if flag == "--label-order" else all(loaded)
        require(fits, flag, value, "omitted", TRAINED_HERE)
        stored = ", ".join(sorted(kinds - {EMBEDDINGS}))
        if flag == "--teacher-head":
            advice = "it has no features; embeddings=FILE fits a head on the columns of a file"
            require(not stored, flag, value, f"omitted with --teacher {stored}=FILE", advice)
        else:
            advice = "their head is fitted to the data's classes"
            require(EMBEDDINGS not in kinds, flag, value, "omitted with --teacher embeddings=FILE", advice)
