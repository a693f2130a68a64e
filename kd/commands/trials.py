"""A small experiment: copies of one model trained alike, their errors, and what pairs of seeds say of the difference.

For recipes and first tries. ``kd compare`` is for what has to survive an interruption.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.utils.data import DataLoader, Dataset

from kd.console import print_table, say
from kd.data.loaders import make_loader
from kd.evaluation.paired_seeds import pair_errors
from kd.evaluation.verdict import Judgement, judge_all
from kd.models.inference import predict
from kd.training.loop import fit
from kd.training.optimizers import adam
from kd.types import Objective

Model = TypeVar("Model", bound=nn.Module)


def train_copy(
    start: Model,
    objective: Objective,
    data: Dataset[Any] | DataLoader[Any],
    *,
    seed: int,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 4e-3,
) -> Model:
    """A copy of the model, trained by Adam with a step size that falls to 0. The start serves the next arm as it is.

    Args:
        data: a loader, or a dataset that is shuffled: the same order for the same seed, whatever the objective.
        batch_size: of the loader that is made for a dataset.
    """
    loader = data if isinstance(data, DataLoader) else make_loader(data, batch_size=batch_size, shuffle=True)
    model = copy.deepcopy(start)
    optimizer, scheduler = adam(model, learning_rate=learning_rate, steps=epochs * len(loader), objective=objective)
    fit(model, objective, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=epochs, seed=seed)
    return model


def count_errors(model: nn.Module, dataset: Dataset[Any]) -> int:
    """Items that the model gets wrong."""
    logits, labels = predict(model, make_loader(dataset, batch_size=500))
    return int((logits.argmax(dim=1) != labels).sum())


def judge_arms(
    found: Mapping[str, Sequence[int]],
    against: Sequence[tuple[str, str]],
    *,
    images: int,
    margin: float = 0.1,
    title: str = "errors",
) -> dict[str, Judgement]:
    """Print one line and one verdict for each pair of arms; the verdicts by ``first − second``.

    Args:
        found: the errors of each arm by its name, entry i of all from the same seed.
        against: pairs of arms, the one to be judged and its control.
        images: of which those errors were counted.
        margin: the largest difference to be called none, in percentage points of the images.
    """
    pairs = {f"{first} − {second}": pair_errors(found[second], found[first], images) for first, second in against}
    verdicts = judge_all(pairs, margin=margin)
    header = ("pairs", "first", "second", "difference (interval that decides)", "verdict")
    print_table(f"{title} of {images:,} images", header, {name: verdict_cells(own) for name, own in verdicts.items()})
    say(f"{len(next(iter(found.values())))} seeds; errors of each: " + "; ".join(map(_listed, found, found.values())))
    return verdicts


def verdict_cells(judgement: Judgement) -> list[str]:
    """Errors of both as mean ± standard deviation, their difference with its interval, and the verdict."""
    pairs, interval = judgement.pairs, judgement.interval
    arms = [f"{arm.mean:.1f} ± {arm.sd or 0:.1f}" for arm in (pairs.distilled, pairs.control)]
    between = f"{interval.low:+.1f} to {interval.high:+.1f}" if interval else "no interval"
    verdict = judgement.verdict.replace("larger than d", f"larger than {judgement.margin:.1f} errors")
    return [*arms, f"{pairs.mean:+.1f} ({between})", verdict]


def _listed(name: str, counts: Sequence[int]) -> str:
    return f"{name} {' '.join(map(str, counts))}"
