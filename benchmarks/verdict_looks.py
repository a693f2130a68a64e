"""Simulations of verdicts that are looked at after every pair; ``verdict_designs.py`` runs them."""

from __future__ import annotations

import numpy as np

from kd.evaluation.contrast import contrast_of
from kd.evaluation.paired_seeds import t_test
from kd.evaluation.sequential import FEWEST, STOP, find_stop
from kd.evaluation.verdict import Question, Verdict, judge
from measuring import format_table
from simulated_students import CLAIMS, SCENARIOS, Floats, draw, excludes_zero
from verdict_error_rates import normal, skewed, very_skewed

MOST = (10, 20, 40)  # pairs, with --until-decided
MORE = 50  # times as many runs if no students are simulated
MARGIN = 5.0  # test errors


def format_looks(runs: int) -> str:
    """Return how often a method without effect is called better or worse if it is looked at after every pair."""
    rows = []
    for name, spread in SCENARIOS.items():
        cells = []
        for most in MOST:
            found = np.zeros(2)
            for students in draw(f"looks {name} {most}", runs, **spread):
                control, distilled = (students.train(students.method(), most) for _ in range(2))
                verdict, _ = judge_until_decided(distilled - control)
                found += [_claims_repeatedly(distilled - control), verdict in CLAIMS]
            cells.append(" / ".join(f"{100 * share:.1f}" for share in found / runs))
        rows.append([name, *cells])
    return format_table(["spread", *(f"at most {most} pairs" for most in MOST)], rows)


def format_skewed_looks(runs: int) -> str:
    """Return how often E ever reaches 20 for differences between seeds whose mean is 0, by their distribution."""
    rows = []
    for name, draw_noise in {"normal": normal(20), "skewness 1": skewed, "skewness 2": very_skewed}.items():
        evidence = e_values(draw_noise(np.random.default_rng(0), (MORE * runs, max(MOST))))
        shares = [(evidence[:, : most - FEWEST + 1] >= STOP).any(axis=1).mean() for most in MOST]
        rows.append([name, *(f"{100 * share:.1f}" for share in shares)])
    return format_table(["differences", *(f"at most {most} pairs" for most in MOST)], rows)


def e_values(rows: Floats) -> Floats:
    """Return ``kd.evaluation.sequential.e_value`` after FEWEST, FEWEST + 1, … pairs of each row of differences."""
    n = np.arange(1, rows.shape[1] + 1)[FEWEST - 1 :]
    means, squares = (values.cumsum(axis=1)[:, FEWEST - 1 :] / n for values in (rows, rows**2))
    t_squared = means**2 / ((squares - means**2) / (n - 1))
    result: Floats = (1 + n) ** -0.5 * ((1 + t_squared / (n - 1)) / (1 + t_squared / (n**2 - 1))) ** (n / 2)
    return result


def format_looks_at_smoothing(runs: int) -> str:
    """Return how often a teacher that adds nothing to label smoothing "helps" if it is looked at after every pair."""
    row = ["helps"]
    for most in MOST:
        found = 0
        for students in draw(f"looks smoothing {most}", runs, seed_sd=0.1, item_sd=0.5):
            soft = students.method(-0.6)
            control = students.train(students.method(), most)
            smoothed, distilled = students.train(soft, most), students.train(soft, most)
            found += judge_until_decided(distilled - control, distilled - smoothed)[0] == "helps"
        row.append(f"{100 * found / runs:.1f}")
    return format_table(["verdict", *(f"at most {most} pairs" for most in MOST)], [row])


def format_price(runs: int) -> str:
    """Return the power with all pairs / if stopped once decided, and the mean number of pairs that this takes."""
    rows = []
    for shift in (0.0, -0.1, -0.2, -0.3, -0.5):
        cells = []
        for most in MOST:
            found = np.zeros(3)
            for students in draw(f"price {shift} {most}", runs, seed_sd=0.1, item_sd=0.3):
                difference = students.train(students.method(shift), most) - students.train(students.method(), most)
                fixed = judge(Question(contrast_of(difference)), margin=MARGIN).verdict
                verdict, pairs = judge_until_decided(difference)
                found += [fixed in CLAIMS, verdict in CLAIMS, pairs]
            shares = found / runs
            cells.append(f"{100 * shares[0]:.1f} / {100 * shares[1]:.1f}, {shares[2]:.1f} pairs")
        rows.append([f"{shift:g}", *cells])
    return format_table(["effect, log-odds", *(f"at most {most} pairs" for most in MOST)], rows)


def judge_until_decided(control: Floats, smoothed: Floats | None = None) -> tuple[Verdict, int]:
    """Return verdict and number of pairs of ``kd compare --until-decided``, from contributions [most pairs, items]."""
    contributions = [control] if smoothed is None else [control, smoothed]
    pairs = find_stop(contributions, STOP) or len(control)
    question = Question(*(contrast_of(rows[:pairs], anytime=True) for rows in contributions))
    return judge(question, margin=MARGIN).verdict, pairs


def _claims_repeatedly(contributions: Floats) -> bool:
    """Return whether the verdict for a fixed number of pairs, looked at after every pair, is ever better or worse."""
    differences = contributions.sum(axis=1).tolist()
    # The deciding interval contains that of the seeds, which takes less time.
    counts = [n for n in range(FEWEST, len(differences) + 1) if t_test(differences[:n]) < 0.05]
    return any(excludes_zero(contrast_of(contributions[:count]).interval()) for count in counts)
