"""What ``kd compare`` prints: one table of arms, one of differences, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from kd.compare.comparison import CONTROL, DISTILLED, Comparison, Spread, power_of, spread
from kd.compare.files import arm_summaries, student_rows
from kd.console import print_table, say
from kd.cost import Cost
from kd.evidence import sentence, sentence_across
from kd.paired import Interval, Pairs

LABELS = {
    CONTROL: "regular (control)",
    DISTILLED: "distilled",
    "smoothed": "label smoothing",
    "longer": "longer on labels",
}


def print_comparison(comparison: Comparison, spent: Cost, *, limit: int | None) -> None:
    """Print all arms, the paired differences, what teaching costs, and the verdict.

    Args:
        limit: the number of training images if it was a toy run, else None.
    """
    toy = f", TOY RUN on {limit:,} training images" if limit is not None else ""
    _print_arms(comparison, f"{comparison.images:,} test images{toy}")
    _print_differences(comparison)
    for line in lines(comparison, spent):
        say(line)


def lines(comparison: Comparison, spent: Cost) -> list[str]:
    """Costs, and the verdicts, as sentences; the verdict that counts comes last."""
    judgements, across = comparison.judgements(), comparison.across()
    told = []
    if "longer" in comparison.students:
        told.append(cost_sentence(spent))
    for number, judgement in enumerate(judgements):
        own = sentence(judgement)
        told.append(f"Teacher {number}: {own}" if across else own)
    return [*told, sentence_across(across)] if across else told


def cost_sentence(spent: Cost) -> str:
    """What a distilled student costs with its share of the teacher, and what the longer control has of it."""
    return (
        f"Multiply-adds: a distilled student takes {spent.student:.3g} and 1/{spent.served} of its teacher's training "
        f"and answers, {spent.distilled:.3g} in all; the control that is trained longer, for {spent.longer_epochs} "
        f"epochs instead of {spent.epochs}, takes {spent.longer:.3g}."
    )


def _print_arms(comparison: Comparison, title: str) -> None:
    header = ("student", "n", "errors", "accuracy", "NLL", "ECE, %", "agrees with teacher")
    rows = {}
    for arm, numbers in arm_summaries(list(student_rows(comparison))).items():
        own = {name: Spread(**value) for name, value in numbers.items()}
        rows[LABELS.get(arm, arm)] = [
            str(own["test_errors"].n),
            shown(own["test_errors"], ".1f"),
            f"{own['test_accuracy'].mean:.2%}",
            shown(own["nll"], ".4f"),
            shown(own["ece"], ".2f", scale=100),
            f"{own['agreement_with_teacher'].mean:.2%}",
        ]
    rows["teacher"] = [
        str(len(comparison.teachers)),
        shown(spread([teacher.errors for teacher in comparison.teachers]), ".1f"),
        f"{1 - spread([teacher.errors for teacher in comparison.teachers]).mean / comparison.images:.2%}",
        *("",) * 3,
    ]
    print_table(f"Mean ± standard deviation on {title}", header, rows)
    baseline = spread(comparison.baseline_agreement())
    say(f"Two controls of different seeds agree on {baseline.mean:.2%} of the images.")


def _print_differences(comparison: Comparison) -> None:
    rows = {title: difference_cells(pairs) for title, pairs in contrasts(comparison)}
    print_table("Paired differences in test errors (only the first line's t interval decides)", DIFFERENCES, rows)
    for line in power_sentences(comparison):
        say(line)


DIFFERENCES = ("distilled minus", "mean", "95 % t", "bootstrap", "t p", "Wilcoxon p", "sign p")


def contrasts(comparison: Comparison) -> list[tuple[str, Pairs]]:
    """What the distilled students are compared with, and how: for each teacher the control, then the further ones."""
    further, several = comparison.further(), len(comparison.teachers) > 1
    found = []
    for number in range(len(comparison.teachers)):
        suffix = f", teacher {number}" if several else ""
        found.append((f"{LABELS[CONTROL]}{suffix}", comparison.pairs(number)))
        found += [(f"{LABELS.get(arm, arm)}{suffix}", groups[number]) for arm, groups in further.items()]
    return found


def difference_cells(pairs: Pairs) -> list[str]:
    """A row of ``DIFFERENCES`` after its name."""
    return [
        f"{pairs.mean:+.1f}",
        _interval(pairs.interval),
        _interval(pairs.bootstrap),
        *(f"{p:.2g}" for p in (pairs.t_p, pairs.wilcoxon_p, pairs.sign_p)),
    ]


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


def _interval(interval: Interval | None) -> str:
    return f"{interval.low:+.1f} to {interval.high:+.1f}" if interval else "none"


def shown(value: Spread, form: str, *, scale: float = 1) -> str:
    """Mean ± standard deviation."""
    deviation = "" if value.sd is None else f" ± {scale * value.sd:{form}}"
    return f"{scale * value.mean:{form}}{deviation}"
