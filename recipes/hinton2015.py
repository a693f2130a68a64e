"""Section 3 of Hinton, Vinyals & Dean 2015 (arXiv:1503.02531) on MNIST: every number of the paper beside ours.

    python recipes/hinton2015.py --out run-hinton             # 1 1/2 hours on 2 cores; goes on where it was
    python recipes/hinton2015.py --out toy-hinton --quick     # at toy size, to try the script
    python recipes/hinton2015.py --out pilot --held-back 10000  # judged on training images instead: for choosing

A teacher of 1200-1200 units with dropout, max-norm and jitter; students of 800-800 on its own and distilled at T = 20,
without any jitter; a student that has never seen a 3, one that has seen nothing but 7s and 8s; temperatures and widths.
``RUN/results.json`` has a row for each network as soon as it is trained; docs/hinton2015.md is made from it.
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
from hinton2015_bias import matched, shift_of_fewest_errors, shifted
from kd.console import say
from kd.data.splits import stratified_split
from kd.methods.objectives import in_bfloat16
from kd.storage.run_folder import open_run
from kd.training.optimizers import adam
from kd.training.pool import in_pool
from kd.training.run_steps import train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Section 3 of Hinton, Vinyals & Dean 2015 on MNIST."""

    out: Path
    """folder of the run and of results.json"""
    seeds: int = 5
    """students of each kind at 800 units, without their teacher and at T = 20, with and without digits left out"""
    sweep_seeds: int = 2
    """students for each temperature and width of the last table"""
    temperatures: tuple[float, ...] = (1, 2, 4, 8, 20)
    """of the last table"""
    widths: tuple[int, ...] = (30, 300, 800)
    """of the last table: units in each of two hidden layers"""
    teacher_width: int = 1200
    """units in each of the teacher's hidden layers"""
    teacher_epochs: int = 240
    """passes over the training images"""
    epochs: int = 60
    """of every student"""
    alpha: float = 0.5
    """weight of the labels where there are any: the paper adds both tasks"""
    held_back: int = 0
    """judge on so many training images, which nothing is trained on, instead of the test images"""
    limit: int | None = None
    """use only so many training images"""
    processes: int | None = None
    """networks trained at once, one thread each; one for each core unless given"""
    quick: bool = False
    """toy size, which says nothing"""

    def sized(self) -> Settings:
        """These settings, or what ``--quick`` makes of them."""
        toy: dict[str, Any] = {
            "seeds": 1,
            "sweep_seeds": 1,
            "temperatures": (1, 20),
            "widths": (8,),
            "teacher_width": 16,
            "teacher_epochs": 1,
            "epochs": 1,
            "limit": 600,
        }
        return dataclasses.replace(self, **toy) if self.quick else self

    @property
    def width(self) -> int:
        """Of the students that are not part of the last table: the widest of it."""
        return max(self.widths)


class Network(NamedTuple):
    """What is to be trained.

    Attributes:
        kind: ``teacher``, ``alone``, ``distilled``, ``without 3``, ``7 and 8``.
        temperature: of the soft targets; None learns from the labels alone.
        labels: learn from the labels too.
        digits: of the transfer set; None takes all.
    """

    kind: str
    width: int
    seed: int
    temperature: float | None = None
    labels: bool = True
    digits: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Of the step in the run folder."""
        softened = f"-T{self.temperature:g}" if self.temperature else ""
        return f"{self.kind.replace(' ', '-')}-{self.width}{softened}-{self.seed}"


class ExperimentData(NamedTuple):
    """Images to train on and to judge on, and the teacher's logits of the former once there are any."""

    training: kd.ImageDataset
    judged: kd.ImageDataset
    logits: Tensor | None
    settings: Settings


def images(settings: Settings) -> ExperimentData:
    """MNIST with pixels from 0 (paper) to 1 (ink): what is shifted in and what dropout leaves out is paper."""
    training, test = (networks.unnormalised(kd.load_mnist(train=train)) for train in (True, False))
    training = networks.only(training, range(settings.limit or len(training)))
    if settings.held_back:
        parts = stratified_split(training, held_back=settings.held_back / len(training), seed=0)
        training, test = (networks.only(training, part.indices) for part in parts)
    return ExperimentData(training, test, None, settings)


def trained(data: ExperimentData, network: Network) -> nn.Module:
    """The network at the end of its training. In the run folder it is kept, and resumed where it was interrupted."""
    settings, taught = data.settings, network.kind == "teacher"
    with kd.seeded(network.seed):
        model = networks.teacher(network.width) if taught else networks.student(network.width)
    objective = networks.jittered(kd.supervised) if taught else objective_of(network, settings)
    epochs = settings.teacher_epochs if taught else settings.epochs
    loader = kd.make_loader(transfer_set(data, network), batch_size=128, shuffle=True)
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


