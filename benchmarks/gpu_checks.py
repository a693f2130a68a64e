"""Correctness checks of benchmarks/gpu.py: training on a device against the CPU, every method, bfloat16, resuming."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

import kd
from kd.methods import METHODS, make
from kd.methods.objectives import in_bfloat16
from kd.models import CNN, MLP, ConvNet
from kd.storage.snapshots import Snapshots
from kd.storage.stopping import Stopped, handle_stop_signals, request_stop
from kd.training import step_numbers
from kd.training.optimizers import adam
from kd.training.run_steps import train_pair

# The defaults of kd run, which needs packages that a bare GPU machine may not have; a test compares them.
BATCH_SIZE, LEARNING_RATE, TEMPERATURE, ALPHA, STUDENT_WIDTH = 128, 4e-3, 5.0, 0.5, 256
DISTILLED = kd.distilled(temperature=TEMPERATURE, alpha=ALPHA)

# Devices sum in different orders. With the same weights, only rounding remains. In training, Adam divides small
# gradients by their own size and so amplifies it: on a CPU, float32 and float64 differ by 0.006 of the largest logit
# and 0.002 of a loss after the 15 steps that are compared here.
SAME_WEIGHTS, TRAINED_LOGITS, TRAINED_LOSSES, ACCURACIES = 5e-4, 0.05, 0.02, 0.03
METHOD_LOSSES = 5e-4  # relative, at the first step
RANDOM_METHODS = ("mgd",)  # draw random numbers, whose stream differs between devices, in their loss


class Outcome(NamedTuple):
    """Result of a part of the script: ``ok`` is None if the part needs CUDA."""

    ok: bool | None
    text: str
    figures: Mapping[str, Any] = MappingProxyType({})


class Setup(NamedTuple):
    """The device to check, and the splits of MNIST to train on."""

    device: torch.device
    training: Subset[Any]
    validation: Subset[Any]

    def loaders(self) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Return the loaders of both splits, with batches (image, label)."""
        training = kd.make_loader(self.training, batch_size=BATCH_SIZE, shuffle=True)
        return training, kd.make_loader(self.validation, batch_size=BATCH_SIZE)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Disable TF32 inside the block: its 10 bits of mantissa would hide errors of the size of its rounding."""
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic algorithms inside the block. CUBLAS_WORKSPACE_CONFIG must be set before CUDA starts."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def reading_every(steps: int) -> Any:
    """Return a context in which ``kd.fit`` reads its numbers after this many steps, on every device."""
    return patch.object(step_numbers, "read_interval", lambda *_: steps)


def make_model(device: torch.device, build: Callable[[], nn.Module], *, dropout: bool = False) -> nn.Module:
    """Return a network with the same initial weights on every device; dropout draws other numbers on each."""
    with kd.seeded(0):
        model = build()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)) and not dropout:
            module.p = 0.0
    return model.to(device)


make_student = partial(MLP, STUDENT_WIDTH)


def train(
    _: str, model: nn.Module, objective: kd.Objective, training: Any, validation: Any = None, **settings: Any
) -> kd.History:
    """Train with the default optimizer, one epoch unless ``epochs`` is given."""
    epochs = settings.pop("epochs", 1)
    optimizer, scheduler = adam(model, learning_rate=LEARNING_RATE, steps=epochs * len(training), objective=objective)
    settings |= {"optimizer": optimizer, "scheduler": scheduler, "epochs": epochs, "seed": 0}
    return kd.fit(model, objective, training, validation, **settings)


class Result(NamedTuple):
    model: nn.Module
    history: Mapping[str, list[float]]
    logits: Tensor


def train_default_pair(setup: Setup, device: torch.device) -> dict[str, Result]:
    """Train teacher, control and distilled student as ``kd run`` does, without dropout."""
    training, validation = setup.loaders()
    teacher = make_model(device, ConvNet)
    history = train("teacher", teacher, kd.supervised, training, validation)
    distill_loaders = []
    for loader in (training, validation):
        cached = kd.collect_logits(teacher, loader.dataset)
        kd.verify_logits(teacher, loader.dataset, cached)
        distill_loaders.append(kd.loader_like(loader, kd.DistillDataset(loader.dataset, cached.logits)))
    student, loaders = make_model(device, make_student), (training, validation)
    pair = train_pair(student, DISTILLED, loaders, (distill_loaders[0], distill_loaders[1]), train=train, seed=0)
    trained = {
        "teacher": (teacher, history),
        "control": (pair.control, pair.control_history),
        "distilled": (pair.distilled, pair.distilled_history),
    }
    return {name: Result(*result, kd.predict(result[0], validation).logits) for name, result in trained.items()}


def relative_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference as a fraction of the largest value."""
    return float((first - second).abs().max() / second.abs().max())


