"""Compare the loading of image files with torchvision, timm and torchdistill.

    pip install -e ".[bench]"
    python benchmarks/image_loading.py    # 20 minutes: 20,000 JPEGs of 500 × 375 pixels, scaled to 64 × 64

The JPEGs are random blocks with noise, drawn from a seed; a file has about 50 kB. Contenders alternate in fresh
processes that read the same files. ``kd`` decodes each image once: in the first epoch, or when the data is opened.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tyro
from PIL import Image

import measuring

# Do not import torch here: on Linux a child's peak memory starts at its parent's.

LOADERS = ("kd", "torchvision", "timm", "torchdistill")
HEADER = ["workers", "loader", "first epoch, images/s", "second epoch, images/s", "peak memory, MB"]
CLASSES = 10

Reports = dict[tuple[int, str], list[dict[str, Any]]]  # by number of workers and loader


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Loading of image files."""

    images: int = 20_000
    rounds: int = 3
    """processes per loader and number of workers"""
    workers: tuple[int, ...] = (1, 2)
    loaders: tuple[str, ...] = LOADERS
    folder: Path | None = None
    """keep the images in this folder, and use those that it holds; None uses a temporary folder"""


def write_images(folder: Path, numbers: range) -> None:
    """Write one JPEG of 500 × 375 pixels per number, in class folders."""
    for number in numbers:
        random = np.random.default_rng(number)
        blocks = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(blocks.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (pixels + random.integers(-6, 7, pixels.shape)).clip(0, 255).astype(np.uint8)
        path = folder / f"class{number % CLASSES}" / f"{number:06}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(path, quality=90)


def prepare_images(folder: Path, images: int) -> None:
    """Write the images that the folder lacks, and read all once, so that no contender waits for the disk."""
    with ProcessPoolExecutor() as pool:
        starts = range(0, images, 500)
        jobs = [pool.submit(write_images, folder, range(start, min(start + 500, images))) for start in starts]
        for job in jobs:
            job.result()
    for path in folder.rglob("*.jpg"):
        path.read_bytes()


def measure(settings: Settings, folder: Path) -> Reports:
    """Return the report of each process by workers and loader; loaders that are not installed are left out."""
    reports: Reports = {}
    installed = [loader for loader in settings.loaders if importlib.util.find_spec(loader)]
    for _ in range(settings.rounds):
        for workers in settings.workers:
            for loader in installed:
                flags = ("--loader", loader, "--folder", str(folder), "--workers", str(workers))
                report = measuring.run_script("contenders/load_images.py", *flags)
                reports.setdefault((workers, loader), []).append(report)
    return reports


def format_row(workers: int, loader: str, reports: list[dict[str, Any]]) -> list[str]:
    rates = [sorted(report["images"] / report["seconds"][epoch] for report in reports) for epoch in range(2)]
    memory = statistics.median(report["peak_rss"] + workers * report["worker_rss"] for report in reports) / 1e6
    cells = [f"{statistics.median(rate):,.0f} ({rate[0]:,.0f} to {rate[-1]:,.0f})" for rate in rates]
    return [str(workers), loader, *cells, f"{memory:,.0f}"]


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    folder = settings.folder or Path(tempfile.mkdtemp(prefix="kd-images-"))
    try:
        prepare_images(folder, settings.images)
        reports = measure(settings, folder)
    finally:
        if settings.folder is None:
            shutil.rmtree(folder)
    print(measuring.format_table(HEADER, [format_row(*key, values) for key, values in reports.items()]))
    figures = [{"workers": key[0], "loader": key[1], "reports": values} for key, values in reports.items()]
    print(json.dumps({"images": settings.images, "figures": figures, "machine": measuring.describe_machine()}))


if __name__ == "__main__":
    main()
