"""Unpack the embedded MNIST into a folder that torchvision reads: FOLDER/MNIST/raw with four files.

    python benchmarks/contenders/mnist_folder.py FOLDER

Unpacking is not timed, because torchvision users already have the folder.
"""

import argparse
import gzip
from pathlib import Path

EMBEDDED = Path(__file__).parent.parent.parent / "kd" / "data" / "mnist_idx"


def prepare(folder: Path) -> Path:
    """Unpack missing files and return the folder. Must not import torch, because ``against_others`` must not."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for packed in EMBEDDED.glob("*.gz"):
        target = raw / packed.stem
        if not target.exists():
            target.write_bytes(gzip.decompress(packed.read_bytes()))
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(prepare(parser.parse_args().folder))
