"""``kd export --distill``: an int8 file by quantization-aware distillation from the run's cached logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from kd.checks import require
from kd.commands.data import load_data
from kd.commands.export.settings import ExportSettings
from kd.commands.models import new_teachers
from kd.commands.recipe import add_label_options, make_recipe
from kd.commands.settings_file import saved_settings
from kd.commands.steps import make_distill_loaders, make_objective, open_command, train_teacher
from kd.console import say
from kd.data.datasets import length_of
from kd.deploy.deployed import deploy
from kd.deploy.export import Candidate
from kd.deploy.formats import to_onnx
from kd.deploy.quantised import for_onnx, quantise
from kd.models.inference import predict
from kd.training.recipe import Recipe
from kd.training.run_steps import train_with_recipe

STEP = "distilled-int8"  # name of the training in the run folder, where it is reused and resumed
_BATCH = 128  # inputs per batch of the calibration
_SLOWER = 10  # the run's learning rate is divided by this


def distil_int8(settings: ExportSettings, candidate: Candidate) -> bytes:
    """Return the int8 ONNX file of the run's distilled student, trained further with rounded weights and activations.

    Training uses the data, teacher logits, objective and seed of the run; the teacher is not trained again.

    Raises:
        ValueError: the run's settings or steps are missing.
        MissingExtraError: the extra ``export`` is not installed.
    """
    saved = dataclasses.replace(saved_settings(settings.out, trust=settings.trust), track=None)
    advice = "it would train the parameters that the run froze with --freeze"
    require(not saved.freeze, "--distill", settings.distill, "omitted for this run", advice)
    with open_command(saved, made=(STEP,), program="export") as device:
        data = load_data(saved)
        teacher, _ = train_teacher(saved, data, new_teachers(saved, data), device)
        loaders = make_distill_loaders(saved, teacher, data)
        student = quantise(candidate.network, _choose_inputs(candidate, settings.calibration)).to(device)
        objective = make_objective(saved, student, teacher, loaders[0])
        objective = add_label_options(saved, data, objective, device)
        recipe = _shorten(make_recipe(saved), settings.distill)
        train_with_recipe(STEP, student, objective, *loaders, recipe=recipe, seed=saved.seed)
    errors = int(predict(student, data.test_loader).wrong.sum())
    say(f"{STEP}: {errors:,} errors in PyTorch; the int8 file computes the same")
    manifest = candidate.manifest
    example = torch.zeros(2, *manifest.raw_shape, dtype=getattr(torch, manifest.raw_dtype))
    return to_onnx(for_onnx(deploy(student, manifest)), example)


def _choose_inputs(candidate: Candidate, count: int) -> Iterator[torch.Tensor]:
    """Yield batches of normalised training inputs, evenly spread over the split."""
    samples = length_of(candidate.train)
    rows = torch.linspace(0, samples - 1, min(count, samples)).long().tolist()
    for start in range(0, len(rows), _BATCH):
        yield torch.stack([candidate.train[row][0] for row in rows[start : start + _BATCH]])


def _shorten(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe for a few further epochs: less learning rate, no warm-up, no average, no choice of an epoch."""
    slower = recipe.learning_rate / _SLOWER
    return dataclasses.replace(
        recipe, epochs=epochs, learning_rate=slower, warmup=0.0, ema=0.0, precision="float32", keep="last", patience=0
    )
