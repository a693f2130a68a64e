"""Distill a published ONNX classifier of file types into a small byte network, on the files of this machine.

    pip install 'paired-distillation[onnx]' magika
    python recipes/magika_files.py                          # 10 students per arm
    python recipes/magika_files.py --per-class 40 --pairs 2 --epochs 2   # quick run

Look at ``load_magika``: a teacher in an ONNX file, made for 200 other classes and for tokens, becomes a model with the
classes of the data by ``load_onnx`` and a choice of its outputs. The package magika is not imported, only its files.

The labels are the endings of files, which are sometimes wrong; the agreement of the teacher with them is printed. All
files of a directory are either in the training or in the test part, because neighbours are alike. Equal contents count
once. Control and distilled student have equal initial weights and batches. The result depends on the files of the
machine, so it is printed with their numbers.

Source: Fratantonio et al. 2024, "Magika: AI-Powered Content-Type Detection", arXiv:2409.13768.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro
from torch import Tensor, nn

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.console import say
from kd.data import ArrayDataset
from kd.teachers.class_map import describe_share_outside, measure_share_outside
from kd.teachers.class_order import Reordered
from kd.teachers.onnx_teacher import load_onnx

# The data's classes: endings of files, and the name of the teacher's output.
CLASSES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "c": ((".c", ".h"), "c"),
    "cmake": ((".cmake",), "cmake"),
    "css": ((".css",), "css"),
    "elf": ((".so",), "elf"),
    "gzip": ((".gz",), "gzip"),
    "html": ((".html",), "html"),
    "jar": ((".jar",), "jar"),
    "javascript": ((".js",), "javascript"),
    "json": ((".json",), "json"),
    "markdown": ((".md",), "markdown"),
    "perl": ((".pl", ".pm"), "perl"),
    "php": ((".php",), "php"),
    "png": ((".png",), "png"),
    "python": ((".py",), "python"),
    "bytecode": ((".pyc",), "pythonbytecode"),
    "rst": ((".rst",), "rst"),
    "shell": ((".sh",), "shell"),
    "sql": ((".sql",), "sql"),
    "svg": ((".svg",), "svg"),
    "text": ((".txt",), "txt"),
    "xml": ((".xml",), "xml"),
    "yaml": ((".yaml", ".yml"), "yaml"),
}
PADDING = 256  # token of positions beyond the file
BEGINNING = END = 1024  # tokens of each file that the teacher reads
BLOCK = 4096  # bytes from which white space is removed
LEAST = 16  # bytes of a file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The file-type teacher of the package magika against the endings alone, for a small byte network."""

    root: Path = Path("/usr")
    """folder whose files are sampled"""
    per_class: int = 200
    """most training files of each class; the test part has at most half as many"""
    pairs: int = 10
    """number of seeds; each arm has one student per seed"""
    epochs: int = 12
    """epochs of every student"""
    read: int = 512
    """tokens at the beginning of a file that the student reads"""
    temperature: float = 2.0
    """temperature of the distillation"""
    alpha: float = 0.5
    """weight of the endings; the teacher's weight is 1 - alpha"""
    margin: float = 0.5
    """equivalence margin in percentage points of the test files"""


class Files(NamedTuple):
    """Tokens [N, 2048] int64 and labels of the training and the test part, and the names of the classes."""

    training: ArrayDataset
    test: ArrayDataset
    classes: tuple[str, ...]


