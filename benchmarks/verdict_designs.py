"""Simulate what a verdict is asked to hold for: new images, a teacher that adds nothing, many questions, many looks.

    python benchmarks/verdict_designs.py            # 15 minutes, seeded
    python benchmarks/verdict_designs.py --runs 200
    python benchmarks/verdict_designs.py --only rare

Every verdict comes from ``kd.evaluation.verdict``, on the students of ``benchmarks/simulated_students.py``; the tables
of many looks are in ``benchmarks/verdict_looks.py``. ``benchmarks/verdict_error_rates.py`` simulates the rule on
counted errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from kd.evaluation.classwise import ClassScores, score_classes
from kd.evaluation.contrast import Contrast, contrast_of
from kd.evaluation.failures import find_collapsed
from kd.evaluation.verdict import Earlier, Judgement, Question, decide, judge, judge_all
from measuring import format_table
from simulated_students import CLAIMS, ITEMS, SCENARIOS, Floats, Students, draw, excludes_zero
from verdict_looks import MORE, format_looks, format_looks_at_smoothing, format_price, format_skewed_looks

SIZES = (3, 5, 10, 20)  # pairs
FEWER = 5  # times fewer runs if every student is scored by class
MARGIN = 5.0  # test errors


def format_new_items(runs: int) -> str:
    """Return how often a true difference of 0 on new items is excluded, by each interval."""
    rows = []
    for name, spread in SCENARIOS.items():
        cells = []
        for pairs in SIZES:
            excluded = np.zeros(2)
            for students in draw(f"{name} {pairs}", runs, **spread):
                control, distilled = (students.train(students.method(), pairs) for _ in range(2))
                contrast = contrast_of(distilled - control)
                excluded += [excludes_zero(contrast.seeds_interval()), excludes_zero(contrast.interval())]
            cells.append(" / ".join(f"{100 * share:.1f}" for share in excluded / runs))
        rows.append([name, *cells])
    return format_table(["spread", *(f"{pairs} pairs" for pairs in SIZES)], rows)


def format_smoothing(runs: int) -> str:
    """Return how often a teacher that adds nothing to label smoothing "helps": by the first contrast, and by both."""
    cells: list[list[str]] = [["better than the control"], ["better than both: helps"]]
    for pairs in SIZES:
        found = np.zeros(2)
        for students in draw(f"smoothing {pairs}", runs, seed_sd=0.1, item_sd=0.5):
            soft = students.method(-0.6)
            control = students.train(students.method(), pairs)
            smoothed, distilled = students.train(soft, pairs), students.train(soft, pairs)
            question = Question(contrast_of(distilled - control), contrast_of(distilled - smoothed))
            verdict = judge(question, margin=MARGIN).verdict
            found += [verdict in ("helps", "better than the labels alone"), verdict == "helps"]
        for row, share in zip(cells, found / runs, strict=True):
            row.append(f"{100 * share:.1f}")
    return format_table(["verdict", *(f"{pairs} pairs" for pairs in SIZES)], cells)


def format_questions(runs: int, methods: int = 10) -> str:
    """Return how often some method without effect is called better, asked one by one, with and without the ledger."""
    cells: list[list[str]] = [["each on its own"], ["with the ledger"]]
    for pairs in SIZES:
        found = np.zeros(2)
        for students in draw(f"questions {pairs}", runs, seed_sd=0.1, item_sd=0.5):
            control = students.train(students.method(), pairs)
            contrasts = [contrast_of(students.train(students.method(), pairs) - control) for _ in range(methods)]
            found += [_any_better(_judge_one_by_one(contrasts, ledger)) for ledger in (False, True)]
        for row, share in zip(cells, found / runs, strict=True):
            row.append(f"{100 * share:.1f}")
    return format_table([f"{methods} methods without effect", *(f"{pairs} pairs" for pairs in SIZES)], cells)


def format_teachers(runs: int, pairs: int = 5) -> str:
    """Return how often a method without effect on average over splits is called better or worse."""
    rows = []
    for teachers in (2, 4, 8):
        found = np.zeros(2)
        for students in draw(f"teachers {teachers}", runs, seed_sd=0.1, item_sd=0.3):
            for column, splits in enumerate((1, teachers)):
                effects = 0.25 * students.rng.standard_normal(splits)
                blocks = [_block_means(students, effects[n % splits], pairs) for n in range(teachers)]
                found[column] += judge(Question(contrast_of(np.stack(blocks))), margin=MARGIN).verdict in CLAIMS
        rows.append([str(teachers), *(f"{100 * share:.1f}" for share in found / runs)])
    return format_table(["teachers", "all on one split", "a split each"], rows)


def format_collapse(runs: int, pairs: int = 10) -> str:
    """Return verdicts without effect if some seeds collapse, with and without the rule that withholds them."""
    rows = []
    for rate in (0.0, 0.05, 0.1):
        found: dict[str, np.ndarray] = {"better or worse": np.zeros(2), "not decided": np.zeros(2)}
        for students in draw(f"collapse {rate}", runs, seed_sd=0.1, item_sd=0.3):
            arms = [_collapse(students, students.train(students.method(), pairs), rate) for _ in range(2)]
            verdict = judge(Question(contrast_of(arms[1] - arms[0])), margin=MARGIN).verdict
            withheld = bool(find_collapsed({"control": _score(arms[0]), "distilled": _score(arms[1])}))
            found["better or worse"] += [verdict in CLAIMS, verdict in CLAIMS and not withheld]
            found["not decided"] += [0, withheld]
        cells = [" / ".join(f"{100 * share:.1f}" for share in counts / runs) for counts in found.values()]
        rows.append([f"{100 * rate:g} %", *cells])
    return format_table(["collapsing seeds", "better or worse", "not decided"], rows)


def format_false_collapse(runs: int, pairs: int = 10) -> str:
    """Return how often students "collapse" if all are alike, and how often a constant student is found among them."""
    rows = []
    for items, classes, wrong in ((40, 2, 0.3), (100, 2, 0.3), (200, 2, 0.35), (100, 10, 0.75), (1_000, 10, 0.05)):
        rng = np.random.default_rng([items, classes])
        labels = torch.arange(items) % classes
        found = np.zeros(2)
        for _ in range(runs // FEWER):
            arms = [
                _score(rng.random((pairs, items)) < wrong, classes=classes, other=rng.integers(1, classes, items))
                for _ in range(2)
            ]
            constant = score_classes(torch.bincount(classes * labels, minlength=classes**2).reshape(classes, classes))
            with_constant = {"control": [*arms[0][1:], constant], "distilled": arms[1]}
            false = find_collapsed({"control": arms[0], "distilled": arms[1]})
            found += [bool(false), pairs - 1 in find_collapsed(with_constant).get("control", [])]
        shares = [f"{100 * share:.1f}" for share in found / (runs // FEWER)]
        rows.append([f"{items:,}", str(classes), f"{100 * wrong:g} %", *shares])
    return format_table(["test items", "classes", "errors", "some student named", "a constant one found"], rows)


RARE, MAJORITY = 14, 600  # items of two classes


def format_rare_class(runs: int) -> str:
    """Return how often a true difference of the balanced error that lies in a rare class is called smaller than it is.

    Without / with the wider interval for unequal weights. A share of the rare class is worse in every pair, and the
    larger class varies from student to student only.
    """
    rows = []
    for expected in (0.5, 1, 2, 4, 8):
        cells = []
        for pairs in SIZES:
            rng, found, weight = np.random.default_rng([pairs, int(2 * expected)]), np.zeros(2), 50 / RARE
            for _ in range(runs):
                hard = rng.random(MAJORITY) < 0.02
                arms = [((rng.random((pairs, MAJORITY)) < 0.5) & hard).astype(np.float64) for _ in range(2)]
                is_worse = np.tile(rng.random(RARE) < expected / RARE, (pairs, 1))
                rows_of_items = np.hstack([weight * is_worse, 50 / MAJORITY * (arms[1] - arms[0])])
                contrasts = [contrast_of(rows_of_items, one_error=weight, unequal=unequal) for unequal in (False, True)]
                found += [_is_called_smaller(contrast, weight * expected) for contrast in contrasts]
            cells.append(" / ".join(f"{100 * share:.1f}" for share in found / runs))
        rows.append([f"{expected:g}", *cells])
    return format_table(["rare items worse, expected", *(f"{pairs} pairs" for pairs in SIZES)], rows)


def _is_called_smaller(contrast: Contrast, difference: float) -> bool:
    verdict = decide(contrast.interval(), contrast.interval(0.1), difference)
    return verdict == "no difference larger than d"


def _judge_one_by_one(contrasts: list[Contrast], ledger: bool) -> list[Judgement]:
    judgements: list[Judgement] = []
    for number, contrast in enumerate(contrasts):
        earlier = [Earlier(other.p, 1.0) for other in contrasts[:number]] if ledger else []
        judgements += judge_all({"": Question(contrast)}, margin=MARGIN, earlier=earlier).values()
    return judgements


def _any_better(judgements: list[Judgement]) -> bool:
    return any(judgement.verdict == "better than the labels alone" for judgement in judgements)


def _block_means(students: Students, effect: float, pairs: int) -> Floats:
    """Return the mean contribution of each item over the pairs of one teacher."""
    control, distilled = students.train(students.method(), pairs), students.train(students.method(effect), pairs)
    means: Floats = (distilled - control).mean(axis=0)
    return means


def _collapse(students: Students, wrong: Floats, rate: float) -> Floats:
    """Let each student collapse with this probability: it then errs on nine tenths of the items."""
    collapsed = students.rng.random(len(wrong)) < rate
    chance = students.rng.random((int(collapsed.sum()), ITEMS)) < 0.9
    result: Floats = wrong.copy()
    result[collapsed] = chance
    return result


def _score(wrong: NDArray[Any], classes: int = 10, other: NDArray[np.int64] | int = 1) -> list[ClassScores]:
    """Return class scores of students on classes of equal size; a wrong item is taken for the class ``other`` on."""
    labels = np.arange(wrong.shape[1]) % classes
    cells = classes * labels + (labels + other * wrong.astype(np.int64)) % classes
    counts = [torch.from_numpy(np.bincount(row, minlength=classes**2)) for row in cells]
    return [score_classes(row.reshape(classes, classes)) for row in counts]


TABLES: dict[str, Callable[[int], str]] = {
    "True difference of 0 on new items, excluded by the interval of the seeds / by the deciding one": format_new_items,
    "A teacher that adds nothing to label smoothing": format_smoothing,
    "Several questions of one test set, some method called better": format_questions,
    "No effect on average over splits, called better or worse": format_teachers,
    "True difference of 0, looked at after every pair; claims of the rule for a fixed number / of --until-decided": (
        format_looks
    ),
    f"Differences with a mean of 0, --until-decided, {MORE} times as many runs": format_skewed_looks,
    "A teacher that adds nothing to label smoothing, --until-decided": format_looks_at_smoothing,
    "Better or worse, with all pairs / --until-decided, and its mean number of pairs": format_price,
    f"Students that are all alike, 10 pairs, {FEWER} times fewer runs": format_false_collapse,
    "No effect, some seeds collapse; without / with the rule for collapsed students, 10 pairs": format_collapse,
    f"A difference in {RARE} rare items, called smaller, without / with the wider interval": format_rare_class,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000, help="simulated comparisons per cell")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tables whose title contains this text")
    args = parser.parse_args()
    runs = args.runs
    for title, make in TABLES.items():
        if args.only not in title:
            continue
        print(f"{title}, in % of {runs:,}:\n\n{make(runs)}\n", flush=True)


if __name__ == "__main__":
    main()
