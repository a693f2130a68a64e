"""Slices of the test set in ``kd compare``: classes, what the teacher makes of an item, and columns of a file."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kd.arms import CONTROL, DISTILLED
from kd.evaluation.comparison import Comparison
from kd.evaluation.quantities import ERRORS
from kd.evaluation.slices import Masks, SliceDifference, compare_parts, compare_slices

Slices = dict[str, dict[str, SliceDifference]]  # group of slices → slice → difference; Holm within a group
BUILT_IN = {"class", "teacher", "shift"}  # names of groups
WITHHELD = "The verdict is not decided, so the differences on slices are no evidence about the method."
UNSURE = 0.25  # fraction of the test items on which the teacher is least confident


def measure_slices(comparison: Comparison, further: dict[str, Masks] | None = None) -> Slices:
    """Compare control and distilled students on slices of the test set: pairs of one teacher, or blocks of several.

    Args:
        further: more groups of slices by name.
    """
    by_teacher = {"teacher": _by_teacher(comparison)} if comparison.teachers else {}
    groups = {"class": _by_class(comparison), **by_teacher, **(further or {})}
    wrong = comparison.measure_losses(ERRORS)
    control, distilled = (comparison.replicates(wrong[arm]) for arm in (CONTROL, DISTILLED))
    slices = {
        name: compare_slices(masks, control, distilled, anytime=comparison.anytime) for name, masks in groups.items()
    }
    shifted = {name: _compare_shifted(comparison, name) for name in comparison.students[CONTROL][0][0].shifted}
    return {**slices, "shift": compare_parts(shifted, anytime=comparison.anytime)} if shifted else slices


def _compare_shifted(comparison: Comparison, shift: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return which changed test images each pair, or block of pairs, gets wrong: control and distilled."""
    control, distilled = (
        comparison.replicates(
            [np.stack([model.shifted[shift].wrong.double().numpy() for model in group]) for group in groups]
        )
        for groups in (comparison.students[CONTROL], comparison.students[DISTILLED])
    )
    return control, distilled


def describe_slices(slices: Slices, level: float = 0.05, *, withheld: bool = False) -> list[str]:
    """Return a sentence for each group in which some slice differs significantly.

    Args:
        withheld: whether the verdict was withheld; then the differences are no evidence either, which is said first.
    """
    sentences = []
    for group, differences in slices.items():
        found = {name: slice for name, slice in differences.items() if slice.p < level}
        helped = [_describe(name, slice) for name, slice in found.items() if slice.contrast.mean < 0]
        harmed = [_describe(name, slice) for name, slice in found.items() if slice.contrast.mean > 0]
        texts = [f"fewer errors on {', '.join(helped)}"] if helped else []
        texts += [f"more errors on {', '.join(harmed)}"] if harmed else []
        if texts:
            sentences.append(
                f"By {group}: {'; '.join(texts)} (percentage points; Holm over {len(differences)} slices)."
            )
    return [WITHHELD, *sentences] if sentences and withheld else sentences


def _describe(name: str, slice: SliceDifference) -> str:
    return f"{name} ({slice.contrast.mean:+.2f})"


def _by_class(comparison: Comparison) -> Masks:
    labels = comparison.labels
    return {comparison.class_name(label): (labels == label).numpy() for label in sorted(set(labels.tolist()))}


def _by_teacher(comparison: Comparison) -> Masks:
    """Divide the test items by whether all teachers are right, and by their mean confidence."""
    any_wrong = torch.stack([teacher.test.wrong for teacher in comparison.teachers]).any(dim=0)
    confidences = [teacher.test.logits.softmax(dim=1).max(dim=1).values for teacher in comparison.teachers]
    ranks = torch.stack(confidences).mean(dim=0).argsort().argsort()
    unsure = ranks < UNSURE * len(ranks)
    return {
        "teacher right": (~any_wrong).numpy(),
        "teacher wrong": any_wrong.numpy(),
        "teacher unsure": unsure.numpy(),
        "teacher sure": (~unsure).numpy(),
    }
