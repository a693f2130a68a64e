"""Small experiments for recipes: train copies of one model, count errors, judge the differences by paired seeds.

Nothing is saved; use ``kd compare`` for experiments that can be resumed.
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
from kd.evaluation.verdict import Judgement, judge_counts
from kd.evaluation.verdict_text import describe_verdict
from kd.formatting import format_range, format_signed
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
    """Return a copy of ``start`` trained with Adam and a learning rate that decays to 0; ``start`` is unchanged.

    Args:
        data: a loader, or a dataset to shuffle: the order depends on the seed alone, not on the objective.
        batch_size: used if ``data`` is a dataset.
    """
    loader = data if isinstance(data, DataLoader) else make_loader(data, batch_size=batch_size, shuffle=True)
    model = copy.deepcopy(start)
    optimizer, scheduler = adam(model, learning_rate=learning_rate, steps=epochs * len(loader), objective=objective)
    fit(model, objective, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=epochs, seed=seed)
    return model


def count_errors(model: nn.Module, dataset: Dataset[Any]) -> int:
    """Return the number of samples that the model classifies wrongly."""
    return int(predict(model, make_loader(dataset, batch_size=500)).wrong.sum())


def judge_arms(
    found: Mapping[str, Sequence[int]],
    against: Sequence[tuple[str, str]],
    *,
    images: int,
    margin: float = 0.1,
    title: str = "errors",
    noun: str = "images",
) -> dict[str, Judgement]:
    """Print a verdict for each pair of arms, and return the verdicts by ``first − second``.

    Args:
        found: errors of each arm by name; entry i of every arm comes from the same seed.
        against: pairs of arms: the arm to judge, and its control.
        images: number of test images.
        margin: equivalence margin, in percentage points of the images.
        noun: word for the test samples, if they are no images.
    """
    pairs = {f"{first} − {second}": pair_errors(found[second], found[first], images) for first, second in against}
    verdicts = judge_counts(pairs, margin=margin)
    header = ("pairs", "first", "second", "difference (interval that decides)", "verdict")
    rows = {name: verdict_cells(judgement) for name, judgement in verdicts.items()}
    print_table(f"{title} of {images:,} {noun}", header, rows)
    seeds = len(next(iter(found.values())))
    say(f"{seeds} seeds; errors by seed: " + "; ".join(map(_list_counts, found, found.values())))
    return verdicts


def verdict_cells(judgement: Judgement) -> list[str]:
    """Return a row: errors of both arms (mean ± standard deviation), difference with its interval, and verdict.

    The interval is the one that decided.
    """
    pairs, interval = judgement.pairs, judgement.interval
    assert pairs is not None
    arms = [
        f"{arm.mean:,.1f}" + ("" if arm.sd is None else f" ± {arm.sd:,.1f}") for arm in (pairs.distilled, pairs.control)
    ]
    limits = format_range(*interval) if interval else "no interval"
    # The second arm need not be a control.
    words = {"better than the labels alone": "better", "hurts": "worse"}
    verdict = words.get(judgement.verdict, describe_verdict(judgement.verdict, judgement.margin))
    return [*arms, f"{format_signed(pairs.mean)} ({limits})", verdict]


def _list_counts(name: str, counts: Sequence[int]) -> str:
    return f"{name} {' '.join(map(str, counts))}"
