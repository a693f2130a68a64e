"""Every number this pipeline chooses. Edit here, set ``config.EPOCHS = 1`` in Python, or pass ``--epochs 1``.

Each constant is read at the moment it is used, so a change counts everywhere. The text beside a constant says its
meaning, unit and range, and is what ``python main.py --help`` prints.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import torch

from kd.checks import check_ranges
from kd.commands.config_flags import check_constants
from kd.commands.method_flags import chosen
from kd.devices import require_device

# Device configuration
DEVICE: Annotated[torch.device, "where the models train: cpu, cuda, cuda:1, mps"] = torch.device(
    "cuda" if torch.cuda.is_available() else "cpu"
)

# Training parameters
BATCH_SIZE: Annotated[int, "images per training step, at least 1"] = 128
TEST_SIZE: Annotated[
    float, "fraction of the TRAINING images kept for validation, in (0, 1); named after scikit-learn's argument"
] = 0.1
RANDOM_STATE: Annotated[int, "seed of the split into training and validation images, at least 0"] = 42
EPOCHS: Annotated[int, "passes over the training images, for each of the three models, at least 1"] = 10
LEARNING_RATE: Annotated[float, "Adam's step size at the first step, above 0; it falls linearly to 0"] = 4e-3
BFLOAT16: Annotated[
    bool, "train the teacher with products in bfloat16: faster with Intel AMX or a new GPU, with other rounding"
] = False
SEED: Annotated[int, "seed of initial weights, order of batches and dropout, at least 0"] = 0

# Distillation parameters
TEMPERATURE: Annotated[float, "softens teacher and student in the soft loss, above 0; 1 turns softening off"] = 5
ALPHA: Annotated[
    float, "weight of the labels against the teacher, in [0, 1]: loss = ALPHA * CE + (1 - ALPHA) * T^2 * KL"
] = 0.5
METHOD: Annotated[str, "how the distilled student learns, by its name in docs/methods.md"] = "kd"
SET: Annotated[tuple[str, ...], "NAME=VALUE, a setting of a method other than kd; may be given several times"] = ()

# Models
STUDENT: Annotated[
    Literal["mlp", "cnn"], "kind of both students: STUDENT_WIDTH hidden units, or three stages of 8, 16 and 32 maps"
] = "mlp"
STUDENT_WIDTH: Annotated[int, "hidden units of both students where they are mlp, at least 1"] = 256

# Data and files
LIMIT: Annotated[
    int | None, "toy size: use only the first so many training images of the stratified order; None uses all"
] = None
DATA_DIR: Annotated[
    Path | None, "a copy of MNIST in torchvision's layout (DATA_DIR/MNIST/raw); None uses the embedded one"
] = None
MODELS_DIR: Annotated[Path, "folder of the saved models"] = Path("models")
RESULTS_DIR: Annotated[Path, "folder of metrics, predictions and plots"] = Path("results")
STATE_DIR: Annotated[Path, "folder of what an interrupted run goes on from: snapshots, finished stages, lock"] = Path(
    ".kd"
)
SNAPSHOT_SECONDS: Annotated[float, "seconds between two snapshots of a training, at least 0"] = 30
FRESH: Annotated[bool, "redo every stage; what was kept is put aside in STATE_DIR"] = False


def check() -> None:
    """Refuse a value of the wrong type or outside its range, before any work is done; the error names the constant."""
    check_constants(sys.modules[__name__])
    require_device(DEVICE, "DEVICE")
    values = {name.lower(): value for name, value in globals().items() if name.isupper()}
    check_ranges(values, shown=str.upper)
    chosen(METHOD, SET, temperature=TEMPERATURE, alpha=ALPHA)
