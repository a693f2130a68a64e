"""What ``kd compare`` prints: one table of arms, one of differences, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from kd.arms import ARMS, LONGER, TEACHER
from kd.commands.compare.results import Comparison, contrasts, summaries
from kd.commands.paired_table import DIFFERENCES, difference_cells, format_number
from kd.console import print_table, say
from kd.evaluation.cost import Cost, Footprint, Saved, TrainingCost
from kd.evaluation.paired_seeds import spread
from kd.evaluation.power import power_of
from kd.evaluation.verdict import sentence, sentence_across


def print_comparison(comparison: Comparison, spent: Cost, *, limit: int | None) -> None:
    """Print all arms, the paired differences, what teaching costs, and the verdict.

    Args:
        limit: the number of training images if it was a toy run, else None.
    """
    toy = f", TOY RUN on {limit:,} training {comparison.noun}" if limit is not None else ""
    _print_arms(comparison, f"{comparison.images:,} test {comparison.noun}{toy}")
    _print_differences(comparison)
    print_table(
        "What it takes to use them", MODEL_CELLS, {name: model_cells(own) for name, own in spent.models.items()}
    )
    for line in [*cost_sentences(comparison, spent), *verdict_lines(comparison)]:
        say(line)


def verdict_lines(comparison: Comparison) -> list[str]:
    """The verdicts as sentences; the one that counts comes last."""
    judgements, across = comparison.judgements(), comparison.across()
    if across is None:
        return [sentence(judgement, noun=comparison.noun) for judgement in judgements]
    told = [
        f"Teacher {number}: {sentence(judgement, noun=comparison.noun)}" for number, judgement in enumerate(judgements)
    ]
    return [*told, sentence_across(across)]


MODEL_CELLS = ("model", "parameters", "multiply-adds", "file, kB", "latency, ms", "90 % below, ms")


def model_cells(model: Footprint) -> list[str]:
    """A row of ``MODEL_CELLS`` after its name. A teacher of answers alone has no costs that would say anything."""
    if not model.parameters:
        return ["–", "–", f"{model.bytes / 1000:,.1f}", "–", "–"]
    return [
        f"{model.parameters:,}",
        f"{model.multiply_adds:,}",
        f"{model.bytes / 1000:,.1f}",
        f"{1000 * model.latency.median:.3f}",
        f"{1000 * model.latency.p90:.3f}",
    ]


def cost_sentences(comparison: Comparison, spent: Cost) -> list[str]:
    """What there is to say of the cost: of a control that was trained longer, and of answers that were kept."""
    longer = [cost_sentence(spent.training)] if LONGER in comparison.students else []
    return [*longer, saved_sentence(spent.saved, comparison.noun)] if spent.saved else longer


def saved_sentence(saved: Saved, noun: str = "images") -> str:
    """How much of the teacher's time its kept answers have saved."""
    return (
        f"With one thread the teacher takes {saved.seconds:,.1f} s for its answers to all training {noun}. They were "
        f"kept, so it gave them once and not {saved.passes:,} times, once in each epoch of each distilled student: "
        f"{saved.total:,.0f} s saved."
    )


def cost_sentence(spent: TrainingCost) -> str:
    """What a distilled student costs with its share of the teacher, and what the longer control has of it."""
    return (
        f"Multiply-adds: a distilled student takes {spent.student:.3g} and 1/{spent.served} of its teacher's training "
        f"and answers, {spent.distilled:.3g} in all; the control that is trained longer, for {spent.longer_epochs} "
        f"epochs instead of {spent.epochs}, takes {spent.longer:.3g}."
    )


def _print_arms(comparison: Comparison, title: str) -> None:
    header = ("student", "n", "errors", "accuracy", "NLL", "ECE, %", "agrees with teacher")
    rows = {}
    for arm, own in summaries(comparison).items():
        rows[ARMS[arm].label] = [
            str(own["test_errors"].n),
            format_number(own["test_errors"], ".1f"),
            f"{own['test_accuracy'].mean:.2%}",
            format_number(own["nll"], ".4f"),
            format_number(own["ece"], ".2f", scale=100),
            f"{own['agreement_with_teacher'].mean:.2%}",
        ]
    rows[ARMS[TEACHER].label] = [
        str(len(comparison.teachers)),
        format_number(spread([teacher.errors for teacher in comparison.teachers]), ".1f"),
        f"{1 - spread([teacher.errors for teacher in comparison.teachers]).mean / comparison.images:.2%}",
        *("",) * 3,
    ]
    print_table(f"Mean ± standard deviation on {title}", header, rows)
    baseline = spread(comparison.baseline_agreement())
    say(f"Two controls of different seeds agree on {baseline.mean:.2%} of the {comparison.noun}.")


def _print_differences(comparison: Comparison) -> None:
    rows = {title: difference_cells(pairs) for title, pairs in contrasts(comparison)}
    decides = (
        "only the first line's t interval decides" if len(comparison.teachers) == 1 else "the teachers' means decide"
    )
    print_table(f"Paired differences in test errors ({decides})", DIFFERENCES, rows)
    for line in power_sentences(comparison):
        say(line)


def power_sentences(comparison: Comparison) -> Iterator[str]:
    """For each teacher what so many pairs can show, how many more it would take, and McNemar's test of each pair."""
    for number, judgement in enumerate(comparison.judgements()):
        power, n = power_of(judgement.pairs, judgement.margin), len(judgement.pairs.differences)
        significant = sum(test.p_value < 0.05 for test in comparison.mcnemars(number))
        if power.detectable is not None:
            yield (
                f"With this spread {n} pairs show a true difference of {power.detectable:,.1f} errors in 80 % of "
                f"cases; one of {judgement.margin:,g} takes {power.for_margin:,} pairs. McNemar's exact test, which "
                f"judges two networks and not the method, is below 0.05 for {significant} of the {n} pairs."
            )
