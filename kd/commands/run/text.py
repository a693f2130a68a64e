"""What ``kd run`` prints of its models: accuracies, predictions per class, one verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kd.console import print_table, say
from kd.evaluation.two_models import mcnemar, verdict


def print_evaluation(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    *,
    limit: int | None,
    classes: Sequence[str] = (),
    noun: str = "images",
) -> None:
    """Print accuracies, predictions per class and one verdict on the two students.

    Args:
        logits: of ``teacher``, ``regular`` and ``distilled`` on the test set, [N, K].
        labels: [N].
        limit: the number of training images if it was a toy run, else None.
        classes: their names, where they are more than numbers.
        noun: what the items are called.
    """
    answers = {name: values.argmax(dim=1) for name, values in logits.items()}
    wrong = {name: answer != labels for name, answer in answers.items()}
    errors = {name: int(mask.sum()) for name, mask in wrong.items()}
    toy = f", TOY RUN on {limit:,} training {noun}" if limit is not None else ""
    rows = {name: (f"{1 - e / len(labels):.2%}", f"{e:,}", f"{len(labels):,}") for name, e in errors.items()}
    print_table(f"Test set{toy}", ("model", "accuracy", "errors", noun), rows)
    names = classes or [str(label) for label in range(logits["teacher"].shape[1])]
    _print_distribution({"true": labels} | answers, names)
    test = mcnemar(wrong["regular"], wrong["distilled"])
    say(verdict(errors["regular"], errors["distilled"], test, noun=noun))


def _print_distribution(answers: Mapping[str, Tensor], names: Sequence[str]) -> None:
    counts = torch.stack([torch.bincount(answer, minlength=len(names)) for answer in answers.values()], dim=1)
    rows = {name: [f"{count:,}" for count in row] for name, row in zip(names, counts.tolist(), strict=True)}
    print_table("Predictions per class", ("class", *answers), rows)
