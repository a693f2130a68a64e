"""Settings of the teacher: where it comes from, its inputs and its classes. Imports no torch, like ``settings``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction

from kd.checks import one_of, require
from kd.commands.teacher_flags import FIT, ModelChoice, check_teachers, parse_teachers


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """The teachers of a run, and how their inputs and outputs fit the data."""

    teacher: UseAppendAction[tuple[str, ...]] = ()
    """name of a model to train, or NAME=FILE for trained weights (.pth, .safetensors), timm:NAME=pretrained or
    torchvision:NAME=pretrained for published ones, hf:FOLDER_OR_NAME for a classifier of transformers, FILE.onnx or
    FILE.onnx::OUTPUT, or logits=FILE, probabilities=FILE or embeddings=FILE for precomputed outputs (.npy, .npz, .csv);
    several form an ensemble; auto, the default, is convnet for images from 23 pixels, cnn:32 for smaller ones,
    mlp:512,512 for other inputs"""
    train_teacher: bool = False
    """train a teacher FILE.py:NAME that loads its own weights; by default it is not trained"""
    teacher_input: tuple[str, ...] = ()
    """inputs of a loaded teacher, if they differ from the data's: stored, 0-1, 0.5, 0-255, imagenet, cifar, clip,
    mnist, fashion-mnist, timm:NAME, torchvision:NAME or hf:FOLDER, and values such as mean=0.5 std=0.25 size=224
    crop=0.875 channels=3 order=bgr; data keeps the data's own. If omitted, the usual scales are tried on training
    samples"""
    teacher_trained_on: Path | None = None
    """text file with the name or the SHA-256 of each training sample of the teacher; test samples in it are reported"""
    label_order: tuple[str, ...] = ()
    """class names in the order of a loaded teacher's outputs, if it differs from the label order: short for a
    --label-map between the same names"""
    label_map: Path | None = None
    """CSV file (header teacher,data) from the classes or output indices of a loaded teacher to the data's classes, if
    it has more, fewer or other ones; its other outputs are left out"""
    teacher_head: Annotated[str, one_of("own", FIT)] = "own"
    """head of a loaded teacher: own, or fit, a linear one fitted on its features of the training split, if its classes
    differ in kind; embeddings=FILE always gets one"""
    ids: str | None = None
    """column (.csv) or array (.npz) of a file of precomputed outputs that names the sample of each row: the path of an
    image within its folder, the key in a shard, or an entry of ids in a .npz file; None: rows in the data's order"""

    @property
    def teachers_chosen(self) -> list[ModelChoice]:
        """The teachers, at least one; raises ``ValueError`` like ``parse_teachers``."""
        return parse_teachers(self.teacher)

    def count_trained_teachers(self) -> int:
        """Return 1 if teachers are trained (an ensemble counts as one), 0 if all are loaded."""
        return int(any(choice.file is None for choice in self.teachers_chosen))

    @property
    def has_outputs(self) -> bool:
        """Whether a teacher is a file of precomputed outputs."""
        return any(choice.is_precomputed for choice in self.teachers_chosen)

    @property
    def output_flags(self) -> dict[str, str]:
        """The flags that adapt a trained teacher's classes, with their values."""
        head = self.teacher_head if self.teacher_head == FIT else ""
        values = {"--label-order": " ".join(self.label_order), "--label-map": self.label_map, "--teacher-head": head}
        return {name: str(value) for name, value in values.items() if value}

    def check_teachers(self, method: str) -> None:
        """Raise ``ValueError`` for teachers that this method or these flags do not suit; the error names the flag."""
        check_teachers(self.teachers_chosen, method, self.output_flags, self.teacher_input)
        advice = "omitted without a teacher of precomputed outputs"
        require(self.has_outputs or self.ids is None, "--ids", self.ids, advice)