def check_default_pair(setup: Setup) -> Outcome:
    """Train the default pair on the device and on the CPU, and compare curves and logits."""
    with without_tf32():
        here, there = (train_default_pair(setup, device) for device in (setup.device, torch.device("cpu")))
        teacher = copy.deepcopy(there["teacher"].model).to(setup.device)
        same_weights = kd.predict(teacher, setup.loaders()[1]).logits
    logits = max(relative_difference(here[name].logits, there[name].logits) for name in here)
    changes = {"loss": 0.0, "acc": 0.0}
    for name, result in there.items():
        for curve, values in result.history.items():
            change = abs(here[name].history[curve][-1] - values[-1])
            kind, scale = ("acc", 1.0) if curve.endswith("acc") else ("loss", abs(values[-1]))
            changes[kind] = max(changes[kind], change / scale)
    limits = {
        "logits with the same weights": (relative_difference(same_weights, there["teacher"].logits), SAME_WEIGHTS),
        "logits": (logits, TRAINED_LOGITS),
        "losses": (changes["loss"], TRAINED_LOSSES),
        "accuracies": (changes["acc"], ACCURACIES),
    }
    text = ", ".join(f"{name} differ by {value:.1e} (at most {limit:g})" for name, (value, limit) in limits.items())
    figures = {name: value for name, (value, _) in limits.items()}
    return Outcome(all(value <= limit for value, limit in limits.values()), text, figures)


def take_method_step(
    name: str, setup: Setup, device: torch.device, *, batches: int = 1, **settings: Any
) -> tuple[nn.Module, float]:
    """Take one training step of a method, or a few; return the student with its gradients, and the mean loss."""
    samples = Subset(setup.training, range(64 * batches))
    with kd.seeded(0):
        teacher, student = (CNN(8, (1, 28, 28), 10) for _ in range(2))
    dataset = kd.DistillDataset(samples, kd.collect_logits(teacher, samples).logits, ids="ids" in METHODS[name].needs)
    loader = kd.make_loader(dataset, batch_size=64)
    teacher, student = teacher.to(device), student.to(device)
    with kd.seeded(0):
        objective = make(name, student, teacher, next(iter(loader)))
    return student, train(name, student, objective, loader, **settings)["train_loss"][0]


def check_methods(setup: Setup) -> Outcome:
    """Take a step of every method on the device; the loss must equal the CPU's, and gradients reach the student."""
    problems, largest = [], 0.0
    for name in METHODS:
        try:
            with without_tf32():
                student, loss = take_method_step(name, setup, setup.device)
                _, expected = take_method_step(name, setup, torch.device("cpu"))
        except Exception as error:  # the other methods are still of interest
            problems.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        gradients = [p.grad for p in student.parameters() if p.grad is not None]
        difference = 0.0 if name in RANDOM_METHODS else abs(loss - expected) / max(abs(expected), 1e-6)
        largest = max(largest, difference)
        if not math.isfinite(loss) or difference > METHOD_LOSSES:
            problems.append(f"{name}: loss {loss:g} instead of {expected:g}")
        if not all(g.isfinite().all() for g in gradients) or not any(g.any() for g in gradients):
            problems.append(f"{name}: no finite gradient other than 0 reaches the student")
    text = f"{len(METHODS)} methods, losses differ by at most {largest:.1e} (allowed {METHOD_LOSSES:g})"
    return Outcome(not problems, "; ".join([text, *problems]), {"methods": len(METHODS), "difference": largest})


