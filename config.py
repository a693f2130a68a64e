"""Settings of the pipeline. Edit this file, set ``config.EPOCHS = 1`` in Python, or pass ``--epochs 1``.

Constants are read at each use, so changes at run time take effect. ``python main.py --help`` prints the meaning, unit
and range of each constant. ``kd run`` has the same settings; kd/commands/settings.py declares them for both.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import torch

from kd.checks import check_ranges
from kd.commands.config_flags import check_constants
from kd.commands.method_flags import all_method_settings
from kd.commands.settings import RunSettings
from kd.devices import require_device

# Device configuration
DEVICE: torch.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Training parameters
BATCH_SIZE: int = 128
TEST_SIZE: float = 0.1  # fraction of the training images used for validation
RANDOM_STATE: int = 42
EPOCHS: int = 10
LEARNING_RATE: float = 4e-3
BFLOAT16: Annotated[
    bool, "train the teacher under bfloat16 autocast: faster with Intel AMX or a recent GPU, rounds differently"
] = False
SEED: int = 0

# Distillation parameters
TEMPERATURE: float = 5
ALPHA: float = 0.5  # weight of the labels; 1 trains on the labels only
METHOD: str = "kd"
SET: tuple[str, ...] = ()  # settings of the method as "name=value"; empty: its defaults

# Models
STUDENT: Annotated[
    Literal["mlp", "cnn"], "kind of both students: STUDENT_WIDTH hidden units, or three stages of 8, 16 and 32 channels"
] = "mlp"
STUDENT_WIDTH: int = 256

# Data and files
LIMIT: int | None = None  # None: all training images
DATA_DIR: Path | None = None  # None: the MNIST included in the package
MODELS_DIR: Annotated[Path, "folder for the trained models"] = Path("models")
RESULTS_DIR: Annotated[Path, "folder for metrics, predictions and plots"] = Path("results")
STATE_DIR: Annotated[Path, "folder for resume state: snapshots, finished steps, lock file"] = Path(".kd")
SNAPSHOT_SECONDS: float = 30
FRESH: bool = False


def check() -> None:
    """Check types and ranges of all constants before any work starts. Errors contain the constant's name."""
    check_constants(sys.modules[__name__])
    require_device(DEVICE, "DEVICE")
    values = {name.lower(): value for name, value in globals().items() if name.isupper()}
    check_ranges(RunSettings, values, shown=str.upper)
    all_method_settings(METHOD, SET, temperature=TEMPERATURE, alpha=ALPHA)
