"""Settings of ``kd predict``. Imports no torch, for a fast ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional

from kd.checks import at_least, check_ranges, require
from kd.commands.settings import flag

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Predict the classes of images, arrays or table rows with a trained model: kd predict --model run photo.png

    INPUTS are image files, folders of images, .npz files with an array x, .npy and .csv files, or - for standard
    input. Inputs that cannot be read are named, the others are predicted, and the exit status is 1.
    """

    command: ClassVar[str] = "predict"

    inputs: Positional[tuple[str, ...]] = ()
    """image files, folders, .npz, .npy or .csv files, or - for an image, an array or a table on standard input"""
    model: Path = Path("run")
    """folder of a run (kd run --out, or the folder of main.py), folder written by kd export, or a model file beside its
    manifest.json"""
    arm: Literal["distilled", "control", "teacher"] | None = None
    """model of the run; None is the distilled student"""
    top: Annotated[int, at_least(1)] = 3
    """number of classes shown for each input, most probable first, at least 1"""
    ids: str | None = None
    """column (.csv), or the array ids (.npz), with the names of the rows; None numbers them"""
    csv: Path | None = None
    """file for all predictions as CSV, a row for each input in order; - prints it in place of the table"""
    json: Path | None = None
    """file for all predictions as JSON, with the model and the limits for inputs unlike the training data; - prints it
    in place of the table"""
    device: str = "auto"
    """device to predict on: cpu, cuda, cuda:1 or mps; auto uses CUDA if available"""
    trust: bool = False
    """run the Python file of a model FILE.py:NAME; not needed for files given on a command line before"""

    def check(self) -> None:
        """Raise ``ValueError`` naming the flag if a setting is outside its range."""
        check_ranges(PredictSettings, vars(self), shown=lambda name: "INPUTS" if name == "inputs" else flag(name))
        require(bool(self.inputs), "INPUTS", "none", "one or more files or folders", "- is standard input")
        require("" not in self.inputs, "INPUTS", "''", "files or folders", "an unset variable is an empty name")
        require(self.inputs.count("-") <= 1, "-", f"given {self.inputs.count('-')} times", "given once")
        outputs = {"--csv": self.csv, "--json": self.json}
        require(self.csv is None or self.csv != self.json, "--csv and --json", str(self.csv), "two different files")
        for name, path in outputs.items():
            clash = path not in (None, STANDARD_OUTPUT) and path.resolve() in {
                Path(source).resolve() for source in self.inputs
            }
            require(not clash, name, str(path), "another file than the inputs", "it would be overwritten")
