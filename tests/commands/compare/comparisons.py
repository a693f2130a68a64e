"""Comparisons on made-up logits, with known numbers of errors."""

from __future__ import annotations

import torch

from kd.evaluation.comparison import Comparison, ModelPredictions
from kd.models.inference import Predictions

IMAGES, CLASSES = 400, 5


def make_predictions(seed: int, errors: int, images: int = IMAGES) -> ModelPredictions:
    """Make confident logits with this number of errors; labels are the same for every seed."""
    labels = torch.arange(images) % CLASSES
    generator = torch.Generator().manual_seed(seed)

    def predictions(wrong: int) -> Predictions:
        predicted = labels.clone()
        rows = torch.randperm(images, generator=generator)[:wrong]
        predicted[rows] = (predicted[rows] + 1) % CLASSES
        logits = 4 * torch.nn.functional.one_hot(predicted, CLASSES) + torch.rand(images, CLASSES, generator=generator)
        return Predictions(logits.float(), labels)

    return ModelPredictions(predictions(errors), predictions(errors))


def make_comparison(teachers: int = 1, *, gain: int = 25) -> Comparison:
    """Controls with 40 to 43 errors, distilled students with ``gain`` fewer, label smoothing in between.

    Under teacher k, the last distilled student has k more errors, so that the teachers' means differ.
    """
    seeds = [[100 * teacher + seed for seed in range(4)] for teacher in range(teachers)]
    errors = [
        {
            "control": [40, 41, 42, 43],
            "distilled": [40 - gain, 40 - gain, 42 - gain, 42 - gain + teacher],
            "smoothed": [38, 39, 40, 41],
        }
        for teacher in range(teachers)
    ]
    students = {
        arm: [
            [make_predictions(seed + 1000 * len(arm), count) for seed, count in zip(group, counts[arm], strict=True)]
            for group, counts in zip(seeds, errors, strict=True)
        ]
        for arm in errors[0]
    }
    return Comparison(
        [make_predictions(-1 - teacher, 5 + teacher) for teacher in range(teachers)],
        students,
        seeds,
        0.5,
        4.0,
        method="kd, T = 4, α = 0.5",
        smoothing=0.2,
        blocks=range(teachers),
    )
