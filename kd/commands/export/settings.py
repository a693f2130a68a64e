"""Settings of ``kd export``. Imports no torch, for a fast ``--help``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from kd.checks import MANY, Range, at_least, check_ranges, or_none, require
from kd.commands.paired_settings import MARGIN
from kd.commands.settings import RunSettings, flag
from kd.commands.teacher_flags import ModelChoice, parse_student

# Settings of the data, as in kd run.
DATA = (
    *("data", "data_dir", "class_names", "columns", "target", "image_size"),
    *("test_size", "test_share", "random_state", "limit", "download"),
)
FORMATS = ("onnx", "int8", "safetensors", "pt2")
_SHARE = Range(lambda x: 0 < x < 1, "in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Export a trained network to other formats, as a folder that another program can use.

    Every file is run by its own runtime on the whole test set. A file whose outputs differ from PyTorch's is not kept.
    """

    out: Path = Path("run")
    """folder of a finished run, with models/manifest.json"""
    arm: Literal["distilled", "control", "teacher"] = "distilled"
    """model of the run"""
    model: str = ""
    """a network from elsewhere instead, NAME=FILE (.pth, .safetensors), such as cnn:32=student.pth; needs --data"""
    to: Path | None = None
    """folder to write: new, empty or an earlier export; None: OUT/export, or export with --model"""
    formats: tuple[str, ...] = ("onnx", "int8", "safetensors")
    """onnx (float32), int8 (ONNX, 8-bit), safetensors (weights only) and pt2 (torch.export)"""
    margin: Annotated[float, MARGIN] = 0.1
    """largest loss of accuracy by int8, in percentage points of the test items, in (0, 100]"""
    calibration: Annotated[int, at_least(1, "512 is usual", largest=100_000)] = 512
    """training inputs that determine the ranges of 8-bit activations, at least 1"""
    distill: Annotated[int, at_least(0, "2 is a start", largest=MANY)] = 0
    """epochs of further distillation for the int8 student, with rounded weights and activations, the run's teacher
    logits and a tenth of its learning rate; 0 only calibrates it"""
    threads: Annotated[int, at_least(1, largest=1024)] = 1
    """threads of each runtime, at least 1; they change the times"""
    licence: str = "unknown"
    """licence of the model in its card, by the Hub's identifier, such as mit or cc-by-sa-4.0"""
    data: str = "mnist"
    """dataset with the test set, as in kd run. The settings of the data, from here on, apply only with --model, or to a
    folder without run.toml, such as the folder of main.py"""
    data_dir: Path | None = None
    """copy of MNIST in torchvision's layout (DATA_DIR/MNIST/raw); None uses the embedded copy"""
    class_names: tuple[str, ...] = ()
    """class names in label order, if the dataset does not contain them"""
    columns: tuple[str, str] | None = None
    """names of the input column and the label column of an hf: dataset"""
    target: str | None = None
    """column of a .csv or .tsv file that holds the classes; all other columns are inputs"""
    image_size: Annotated[int | None, or_none(at_least(1))] = None
    """resize and crop image files to squares of this many pixels per side, at least 1; None keeps their size"""
    test_size: Annotated[float, _SHARE] = 0.1
    """fraction of the training data for validation, in (0, 1)"""
    test_share: Annotated[float, _SHARE] = 0.2
    """fraction of the data for testing if they have no test split, in (0, 1)"""
    random_state: Annotated[int, at_least(0)] = 42
    """seed of the split, at least 0"""
    limit: Annotated[int | None, or_none(at_least(100))] = None
    """use the first N training inputs only, at least 100, as in the quick run that trained the network"""
    download: bool = False
    """download an hf: dataset that is not on this disk; nothing else uses the network"""
    trust: bool = False
    """run the Python files that OUT refers to; not needed for files given on a command line before"""

    def check(self) -> None:
        """Raise ``ValueError`` naming the flag if a setting is outside its range."""
        check_ranges(type(self), vars(self), shown=flag)
        unknown = [name for name in self.formats if name not in FORMATS]
        require(not unknown and bool(self.formats), "--formats", " ".join(self.formats), f"of {', '.join(FORMATS)}")
        spec, _, file = self.model.partition("=")
        licence = "an identifier of the Hub, in lower case, such as mit or cc-by-sa-4.0"
        require(bool(re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.licence)), "--licence", self.licence, licence)
        needed = "NAME=FILE, a model name and a file with its weights"
        require(not self.model or bool(spec and file), "--model", self.model, needed, "such as cnn:32=student.pth")
        is_student = not self.model and self.arm == "distilled" and "int8" in self.formats
        allowed = "0, or given for the int8 file of a run's distilled student"
        advice = "it needs the run's teacher logits"
        require(is_student or not self.distill, "--distill", self.distill, allowed, advice)
        if self.model:
            self._refuse(("out", "arm"), "omitted with --model, which is not from a run")
        if "int8" not in self.formats:
            self._refuse(("margin", "calibration"), "omitted without int8 in --formats")

    def refuse_data(self) -> None:
        """Raise ``ValueError`` if a setting of the data is set: the run.toml of ``out`` states the data."""
        self._refuse(DATA, f"omitted: {self.out / 'run.toml'} states the data of the run")

    def _refuse(self, names: Sequence[str], allowed: str) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in names:
            value = getattr(self, name)
            require(value == defaults[name], flag(name), str(value), allowed)

    @property
    def choice(self) -> ModelChoice:
        """The network of ``model``."""
        return parse_student(self.model)

    @property
    def folder(self) -> Path:
        """The folder to write."""
        if self.to is not None:
            return self.to
        return (
            Path("export") if self.model else self.out / ("export" if self.arm == "distilled" else f"export-{self.arm}")
        )

    @property
    def data_settings(self) -> RunSettings:
        """The settings of the data, as settings of a run."""
        return RunSettings(**{name: getattr(self, name) for name in DATA}, out=self.out, trust=self.trust)
