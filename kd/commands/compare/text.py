"""Printed output of ``kd compare``: tables of arms, differences and cost, then the verdict."""

from __future__ import annotations

from collections.abc import Mapping

from kd.arms import ARMS, LONGER, TEACHER, arm_of
from kd.commands.differences import print_differences
from kd.commands.paired_table import format_number
from kd.console import print_table, say
from kd.evaluation.comparison import Comparison
from kd.evaluation.comparison_rows import summaries
from kd.evaluation.comparison_slices import Slices, describe_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.cost import Cost, Footprint, Saved, TrainingCost
from kd.evaluation.paired_seeds import Spread, spread


def print_comparison(verdicts: Verdicts, cost: Cost, *, slices: Slices, limit: int | None) -> None:
    """Print the arms, the paired differences, the cost and the verdict.

    Args:
        limit: the number of training images of a quick run, else None.
    """
    comparison = verdicts.comparison
    toy = f", QUICK RUN on {limit:,} training {comparison.noun}" if limit is not None else ""
    print_arms(comparison, summaries(comparison), f"{comparison.images:,} test {comparison.noun}{toy}")
    print_differences(verdicts)
    for line in describe_slices(slices, withheld=verdicts.is_withheld):
        say(line)
    print_table(
        f"Cost of inference ({LATENCY})",
        MODEL_CELLS,
        {name: model_cells(footprint) for name, footprint in cost.models.items()},
    )
    for line in [*cost_sentences(comparison, {"": cost}), *verdicts.lines]:
        say(line)


MODEL_CELLS = ("model", "parameters", "multiply-adds", "file, kB", "latency, ms", "p90, ms")
LATENCY = "latency: median and 90th percentile"


def model_cells(model: Footprint) -> list[str]:
    """Format a row of ``MODEL_CELLS`` without the name; a teacher of stored logits has only a file size.

    Multiply-adds of a network that torch does not run, in an ONNX file, are not counted.
    """
    if not model.parameters:
        return ["–", "–", f"{model.bytes / 1000:,.1f}", "–", "–"]
    return [
        f"{model.parameters:,}",
        f"{model.multiply_adds:,}" if model.multiply_adds else "–",
        f"{model.bytes / 1000:,.1f}",
        f"{1000 * model.latency.median:.3f}",
        f"{1000 * model.latency.p90:.3f}",
    ]


def cost_sentences(comparison: Comparison, costs: Mapping[str, Cost]) -> list[str]:
    """Return sentences on the longer-trained control and on the time saved by cached logits, if they apply.

    Args:
        costs: by method; the name of a single method may be "".
    """
    sentences = []
    for names, cost in merge_costs(costs).items():
        prefix = f"{names}: " if names else ""
        if LONGER in comparison.students:
            sentences.append(prefix + cost_sentence(cost.training, comparison))
        if cost.saved:
            sentences.append(prefix + saved_sentence(cost.saved, comparison.noun))
    return sentences


def merge_costs(costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """Return the different costs by the names of their methods; "" if all methods have the same."""
    names_of: dict[object, list[str]] = {}
    for name, cost in costs.items():
        names_of.setdefault(cost.kind, []).append(name)
    if len(names_of) == 1:
        return {"": next(iter(costs.values()))}
    return {", ".join(names): costs[names[0]] for names in names_of.values()}


def saved_sentence(saved: Saved, noun: str = "images") -> str:
    """State the teacher time saved by caching its logits."""
    return (
        f"Computing the teacher's logits for all training {noun} takes {saved.seconds:,.1f} s on one thread. They are "
        f"cached, so the teacher runs once instead of {saved.passes:,} times (once per epoch of each distilled "
        f"student): {saved.total:,.0f} s saved."
    )


def cost_sentence(cost: TrainingCost, comparison: Comparison) -> str:
    """State the cost of a distilled student with its share of the teacher, and of the longer-trained control."""
    epochs = comparison.longer_epochs or cost.longer_epochs
    budget = f", the cost of {comparison.longer_of}" if comparison.longer_of else ""
    return (
        f"Multiply-adds: {cost.student:.3g} for training a student; {cost.distilled:.3g} including 1/{cost.served} of "
        f"its teacher's training and logits; {cost.longer_at(epochs):.3g} for the control trained for {epochs} "
        f"epochs instead of {cost.epochs}{budget}."
    )


def print_arms(comparison: Comparison, arms: Mapping[str, Mapping[str, Spread]], title: str) -> None:
    """Print a row for each arm, and one for the teachers."""
    header = ("student", "n", "errors", "accuracy", "NLL", "ECE, %", "agrees with teacher")
    rows = {}
    for arm, spreads in arms.items():
        rows[arm_of(arm).label] = [
            str(spreads["test_errors"].n),
            format_number(spreads["test_errors"], ",.1f"),
            f"{spreads['test_accuracy'].mean:.2%}",
            format_number(spreads["nll"], ".4f"),
            format_number(spreads["ece"], ".2f", scale=100),
            f"{spreads['agreement_with_teacher'].mean:.2%}",
        ]
    rows[ARMS[TEACHER].label] = [
        str(len(comparison.teachers)),
        format_number(spread([teacher.errors for teacher in comparison.teachers]), ",.1f"),
        f"{1 - spread([teacher.errors for teacher in comparison.teachers]).mean / comparison.images:.2%}",
        *("",) * 3,
    ]
    print_table(f"Mean ± standard deviation on {title}", header, rows)
    baseline = spread(comparison.baseline_agreement())
    say(f"Two controls with different seeds agree on {baseline.mean:.2%} of the test {comparison.noun}.")
