"""Two epochs over a folder of JPEGs with one library's loader, as in its documentation: batches of normalised images.

    python benchmarks/contenders/load_images.py --loader kd --folder FOLDER --workers 2

Every loader scales the shorter side to 64 pixels, crops the centre, normalises, and yields shuffled batches of 128 with
the same number of worker processes. Prints the seconds of each epoch and the peak memory: the main process and, for
each worker, the largest child.
"""

from __future__ import annotations

# ruff: noqa: E402  the imports need the paths
import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]

import measuring

SIDE, BATCH_SIZE = 64, 128
MEAN, STD = 0.5, 0.25


def load_with_kd(folder: Path, workers: int) -> Iterable[Any]:
    """Open the folder as ``kd run --data`` does: the images are decoded once."""
    import kd
    from kd.data.sources import open_source

    source: Any = open_source(folder, size=SIDE, workers=workers)
    return kd.make_loader(source.train.normalised(MEAN, STD), batch_size=BATCH_SIZE, shuffle=True)


def _image_folder(folder: Path) -> Any:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.Resize(SIDE),
        transforms.CenterCrop(SIDE),
        transforms.ToTensor(),
        transforms.Normalize([MEAN] * 3, [STD] * 3),
    ]
    return ImageFolder(folder, transforms.Compose(steps))


def load_with_torchvision(folder: Path, workers: int) -> Iterable[Any]:
    """``ImageFolder`` and torch's loader."""
    from torch.utils.data import DataLoader

    return DataLoader(
        _image_folder(folder),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def load_with_timm(folder: Path, workers: int) -> Iterable[Any]:
    """timm's dataset and loader, without augmentation."""
    import torch
    from timm.data import create_dataset, create_loader

    loader: Iterable[Any] = create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, SIDE, SIDE),
        batch_size=BATCH_SIZE,
        interpolation="bilinear",
        crop_pct=1.0,
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        num_workers=workers,
        persistent_workers=workers > 0,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )
    return loader


def load_with_torchdistill(folder: Path, workers: int) -> Iterable[Any]:
    """torchdistill's loader from a configuration, as in its examples, over ``ImageFolder``."""
    import torchvision.models  # noqa: F401  torchdistill looks both up in sys.modules
    from torch.utils.data import RandomSampler
    from torchdistill.datasets.util import build_data_loader

    configuration = {
        "sampler": {"class_or_func": RandomSampler},
        "kwargs": {"batch_size": BATCH_SIZE, "num_workers": workers, "persistent_workers": workers > 0},
    }
    loader: Iterable[Any] = build_data_loader(_image_folder(folder), configuration, distributed=False)
    return loader


LOADERS: dict[str, Callable[[Path, int], Iterable[Any]]] = {
    "kd": load_with_kd,
    "torchvision": load_with_torchvision,
    "timm": load_with_timm,
    "torchdistill": load_with_torchdistill,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loader", choices=LOADERS, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:  # an empty one: the first epoch decodes every image
        os.environ["KD_CACHE_DIR"] = cache
        import torch  # before the clock starts, like everything that does not read images

        torch.set_num_threads(1)
        seconds, started = [], time.perf_counter()
        loader = LOADERS[arguments.loader](arguments.folder, arguments.workers)
        for _ in range(2):
            images = sum(len(batch[0]) for batch in loader)
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
        del loader  # ends the workers, so that their memory is known
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    measuring.print_report(images=images, seconds=seconds, worker_rss=largest if arguments.workers else 0)


if __name__ == "__main__":
    main()
