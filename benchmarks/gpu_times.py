"""Measurements of benchmarks/gpu.py: host synchronisations and times of training steps, logits per second.

Variants of a step alternate; medians over the rounds are printed, as time per step and as ratio to the bare loop over
the loader.
"""

from __future__ import annotations

import functools
import itertools
import operator
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import kd
from gpu_checks import (
    BATCH_SIZE,
    DISTILLED,
    LEARNING_RATE,
    Outcome,
    Setup,
    make_model,
    make_student,
    reading_every,
    take_method_step,
    train,
)
from kd.data.datasets import Split
from kd.methods import METHODS
from kd.methods.objectives import in_bfloat16
from kd.models import ConvNet
from kd.teachers.cache import TEACHER_BATCH_SIZE
from kd.training.optimizers import adam
from kd.training.step_numbers import READ_EVERY
from measuring import alternate, format_table, time_call

BARE = "bare loop over the loader"
_SYNC = "called a synchronizing CUDA operation"  # text of torch's warning


@contextmanager
def counting_syncs() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of synchronising CUDA calls so far inside the block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum(_SYNC in str(warning.message) for warning in caught)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def count_syncs(model: nn.Module, objective: kd.Objective, loader: DataLoader[Any]) -> list[int]:
    """Return the number of synchronisations in each step of ``kd.fit`` from the second on."""
    counts: list[int] = []
    with counting_syncs() as count:
        train("", model, objective, loader, on_batch=lambda: counts.append(count()))
    return [after - before for before, after in itertools.pairwise(counts)]


def check_syncs(setup: Setup) -> Outcome:
    """Count synchronisations: none between two reads of the numbers, which are 50 steps apart."""
    if setup.device.type != "cuda":
        return Outcome(None, "needs CUDA")
    loader = make_loader(setup, steps=2 * READ_EVERY + 10, logits=True)
    return judge_syncs(count_syncs(make_model(setup.device, make_student), DISTILLED, loader))


def judge_syncs(counts: Sequence[int]) -> Outcome:
    """Return whether only steps that read the numbers synchronise, from the counts of ``count_syncs``."""
    unexpected = [number for number, count in enumerate(counts, 2) if count and number % READ_EVERY]
    text = f"{sum(counts)} in {len(counts)} steps; between reads in steps {unexpected or 'none'}"
    return Outcome(not unexpected, text, {"steps": len(counts), "syncs": sum(counts), "unexpected": unexpected})


def count_method_syncs(setup: Setup) -> Outcome:
    """Count synchronisations in a step of each method."""
    if setup.device.type != "cuda":
        return Outcome(None, "needs CUDA")
    counts = {name: _count_of_method(name, setup) for name in METHODS}
    waiting = {name: count for name, count in counts.items() if count}
    return Outcome(True, f"in a step of each method: {waiting or 'none'}", counts)


def _count_of_method(name: str, setup: Setup) -> float:
    """Return the median number of synchronisations in steps 2 to 4 of a method."""
    counts: list[int] = []
    with counting_syncs() as count:
        take_method_step(name, setup, setup.device, batches=4, on_batch=lambda: counts.append(count()))
    return statistics.median(after - before for before, after in itertools.pairwise(counts))


def make_loader(setup: Setup, *, steps: int, logits: bool) -> DataLoader[Any]:
    """Return a shuffling loader of full batches over the first samples, with random logits if wanted."""
    rows = torch.arange(steps * BATCH_SIZE) % len(setup.training)
    samples = Split(setup.training, rows.tolist())
    dataset = kd.DistillDataset(samples, torch.randn(len(samples), 10)) if logits else samples
    return kd.make_loader(dataset, batch_size=BATCH_SIZE, shuffle=True)


