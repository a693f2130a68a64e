"""What ``kd sweep`` prints: the best points, the final students, and one verdict."""

from __future__ import annotations

from kd.commands.paired_table import format_number, percent
from kd.commands.sweep.points import Tried, label
from kd.commands.sweep.results import Sweep
from kd.console import print_table, say
from kd.evaluation.paired_seeds import Interval, spread
from kd.evaluation.verdict import sentence

BEST = 10  # points that are printed; the files have all


def print_sweep(sweep: Sweep, *, limit: int | None) -> None:
    """Print how the points did on the validation images, the final students, and what it all says.

    Args:
        limit: the number of training images if it was a toy run, else None.
    """
    toy = f", TOY RUN on {limit:,} training {sweep.images.noun}" if limit is not None else ""
    print_table(f"{tried_title(sweep)}{toy}", POINTS, {row[0]: row[1:] for row in best_rows(sweep)})
    finals = {row[0]: row[1:] for row in final_rows(sweep)}
    print_table(f"{counted(len(sweep.final_seeds), 'fresh seed')}, paired{toy}", FINALS, finals)
    for line in lines(sweep):
        say(line)


POINTS = ("point", "role", "errors", "cross-entropy")
FINALS = ("point", "validation when tried", "validation", "test", "test errors")


def tried_title(sweep: Sweep) -> str:
    """What ``best_rows`` are."""
    left_out = f"; the {BEST} best, and those of a role" if len(sweep.tried) > BEST else ""
    seeds = counted(len(sweep.seeds), "seed")
    images = f"{sweep.images.validation:,} validation {sweep.images.noun}"
    return f"Errors of {images}: {len(sweep.tried)} points with {seeds} each{left_out}"


def best_rows(sweep: Sweep) -> list[list[str]]:
    """The best points, and those of a role wherever they are; all of them where they are few."""
    return [row for rank, row in enumerate(point_rows(sweep)) if rank < BEST or row[1]]


def point_rows(sweep: Sweep) -> list[list[str]]:
    """Every point, best first: its settings, its role, errors, cross-entropy."""
    return [_point_row(sweep, each) for each in sweep.ordered]


def _point_row(sweep: Sweep, tried: Tried) -> list[str]:
    role = ", ".join(sweep.roles_of(tried.point))
    if not tried.finite:
        return [label(tried.point), role, "loss not finite", ""]
    return [label(tried.point), role, format_number(spread(tried.errors), ".1f"), f"{tried.cross_entropy:.4f}"]


def final_rows(sweep: Sweep) -> list[list[str]]:
    """For each point that has a role the shares of images its students get wrong, and their test errors."""
    return [
        [
            f"{', '.join(sweep.roles_of(point))}: {label(point)}",
            *map(percent, sweep.rates(point)),
            format_number(spread([final.test.errors for final in finals]), ".1f"),
        ]
        for point, finals in sweep.finals.items()
    ]


def lines(sweep: Sweep) -> list[str]:
    """How the point was chosen and how far that can be believed, what it gains on the documented one, the verdict."""
    return [_choice(sweep), *_against_documented(sweep), *_verdict(sweep)]


def _choice(sweep: Sweep) -> str:
    chosen = sweep.roles["chosen"]
    tried, fresh, test = map(percent, sweep.rates(chosen))
    validation_items, test_items, noun = sweep.images
    return (
        f"Chosen on {validation_items:,} validation {noun} among {len(sweep.tried)} points with "
        f"{counted(len(sweep.seeds), 'seed')} each: {label(chosen)}, with {tried} errors. That is the best of "
        f"many and so partly luck: {len(sweep.final_seeds)} fresh seeds get {fresh} of the same {noun} wrong, and "
        f"{test} of the {test_items:,} test {noun}."
    )


def _against_documented(sweep: Sweep) -> list[str]:
    chosen, documented = sweep.roles["chosen"], sweep.roles["documented"]
    if chosen.is_control:
        return ["No point did better than the labels alone."]
    if chosen == documented:
        return ["No point did better than the documented one."]
    pairs = sweep.pairs(chosen, documented)
    more = f"{abs(pairs.mean):,.1f} errors {'fewer' if pairs.mean < 0 else 'more'}"
    return [
        f"On the test {sweep.images.noun} the chosen point makes {more} than the documented one ({label(documented)}) "
        f"on average ({_shown(pairs.interval)}); this decides nothing."
    ]


def _verdict(sweep: Sweep) -> list[str]:
    role, judgement = sweep.judged(), sweep.judgement()
    if role is None or judgement is None:
        return ["There is nothing to judge: neither the chosen nor the documented point has a teacher."]
    control = sweep.roles["control"]
    tuned = (
        [f"The control is the best of its kind on the same {sweep.images.noun}: {label(control)}."]
        if control.others
        else []
    )
    method = f"Distillation at the {role} point ({label(sweep.roles[role])})"
    return [*tuned, sentence(judgement, method=method, noun=sweep.images.noun)]


def _shown(interval: Interval | None) -> str:
    return f"95 % interval {interval.low:+,.1f} to {interval.high:+,.1f}" if interval else "no interval"


def counted(count: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