class ByteNet(nn.Module):
    """A student: an embedding of bytes, two strided convolutions, the maximum over positions.

    Args:
        read: tokens that are read.
        classes: number of classes.
    """

    def __init__(self, read: int, classes: int) -> None:
        super().__init__()
        self.read = read
        self.embedding = nn.Embedding(PADDING + 1, 16)
        self.convolutions = nn.Sequential(
            nn.Conv1d(16, 32, 8, stride=4, padding=2), nn.ReLU(), nn.Conv1d(32, 64, 8, stride=4, padding=2), nn.ReLU()
        )
        self.output = nn.Linear(64, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits [B, K] of tokens [B, 2048]."""
        maps = self.convolutions(self.embedding(tokens[:, : self.read]).transpose(1, 2))
        logits: Tensor = self.output(maps.amax(dim=2))
        return logits


def make_tokens(content: bytes) -> list[int]:
    """Return the 2048 tokens of a file as magika reads it: its beginning and its end, without outer white space."""
    first, last = content[:BLOCK].lstrip()[:BEGINNING], content[-BLOCK:].rstrip()[-END:]
    return [*first, *[PADDING] * (BEGINNING - len(first)), *[PADDING] * (END - len(last)), *last]


def is_for_testing(directory: str) -> bool:
    """Return whether all files of a directory are in the test part, a third of the directories."""
    return hashlib.sha256(directory.encode(errors="surrogateescape")).digest()[0] % 3 == 0


def list_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the class and the path of each regular file with a known ending, in an order that looks random."""
    class_of = {ending: name for name, (endings, _) in CLASSES.items() for ending in endings}
    found = []
    for directory, _, names in os.walk(root, followlinks=False):
        for name in names:
            label = class_of.get(Path(name).suffix)
            path = Path(directory, name)
            if label is not None and path.is_file() and not path.is_symlink():
                found.append((hashlib.sha256(str(path).encode(errors="surrogateescape")).digest(), label, path))
    yield from ((label, path) for _, label, path in sorted(found))


def read_files(root: Path, per_class: int) -> Files:
    """Sample files with a cap for each class; classes with too few files in a part are left out."""
    caps = {False: per_class, True: per_class // 2}
    samples: dict[tuple[str, bool], list[list[int]]] = {(name, part): [] for name in CLASSES for part in caps}
    seen: set[bytes] = set()
    for label, path in list_files(root):
        part = is_for_testing(str(path.parent))
        if len(samples[label, part]) >= caps[part] or (content := _read(path)) is None:
            continue
        tokens = make_tokens(content)
        digest = hashlib.sha256(repr(tokens).encode()).digest()
        if digest not in seen:
            seen.add(digest)
            samples[label, part].append(tokens)
    least = {part: min(10, cap) for part, cap in caps.items()}
    classes = tuple(name for name in CLASSES if all(len(samples[name, part]) >= least[part] for part in caps))
    training, test = (_make_dataset([samples[name, part] for name in classes]) for part in caps)
    return Files(training, test, classes)


def _read(path: Path) -> bytes | None:
    """Return a file's first and last bytes; None if it is too small or cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(BLOCK)
            file.seek(max(0, path.stat().st_size - BLOCK))
            ending = file.read(BLOCK)
    except OSError:
        return None
    return content + ending[max(0, 2 * BLOCK - path.stat().st_size) :] if len(content) >= LEAST else None


def _make_dataset(by_class: Sequence[Sequence[Sequence[int]]]) -> ArrayDataset:
    tokens = [torch.tensor(samples) for samples in by_class]
    labels = [torch.full((len(samples),), label) for label, samples in enumerate(by_class)]
    return ArrayDataset(torch.cat(tokens), torch.cat(labels))


def find_magika() -> Path | None:
    """Return the folder of the newest model of the installed package magika; None without the package."""
    try:
        files = metadata.files("magika") or []
    except metadata.PackageNotFoundError:
        return None
    folders = sorted(Path(str(file.locate())).parent for file in files if file.name == "model.onnx")
    return folders[-1] if folders else None


def load_magika(folder: Path, classes: Sequence[str], example: Tensor) -> Reordered:
    """Return the teacher with the outputs of these classes alone; the softmax renormalises them."""
    names = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    teacher = load_onnx(folder / "model.onnx", input_shape=(BEGINNING + END,), example=example)
    return Reordered(teacher, [names.index(CLASSES[name][1]) for name in classes])


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds; none without the package magika."""
    folder = find_magika()
    if folder is None:
        say("skipped: the package magika, which holds the teacher, is not installed: pip install magika")
        return {}
    files = read_files(settings.root, settings.per_class)
    say(
        f"{len(files.training):,} training and {len(files.test):,} test files below {settings.root}, of "
        f"{len(files.classes)} classes: {', '.join(files.classes)}"
    )
    teacher = load_magika(folder, files.classes, files.training[0][0])
    outputs = kd.collect_logits(teacher.model, files.test).logits
    say(f"the teacher: {describe_share_outside(measure_share_outside(outputs, teacher.columns))} (test files)")
    cached = kd.collect_logits(teacher, files.training)
    kd.verify_logits(teacher, files.training, cached)
    agreement = float((cached.logits.argmax(dim=1) == cached.labels).double().mean())
    wrong = count_errors(teacher, files.test)
    say(f"the teacher agrees with {agreement:.1%} of the training endings and errs on {wrong:,} test files")
    objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    arms = {
        "endings alone": (kd.supervised, files.training),
        "distilled": (objective, kd.DistillDataset(files.training, cached.logits)),
    }
    errors: dict[str, list[int]] = {name: [] for name in arms}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            start = ByteNet(settings.read, len(files.classes))
        for name, (arm_objective, data) in arms.items():
            student = train_copy(start, arm_objective, data, seed=seed, epochs=settings.epochs, batch_size=64)
            errors[name].append(count_errors(student, files.test))
    title = f"student errors (teacher: {wrong})"
    pairs = [("distilled", "endings alone")]
    judge_arms(errors, pairs, images=len(files.test), margin=settings.margin, title=title, noun="files")
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
