"""Printed output of ``kd sweep``: the best points, their test, and the verdict."""

from __future__ import annotations

from kd.commands.paired_table import format_number, percent
from kd.commands.sweep.points import TriedPoint, format_point
from kd.commands.sweep.results import Sweep
from kd.console import print_table, say
from kd.evaluation.paired_seeds import spread
from kd.evaluation.quantities import BALANCED, ERRORS, Quantity
from kd.evaluation.tradeoffs import describe_rise
from kd.evaluation.verdict_text import describe_basis, format_interval, sentence
from kd.formatting import count_noun

BEST = 10  # number of points to print; the files contain all points


def print_sweep(sweep: Sweep, *, limit: int | None) -> None:
    """Print the best points on the validation images, the test with fresh seeds, and the verdict.

    Args:
        limit: the number of training images of a quick run, else None.
    """
    toy = f", QUICK RUN on {limit:,} training {sweep.images.noun}" if limit is not None else ""
    print_table(f"{tried_title(sweep)}{toy}", point_header(sweep), {row[0]: row[1:] for row in best_rows(sweep)})
    finals = {row[0]: row[1:] for row in final_rows(sweep)}
    seeds = f"the seeds of the selection and {len(sweep.final_seeds)} fresh seeds"
    print_table(f"{name_rate(sweep).capitalize()}s with {seeds}{toy}", FINALS, finals)
    for line in lines(sweep):
        say(line)


FINALS = ("point", "validation (selection)", "validation (fresh)", "test", "test errors")


def point_header(sweep: Sweep) -> tuple[str, ...]:
    """Return the header of ``point_rows``; the first number is the one that ranks the points."""
    balanced = () if sweep.decides_by_errors else (BALANCED.name,)
    return ("point", "role", *balanced, "errors", "cross-entropy")


def name_rate(sweep: Sweep) -> str:
    """Return the name of the numbers of ``Sweep.rates``."""
    return "error rate" if sweep.decides_by_errors else "balanced error"


def tried_title(sweep: Sweep) -> str:
    """Return the title of the table of ``best_rows``."""
    suffix = f"; the {BEST} best points and all points with a role are shown" if len(sweep.tried) > BEST else ""
    seeds = count_noun(len(sweep.seeds), "seed")
    images = f"{sweep.images.validation:,} validation {sweep.images.noun}"
    what = "Errors" if sweep.decides_by_errors else "Balanced errors and errors"
    return f"{what} on {images}: {len(sweep.tried)} points with {seeds} each{suffix}"


def best_rows(sweep: Sweep) -> list[list[str]]:
    """Return the rows of the best points and of all other points that have a role."""
    return [row for rank, row in enumerate(point_rows(sweep)) if rank < BEST or row[1]]


def point_rows(sweep: Sweep) -> list[list[str]]:
    """Return the rows of all points, best first, under ``point_header``."""
    return [_format_row(sweep, trial) for trial in sweep.ordered]


def _format_row(sweep: Sweep, trial: TriedPoint) -> list[str]:
    role = ", ".join(sweep.roles_of(trial.point))
    if not trial.finite:
        return [format_point(trial.point), role, "loss not finite", *[""] * (len(point_header(sweep)) - 3)]
    balanced = [] if sweep.decides_by_errors else [format_number(spread(trial.deciding), BALANCED.spec)]
    errors = format_number(spread(trial.errors), ",.1f")
    return [format_point(trial.point), role, *balanced, errors, f"{trial.cross_entropy:.4f}"]


def final_rows(sweep: Sweep) -> list[list[str]]:
    """Return a row with rates and test errors for each point that has a role."""
    return [
        [
            f"{sweep.name_roles(point)}: {format_point(point)}",
            *map(percent, sweep.rates(point)),
            format_number(spread([final.test.errors for final in finals]), ",.1f"),
        ]
        for point, finals in sweep.finals.items()
    ]


def lines(sweep: Sweep) -> list[str]:
    """Return sentences on the choice and its optimism, the gain over the documented point, and the verdict."""
    return [_describe_choice(sweep), *_compare_with_documented(sweep), *sweep.remarks, *_describe_verdict(sweep)]


def _describe_choice(sweep: Sweep) -> str:
    chosen = sweep.roles["chosen"]
    tried, fresh, test = map(percent, sweep.rates(chosen))
    validation_size, test_size, noun = sweep.images
    rate = name_rate(sweep)
    article = "an" if sweep.decides_by_errors else "a"
    return (
        f"Chosen on {validation_size:,} validation {noun} among {len(sweep.tried)} points with "
        f"{count_noun(len(sweep.seeds), 'seed')} each: {format_point(chosen)}, with {article} {rate} of {tried}. The "
        f"best of many is partly luck: with {len(sweep.final_seeds)} fresh seeds the {rate} is {fresh} on the same "
        f"{noun} and {test} on the {test_size:,} test {noun}."
    )


def _compare_with_documented(sweep: Sweep) -> list[str]:
    chosen, documented = sweep.roles["chosen"], sweep.roles["documented"]
    if chosen.is_control:
        return ["No point is better than training on the labels alone."]
    if chosen == documented:
        return ["No point is better than the documented one."]
    contrast = sweep.contrast(chosen, documented)
    interval = contrast.interval()
    quantity = sweep.quantity
    mean, bounds = _describe_mean(contrast.mean, quantity), format_interval(interval, 0.95, quantity)
    verb, conjunction = "makes" if quantity == ERRORS else "has", "than" if quantity.shows(contrast.mean) else "as"
    return [
        f"On the test {sweep.images.noun}, the chosen point {verb} {mean} on average ({bounds}) {conjunction} the "
        f"documented point ({format_point(documented)}); this is not part of the verdict."
    ]


def _describe_mean(difference: float, quantity: Quantity = ERRORS) -> str:
    if quantity.shows(difference):
        return quantity.describe(difference)
    return "as many errors" if quantity == ERRORS else f"the same {quantity.less.partition(' ')[2]}"


def _describe_verdict(sweep: Sweep) -> list[str]:
    role, judgement = sweep.judged_role(), sweep.judgement()
    if role is None or judgement is None:
        text = "There is no verdict: neither the chosen nor the documented point uses the teacher."
        return [" ".join([*sweep.failures, text])]
    control = sweep.roles["control"]
    control_lines = (
        [f"The control is also chosen on the validation {sweep.images.noun}: {format_point(control)}."]
        if control.others
        else []
    )
    name = "" if sweep.method == "kd" else f" by {sweep.method}"
    method = f"Distillation{name} at the {role} point ({format_point(sweep.roles[role])})"
    basis = describe_basis(len(sweep.final_seeds), sweep.images.test, sweep.images.noun, "this teacher and split")
    remarks = [sweep.withheld] if sweep.withheld else []
    if not sweep.decides_by_errors:
        remarks += describe_rise(sweep.contrast(sweep.roles[role], control, ERRORS), ERRORS)
    text = sentence(judgement, method=method, quantity=sweep.quantity, basis=basis, remarks=remarks)
    return [*control_lines, " ".join([*sweep.failures, text])]
