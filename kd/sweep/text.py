"""What ``kd sweep`` prints: the best points, the final students, and one verdict."""

from __future__ import annotations

from kd.compare.comparison import spread
from kd.compare.text import shown
from kd.console import print_table, say
from kd.evidence import sentence
from kd.paired import Interval
from kd.sweep.points import Tried, label, ranked
from kd.sweep.results import Sweep

BEST = 10  # points that are printed; the files have all


def print_sweep(sweep: Sweep, *, limit: int | None) -> None:
    """Print how the points did on the validation images, the final students, and what it all says.

    Args:
        limit: the number of training images if it was a toy run, else None.
    """
    toy = f", TOY RUN on {limit:,} training images" if limit is not None else ""
    rows = point_rows(sweep)
    left_out = f"; the {BEST} best, and those of a role" if len(rows) > BEST else ""
    named = {row[0]: row[1:] for rank, row in enumerate(rows) if rank < BEST or row[1]}
    title = f"{len(rows)} points with {_counted(len(sweep.seeds), 'seed')} each{left_out}{toy}"
    print_table(f"Errors of {sweep.images[0]:,} validation images: {title}", POINTS, named)
    print_table(f"{_counted(len(sweep.final_seeds), 'fresh seed')}, paired{toy}", FINALS, final_rows(sweep))
    for line in lines(sweep):
        say(line)


POINTS = ("point", "role", "errors", "cross-entropy")
FINALS = ("point", "validation when tried", "validation", "test", "test errors")


def point_rows(sweep: Sweep) -> list[list[str]]:
    """Every point, best first and those last that were not finite: its settings, its role, errors, cross-entropy."""
    finite = ranked(sweep.tried, sweep.documented)
    return [_point_row(sweep, each) for each in (*finite, *(each for each in sweep.tried if not each.finite))]


def _point_row(sweep: Sweep, tried: Tried) -> list[str]:
    role = ", ".join(role for role, point in sweep.roles.items() if point == tried.point)
    if not tried.finite:
        return [label(tried.point), role, "loss not finite", ""]
    return [label(tried.point), role, shown(spread(tried.errors), ".1f"), f"{tried.cross_entropy:.4f}"]


def final_rows(sweep: Sweep) -> dict[str, list[str]]:
    """For each role the shares of images its students get wrong, and their test errors."""
    return {
        f"{role}: {label(point)}": [
            *(f"{rate:.2%}" for rate in sweep.rates(point)),
            shown(spread([final.test.errors for final in sweep.finals[point]]), ".1f"),
        ]
        for role, point in sweep.roles.items()
    }


def lines(sweep: Sweep) -> list[str]:
    """How the point was chosen and how far that can be believed, what it gains on the documented one, the verdict."""
    return [_choice(sweep), *_against_documented(sweep), *_verdict(sweep)]


def _choice(sweep: Sweep) -> str:
    chosen = sweep.roles["chosen"]
    tried, fresh, test = sweep.rates(chosen)
    return (
        f"Chosen on {sweep.images[0]:,} validation images among {len(sweep.tried)} points with "
        f"{_counted(len(sweep.seeds), 'seed')} each: {label(chosen)}, with {tried:.2%} errors. That is the best of "
        f"many and so partly luck: {len(sweep.final_seeds)} fresh seeds get {fresh:.2%} of the same images wrong, and "
        f"{test:.2%} of the {sweep.images[1]:,} test images."
    )


def _against_documented(sweep: Sweep) -> list[str]:
    chosen, documented = sweep.roles["chosen"], sweep.roles["documented"]
    if chosen == sweep.roles["control"]:
        return ["No point did better than the labels alone."]
    if chosen == documented:
        return ["No point did better than the documented one."]
    pairs = sweep.pairs(chosen, documented)
    return [
        f"Against the documented point ({label(documented)}) the chosen one makes {pairs.mean:+,.1f} errors on the "
        f"test images ({_shown(pairs.interval)}); this decides nothing."
    ]


def _verdict(sweep: Sweep) -> list[str]:
    role, judgement = sweep.judged(), sweep.judgement()
    if role is None or judgement is None:
        return ["There is nothing to judge: the documented point is the control."]
    control = sweep.roles["control"]
    tuned = [f"The control is the best of its kind on the same images: {label(control)}."] if control.others else []
    return [*tuned, sentence(judgement, method=f"Distillation at the {role} point ({label(sweep.roles[role])})")]


def _shown(interval: Interval | None) -> str:
    return f"95 % interval {interval.low:+,.1f} to {interval.high:+,.1f}" if interval else "no interval"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
