"""Reproduce section 3 of Hinton, Vinyals & Dean 2015 (arXiv:1503.02531) on MNIST, with the paper's numbers alongside.

    python recipes/hinton2015.py --out run-hinton             # 1 1/2 hours on 2 cores; run it again to resume
    python recipes/hinton2015.py --out quick-hinton --quick   # quick run, to try the script
    python recipes/hinton2015.py --out pilot --held-back 10000  # test on held-back training images, for tuning

Look at ``plan_networks``: the teacher has 1200-1200 units, dropout, max-norm and jitter. The students have 800-800
units and no jitter; they are trained on the labels alone, distilled at T = 20, distilled without any 3, and distilled
on 7s and 8s only. More students vary temperature and width. ``OUT/results.json`` has a row for each finished network;
the tables of docs/hinton2015.md are made from it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro
from torch import Tensor, nn

import hinton2015_networks as networks
import kd
from hinton2015_bias import find_best_shift, find_matching_shift, shift_logits
from kd.console import say
from kd.data.splits import stratified_split
from kd.methods.objectives import in_bfloat16
from kd.storage.run_folder import open_run
from kd.training.optimizers import adam
from kd.training.pool import run_in_pool
from kd.training.run_steps import train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Section 3 of Hinton, Vinyals & Dean 2015 on MNIST."""

    out: Path
    """folder for resume state and results.json"""
    seeds: int = 5
    """students with 800 units of each kind: labels alone, distilled at T = 20, distilled without some digits"""
    sweep_seeds: int = 2
    """students per temperature and width in the last table"""
    temperatures: tuple[float, ...] = (1, 2, 4, 8, 20)
    """temperatures in the last table"""
    widths: tuple[int, ...] = (30, 300, 800)
    """widths in the last table: units in each of the two hidden layers"""
    teacher_width: int = 1200
    """units in each of the teacher's hidden layers"""
    teacher_epochs: int = 240
    """epochs of the teacher"""
    epochs: int = 60
    """epochs of every student"""
    alpha: float = 0.5
    """weight of the labels, if they are used; the paper adds both losses"""
    held_back: int = 0
    """number of training images to hold back and test on, for tuning; 0 uses the test images"""
    limit: int | None = None
    """train on the first N images only, for quick trials"""
    processes: int | None = None
    """networks trained in parallel, one thread each; None trains one per core"""
    quick: bool = False
    """quick run, too small to conclude anything from"""

    def apply_quick(self) -> Settings:
        """Return the settings of a quick run if ``--quick`` is given, else these settings."""
        quick: dict[str, Any] = {
            "seeds": 1,
            "sweep_seeds": 1,
            "temperatures": (1, 20),
            "widths": (8,),
            "teacher_width": 16,
            "teacher_epochs": 1,
            "epochs": 1,
            "limit": 600,
        }
        return dataclasses.replace(self, **quick) if self.quick else self

    @property
    def width(self) -> int:
        """Width of the students in all tables but the last: the largest width."""
        return max(self.widths)


class Network(NamedTuple):
    """A network to train.

    Attributes:
        kind: ``teacher``, ``alone``, ``distilled``, ``without 3``, ``7 and 8``.
        temperature: temperature of the soft targets; None trains on the labels alone.
        labels: whether the labels are used, too.
        digits: digits in the transfer set; None for all.
    """

    kind: str
    width: int
    seed: int
    temperature: float | None = None
    labels: bool = True
    digits: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Name of the step in the run folder."""
        softened = f"-T{self.temperature:g}" if self.temperature else ""
        return f"{self.kind.replace(' ', '-')}-{self.width}{softened}-{self.seed}"


class ExperimentData(NamedTuple):
    """Training and test images; the teacher's logits of the training images, None until the teacher is trained."""

    training: kd.ImageDataset
    test: kd.ImageDataset
    logits: Tensor | None
    settings: Settings


def load_images(settings: Settings) -> ExperimentData:
    """Load MNIST with pixels from 0 (background) to 1, so that jitter and dropout insert background."""
    training, test = (networks.remove_normalisation(kd.load_mnist(train=train)) for train in (True, False))
    training = networks.select_rows(training, range(settings.limit or len(training)))
    if settings.held_back:
        splits = stratified_split(training, held_back=settings.held_back / len(training), seed=0)
        training, test = (networks.select_rows(training, split.indices) for split in splits)
    return ExperimentData(training, test, None, settings)


def train_network(data: ExperimentData, network: Network) -> nn.Module:
    """Train a network; the run folder saves it, and an interrupted training resumes."""
    settings, is_teacher = data.settings, network.kind == "teacher"
    with kd.seeded(network.seed):
        model = networks.make_teacher(network.width) if is_teacher else networks.make_student(network.width)
    objective = networks.add_jitter(kd.supervised) if is_teacher else make_objective(network, settings)
    epochs = settings.teacher_epochs if is_teacher else settings.epochs
    loader = kd.make_loader(make_transfer_set(data, network), batch_size=128, shuffle=True)
    optimizer, scheduler = adam(model, learning_rate=1e-3, steps=epochs * len(loader))
    train(
        network.name,
        model,
        in_bfloat16(objective),
        loader,
        None,
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=epochs,
        seed=network.seed,
    )
    return model