def objective_of(network: Network, settings: Settings) -> kd.Objective:
    """The labels, the soft targets, or both: of the latter two the paper's sum, up to a factor that Adam ignores."""
    if network.temperature is None:
        return kd.supervised
    return kd.distilled(temperature=network.temperature, alpha=settings.alpha if network.labels else 0)


def transfer_set(data: ExperimentData, network: Network) -> Any:
    """The images that the network learns from, with the teacher's logits where it learns from those."""
    dataset: Any = data.training
    if network.temperature is not None:
        assert data.logits is not None
        dataset = kd.DistillDataset(dataset, data.logits)
    if network.digits is None:
        return dataset
    return torch.utils.data.Subset(dataset, networks.rows_of(data.training.labels, network.digits))


def row(data: ExperimentData, network: Network) -> dict[str, Any]:
    """Train the network, ask it for the images to be judged on, once, and count its errors."""
    model = trained(data, network)
    found: dict[str, Any] = network._asdict() | networks.errors(model, data.judged)
    if network.digits is None:
        return found
    left_out = (3,) if network.kind == "without 3" else network.digits
    wanted = float(torch.isin(data.training.labels, torch.tensor(left_out)).float().mean())
    logits, _ = networks.predict(model, data.training)
    asked, labels = networks.predict(model, data.judged)
    shifts = {"matched": matched(logits, left_out, wanted), "oracle": shift_of_fewest_errors(asked, labels, left_out)}
    for rule, shift in shifts.items():
        found[rule] = {"shift": shift} | networks.errors_of(shifted(asked, left_out, shift), labels)
    return found


def plan(settings: Settings) -> Iterator[list[Network]]:
    """What is trained, in an order in which the most important is done first; lists are done one after another."""
    alone = [Network("alone", settings.width, seed) for seed in range(settings.seeds)]
    others = [width for width in settings.widths if width != settings.width]
    small = [Network("alone", width, seed) for width in others for seed in range(settings.sweep_seeds)]
    yield [Network("teacher", settings.teacher_width, 0), *alone, *small]
    every = range(settings.seeds)
    yield [Network("distilled", settings.width, seed, 20.0) for seed in every]
    rest = tuple(digit for digit in range(10) if digit != 3)
    yield [
        *(Network("without 3", settings.width, seed, 20.0, labels=False, digits=rest) for seed in every),
        *(Network("7 and 8", settings.width, seed, 20.0, labels=False, digits=(7, 8)) for seed in every),
    ]
    for width in [*others, settings.width]:
        done = {20.0} if width == settings.width else set()
        yield [
            Network("distilled", width, seed, float(temperature))
            for temperature in settings.temperatures
            if temperature not in done
            for seed in range(settings.sweep_seeds)
        ]


def run(settings: Settings) -> list[dict[str, Any]]:
    """A row for each network, in the order in which they were done; results.json always has what there is."""
    rows: list[dict[str, Any]] = []
    with open_run(settings.out / ".kd"):
        data = images(settings)
        for planned in plan(settings):
            named = {network.name: network for network in planned}
            steps = {name: passes(data, network) for name, network in named.items()}
            for name, found in in_pool(row, data, named, steps=steps, title="networks", processes=settings.processes):
                rows.append(found)
                save(rows, settings)
                say(f"{name}: {found['errors']} errors of {len(data.judged):,}")
            if data.logits is None:
                data = with_logits(data)
    return rows


def passes(data: ExperimentData, network: Network) -> int:
    """Training steps of the network, for the bar and so that the longest go first."""
    settings = data.settings
    epochs = settings.teacher_epochs if network.kind == "teacher" else settings.epochs
    return epochs * -(-len(networks.rows_of(data.training.labels, network.digits)) // 128)


def with_logits(data: ExperimentData) -> ExperimentData:
    """The data with the logits of the teacher, which the run folder has, verified against it."""
    teacher = trained(data, Network("teacher", data.settings.teacher_width, 0))
    cached = kd.collect_logits(teacher, data.training)
    kd.verify_logits(teacher, data.training, cached)
    return data._replace(logits=cached.logits)


def save(rows: list[dict[str, Any]], settings: Settings) -> None:
    """Publish what is there so far."""
    shown = {key: value for key, value in dataclasses.asdict(settings).items() if key not in ("out", "processes")}
    content: Mapping[str, Any] = {"settings": shown, "machine": networks.machine(), "rows": rows}
    kd.publish({settings.out / "results.json": (json.dumps(content, indent=1) + "\n").encode()})


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the pool trains: of other bits the teacher would be trained once more
    run(tyro.cli(Settings, description=__doc__).sized())