class Variants:
    """Functions that time one pass over the same batches with a fresh model, in seconds per step."""

    def __init__(
        self, setup: Setup, build: Callable[[], nn.Module], objective: kd.Objective, steps: int, logits: bool
    ) -> None:
        self.setup, self.build, self.objective, self.steps = setup, build, objective, steps
        self.loader = make_loader(setup, steps=steps, logits=logits)
        self.resident = [tuple(tensor.to(setup.device) for tensor in batch) for batch in self.loader]
        self.unavailable: dict[str, str] = {}

    def new_model(self) -> nn.Module:
        return make_model(self.setup.device, self.build, dropout=True).train()

    def time(self, work: Callable[[], object]) -> float:
        """Return the seconds per step of a pass, until the device has finished."""
        synchronise(self.setup.device)

        def finish() -> None:
            work()
            synchronise(self.setup.device)

        return time_call(finish) / self.steps

    def fit(self, objective: kd.Objective | None = None, every: int | None = None) -> Callable[[], float]:
        """``kd.fit``, which measures metrics and checks that numbers are finite."""

        def run() -> float:
            model = self.new_model()
            with reading_every(every) if every else nullcontext():
                return self.time(lambda: train("", model, objective or self.objective, self.loader))

        return run

    def bare(
        self, batches: Any, *, objective: kd.Objective | None = None, compiled: bool = False
    ) -> Callable[[], float]:
        """Objective, backward pass and optimizer step only."""
        model = self.new_model()
        optimizer, _ = adam(model, learning_rate=LEARNING_RATE, steps=1_000_000)
        called: Any = torch.compile(model) if compiled else model

        def run_pass() -> None:
            for batch in batches:
                on_device = tuple(tensor.to(self.setup.device, non_blocking=True) for tensor in batch)
                optimizer.zero_grad()
                backward(called, objective or self.objective, on_device)
                optimizer.step()

        return lambda: self.time(run_pass)

    def graph(self) -> Callable[[], float]:
        """A whole step as a CUDA graph, replayed with each batch copied into its inputs."""
        model, inputs = self.new_model(), tuple(tensor.clone() for tensor in self.resident[0])
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True, capturable=True)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # initialises libraries and optimizer state before the capture
            for _ in range(3):
                optimizer.zero_grad()
                backward(model, self.objective, inputs)
                optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        optimizer.zero_grad()  # so that the capture allocates the gradients in the graph's memory
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            backward(model, self.objective, inputs)
            optimizer.step()

        def run_pass() -> None:
            for batch in self.resident:
                for target, tensor in zip(inputs, batch, strict=True):
                    target.copy_(tensor)
                graph.replay()

        return lambda: self.time(run_pass)

    def try_out(self, name: str, make: Callable[[], Callable[[], float]]) -> dict[str, Callable[[], float]]:
        """Return the variant by name after one pass, or nothing if it fails, with the reason in ``unavailable``."""
        try:
            variant = make()
            variant()
        except Exception as error:  # for example no C compiler, no triton
            self.unavailable[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            return {}
        return {name: variant}


def backward(model: Any, objective: kd.Objective, batch: kd.Batch) -> None:
    _, terms = objective(model, batch)
    functools.reduce(operator.add, terms.values()).backward()  # type: ignore[no-untyped-call]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_student(setup: Setup, *, steps: int, rounds: int) -> Outcome:
    """Time the distilled student's step."""
    return time_variants(Variants(setup, make_student, DISTILLED, steps, logits=True), rounds)


def time_teacher(setup: Setup, *, steps: int, rounds: int) -> Outcome:
    """Time the teacher's step, also in bfloat16."""
    variants, narrow = Variants(setup, ConvNet, kd.supervised, steps, logits=False), in_bfloat16(kd.supervised)
    further = {
        "kd.fit, bfloat16": variants.fit(narrow),
        "bare loop, batches on the device, bfloat16": variants.bare(variants.resident, objective=narrow),
    }
    return time_variants(variants, rounds, further)


def time_variants(
    variants: Variants, rounds: int, further: Mapping[str, Callable[[], float]] = MappingProxyType({})
) -> Outcome:
    """Time the variants of a step, and further ones, in alternating rounds."""
    contenders = {
        BARE: variants.bare(variants.loader),
        "kd.fit": variants.fit(),
        "kd.fit, reading at each step": variants.fit(every=1),
        "bare loop, batches on the device": variants.bare(variants.resident),
        **further,
    }
    contenders |= variants.try_out(
        "torch.compile, batches on the device", lambda: variants.bare(variants.resident, compiled=True)
    )
    if variants.setup.device.type == "cuda":
        contenders |= variants.try_out("CUDA graph, batches on the device", variants.graph)
    else:
        variants.unavailable["CUDA graph, batches on the device"] = "needs CUDA"
    seconds = alternate(contenders, rounds=rounds)
    rows = [[name, f"{1e6 * value:.0f} µs", f"{value / seconds[BARE]:.2f}"] for name, value in seconds.items()]
    rows += [[name, reason, ""] for name, reason in variants.unavailable.items()]
    figures = {"seconds_per_step": seconds, "unavailable": variants.unavailable, "rounds": rounds}
    return Outcome(True, f"{variants.steps} steps\n{format_table(['step', 'time', 'ratio'], rows)}", figures)


def time_logits(setup: Setup, *, steps: int, rounds: int) -> Outcome:
    """Measure the teacher's images per second: ``kd.collect_logits``, and a bare forward pass on the device."""
    teacher = make_model(setup.device, ConvNet).eval()
    samples = Split(setup.training, list(range(min(len(setup.training), steps * TEACHER_BATCH_SIZE))))
    loader = kd.make_loader(samples, batch_size=TEACHER_BATCH_SIZE)
    resident = [batch[0].to(setup.device) for batch in loader]

    def forward(batches: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for images in batches:
                teacher(images)
        synchronise(setup.device)

    seconds = alternate(
        {
            "kd.collect_logits": lambda: time_call(lambda: kd.collect_logits(teacher, samples)),
            "bare forward pass, images on the device": lambda: time_call(lambda: forward(resident)),
        },
        rounds=rounds,
    )
    rates = {name: len(samples) / value for name, value in seconds.items()}
    text = ", ".join(f"{name} {rate:,.0f} images/s" for name, rate in rates.items())
    return Outcome(True, text, {"images_per_second": rates, "images": len(samples), "rounds": rounds})