def make_objective(network: Network, settings: Settings) -> kd.Objective:
    """Return the objective on labels, on soft targets, or on both: the paper's sum up to a factor that Adam ignores."""
    if network.temperature is None:
        return kd.supervised
    return kd.distilled(temperature=network.temperature, alpha=settings.alpha if network.labels else 0)


def make_transfer_set(data: ExperimentData, network: Network) -> Any:
    """Return the network's training images, with the teacher's logits if it is distilled."""
    dataset: Any = data.training
    if network.temperature is not None:
        assert data.logits is not None
        dataset = kd.DistillDataset(dataset, data.logits)
    if network.digits is None:
        return dataset
    return torch.utils.data.Subset(dataset, networks.find_rows(data.training.labels, network.digits))


def train_and_test(data: ExperimentData, network: Network) -> dict[str, Any]:
    """Train a network and count its test errors; if digits were left out, also with shifted logits."""
    model = train_network(data, network)
    row: dict[str, Any] = network._asdict() | networks.count_model_errors(model, data.test)
    if network.digits is None:
        return row
    digits = (3,) if network.kind == "without 3" else network.digits
    share = float(torch.isin(data.training.labels, torch.tensor(digits)).float().mean())
    logits, _ = networks.predict(model, data.training)
    test_logits, labels = networks.predict(model, data.test)
    shifts = {
        "matched": find_matching_shift(logits, digits, share),
        "oracle": find_best_shift(test_logits, labels, digits),
    }
    for rule, shift in shifts.items():
        row[rule] = {"shift": shift} | networks.count_errors(shift_logits(test_logits, digits, shift), labels)
    return row


def plan_networks(settings: Settings) -> Iterator[list[Network]]:
    """Yield groups of networks, the most important first; a group starts when the previous group is finished."""
    alone = [Network("alone", settings.width, seed) for seed in range(settings.seeds)]
    other_widths = [width for width in settings.widths if width != settings.width]
    small = [Network("alone", width, seed) for width in other_widths for seed in range(settings.sweep_seeds)]
    yield [Network("teacher", settings.teacher_width, 0), *alone, *small]
    seeds = range(settings.seeds)
    yield [Network("distilled", settings.width, seed, 20.0) for seed in seeds]
    not_three = tuple(digit for digit in range(10) if digit != 3)
    yield [
        *(Network("without 3", settings.width, seed, 20.0, labels=False, digits=not_three) for seed in seeds),
        *(Network("7 and 8", settings.width, seed, 20.0, labels=False, digits=(7, 8)) for seed in seeds),
    ]
    for width in [*other_widths, settings.width]:
        trained_temperatures = {20.0} if width == settings.width else set()
        yield [
            Network("distilled", width, seed, float(temperature))
            for temperature in settings.temperatures
            if temperature not in trained_temperatures
            for seed in range(settings.sweep_seeds)
        ]


def run(settings: Settings) -> list[dict[str, Any]]:
    """Return a row for each network, in the order of completion; results.json is updated after each."""
    rows: list[dict[str, Any]] = []
    with open_run(settings.out / ".kd"):
        data = load_images(settings)
        for group in plan_networks(settings):
            by_name = {network.name: network for network in group}
            steps = {name: count_steps(data, network) for name, network in by_name.items()}
            for name, row in run_in_pool(
                train_and_test, data, by_name, steps=steps, title="networks", processes=settings.processes
            ):
                rows.append(row)
                save_rows(rows, settings)
                say(f"{name}: {row['errors']} errors of {len(data.test):,}")
            if data.logits is None:
                data = add_logits(data)
    return rows


def count_steps(data: ExperimentData, network: Network) -> int:
    """Return the training steps of a network, for the progress bar and to start the longest first."""
    settings = data.settings
    epochs = settings.teacher_epochs if network.kind == "teacher" else settings.epochs
    return epochs * -(-len(networks.find_rows(data.training.labels, network.digits)) // 128)


def add_logits(data: ExperimentData) -> ExperimentData:
    """Return the data with the verified logits of the teacher; the trained teacher comes from the run folder."""
    teacher = train_network(data, Network("teacher", data.settings.teacher_width, 0))
    cached = kd.collect_logits(teacher, data.training)
    kd.verify_logits(teacher, data.training, cached)
    return data._replace(logits=cached.logits)


def save_rows(rows: list[dict[str, Any]], settings: Settings) -> None:
    """Write the rows so far to results.json."""
    saved_settings = {
        key: value for key, value in dataclasses.asdict(settings).items() if key not in ("out", "processes")
    }
    content: Mapping[str, Any] = {"settings": saved_settings, "machine": networks.describe_machine(), "rows": rows}
    kd.publish({settings.out / "results.json": (json.dumps(content, indent=1) + "\n").encode()})


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in the pool; otherwise rounding would differ and the teacher be trained again
    run(tyro.cli(Settings, description=__doc__).apply_quick())
