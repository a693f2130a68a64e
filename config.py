"""Every number this pipeline chooses. Edit here, set ``config.EPOCHS = 1`` in Python, or pass ``--epochs 1``.

Each constant is read at the moment it is used, so a change counts everywhere. ``python main.py --help`` prints the
meaning, unit and range of each. ``kd run`` has the same settings, and kd/commands/settings.py declares them for both.
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
TEST_SIZE: float = 0.1  # a tenth of the training images is held back for validation
RANDOM_STATE: int = 42
EPOCHS: int = 10
LEARNING_RATE: float = 4e-3
BFLOAT16: bool = False
SEED: int = 0

# Distillation parameters
TEMPERATURE: float = 5
ALPHA: float = 0.5  # labels and teacher weigh the same; 1 is the labels alone
METHOD: str = "kd"
SET: tuple[str, ...] = ()  # the method's own defaults

# Models
STUDENT: Annotated[
    Literal["mlp", "cnn"], "kind of both students: STUDENT_WIDTH hidden units, or three stages of 8, 16 and 32 maps"
] = "mlp"
STUDENT_WIDTH: int = 256

# Data and files
LIMIT: int | None = None  # all training images
DATA_DIR: Path | None = None  # the embedded MNIST
MODELS_DIR: Annotated[Path, "folder of the saved models"] = Path("models")
RESULTS_DIR: Annotated[Path, "folder of metrics, predictions and plots"] = Path("results")
STATE_DIR: Annotated[Path, "folder of what an interrupted run goes on from: snapshots, finished steps, lock"] = Path(
    ".kd"
)
SNAPSHOT_SECONDS: float = 30
FRESH: bool = False


def check() -> None:
    """Refuse a value of the wrong type or outside its range, before any work is done; the error names the constant."""
    check_constants(sys.modules[__name__])
    require_device(DEVICE, "DEVICE")
    values = {name.lower(): value for name, value in globals().items() if name.isupper()}
    check_ranges(RunSettings, values, shown=str.upper)
    all_method_settings(METHOD, SET, temperature=TEMPERATURE, alpha=ALPHA)