def check_bfloat16(setup: Setup) -> Outcome:
    """Train the teacher in bfloat16 and in float32: the outputs are bfloat16, the weights float32, the losses close."""
    losses, dtypes = [], set()
    for objective in (kd.supervised, in_bfloat16(kd.supervised)):
        model = make_model(setup.device, ConvNet)
        model.register_forward_hook(lambda *arguments: dtypes.add(arguments[-1].dtype))
        losses.append(train("teacher", model, objective, setup.loaders()[0])["train_loss"][-1])
    weights = {parameter.dtype for parameter in model.parameters()}
    ok = dtypes == {torch.float32, torch.bfloat16} and weights == {torch.float32}
    ok = ok and abs(losses[1] - losses[0]) < 0.05 * losses[0]
    text = f"loss {losses[1]:.4f}, in float32 {losses[0]:.4f} (at most 5 % apart)"
    return Outcome(ok, text, {"bfloat16": losses[1], "float32": losses[0]})


def check_resume(setup: Setup) -> Outcome:
    """Stop a training run after some steps and resume it from its snapshot: the weights must be bit-identical."""
    training, validation = setup.loaders()
    whole = make_model(setup.device, ConvNet, dropout=True)
    stop_at, calls = len(training) + len(training) // 2, iter(range(1, 1_000_000))
    with deterministic(), TemporaryDirectory() as folder:
        history = train("whole", whole, kd.supervised, training, validation, epochs=2)
        stopped = make_model(setup.device, ConvNet, dropout=True)
        with suppress(Stopped), handle_stop_signals():
            train(
                "stopped",
                stopped,
                kd.supervised,
                training,
                validation,
                epochs=2,
                snapshots=Snapshots(Path(folder) / "step", key="gpu"),
                on_batch=lambda: request_stop() if next(calls) == stop_at else None,
            )
        snapshots, resumed = (
            Snapshots(Path(folder) / "step", key="gpu"),
            make_model(setup.device, ConvNet, dropout=True),
        )
        where = snapshots.state["where"] if snapshots.state else "no snapshot"
        resumed_history = train("r", resumed, kd.supervised, training, validation, epochs=2, snapshots=snapshots)
    same = kd.weights_bytes(resumed) == kd.weights_bytes(whole)
    ok = same and dict(resumed_history) == dict(history) and where != "no snapshot"
    return Outcome(ok, f"weights and curves {'' if ok else 'not '}bit-identical, resumed after {where}")


def check_reading(setup: Setup) -> Outcome:
    """Read the numbers at each step and every 50 steps: weights, curves and the error of a bad step must be equal."""
    results = []
    for steps in (1, step_numbers.READ_EVERY):
        for bad_call in (None, 4):
            model, error = make_model(setup.device, make_student), ""
            objective, history = Poisoned(bad_call), {}
            with deterministic(), reading_every(steps):
                try:
                    history = dict(train("student", model, objective, *setup.loaders()))
                except FloatingPointError as raised:
                    error = str(raised)
            results.append((kd.weights_bytes(model), history, error))
    ok = results[:2] == results[2:] and "batch 4" in results[1][2] and not results[0][2]
    return Outcome(ok, f"weights, curves and errors {'' if ok else 'not '}equal for reads every 1 and 50 steps")


class Poisoned:
    """The supervised objective, with a NaN loss at one call."""

    def __init__(self, bad_call: int | None) -> None:
        self.calls, self.bad_call = 0, bad_call

    def __call__(self, model: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        output, terms = kd.supervised(model, batch)
        return output, {"hard": terms["hard"] * (math.nan if self.calls == self.bad_call else 1)}


CHECKS: Mapping[str, tuple[Callable[[Setup], Outcome], float]] = {  # with the seconds that it may take on a GPU
    "default pair against the CPU": (check_default_pair, 60),
    "a step of every method": (check_methods, 60),
    "bfloat16": (check_bfloat16, 20),
    "resuming": (check_resume, 30),
    "reading every 50 steps": (check_reading, 20),
}
