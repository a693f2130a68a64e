"""MNIST, embedded in the package: 60,000 training and 10,000 test images of handwritten digits."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from kd.checks import DamagedDataError
from kd.data.datasets import ImageDataset
from kd.data.idx import read_idx

EMBEDDED = Path(__file__).parent / "mnist_idx"

# Statistics of the 60,000 training images scaled to [0, 1].
MEAN, STD = 0.1307, 0.3081

# SHA-256 hashes of the uncompressed files.
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def load_mnist(*, train: bool, root: Path | str | None = None) -> ImageDataset:
    """Load MNIST's training or test set into memory, without network access.

    Samples are (image [1, 28, 28] float32, label 0–9).

    Args:
        train: True loads the 60,000 training images, False the 10,000 test images.
        root: folder with a copy in torchvision's layout (``root/MNIST/raw/…``, plain or ``.gz``); None uses the
            embedded copy. Both are checked by SHA-256.

    Raises:
        DamagedDataError: a file is missing, damaged or not MNIST; the message names the file and the remedy.
    """
    prefix = "train" if train else "t10k"
    images = _read_file(f"{prefix}-images-idx3-ubyte", root)
    labels = _read_file(f"{prefix}-labels-idx1-ubyte", root)
    return ImageDataset(images[:, None], labels.long(), mean=MEAN, std=STD)


def _read_file(name: str, root: Path | str | None) -> Tensor:
    if root is None:
        remedy = "It is part of this package: restore it with 'git checkout' or reinstall the package."
        return read_idx(EMBEDDED / f"{name}.gz", sha256=DIGESTS[name], remedy=remedy)
    folder = Path(root) / "MNIST" / "raw"
    remedy = "Replace it with the original MNIST file, or omit the data folder to use the embedded copy."
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return read_idx(path, sha256=DIGESTS[name], remedy=remedy)
    raise DamagedDataError(f"there is no file {folder / name} or {name}.gz. {remedy}")
