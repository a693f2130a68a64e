"""Printed output of ``kd predict``."""

from __future__ import annotations

from collections.abc import Sequence

from kd.console import print_table, printable_name, say
from kd.deploy.manifest import NAME as MANIFEST
from kd.deploy.predict import Answer
from kd.deploy.stored_model import StoredModel
from kd.evaluation.unlike import Unlike

_ROWS, _ROWS_BESIDE_FILES = 1000, 20  # of a printed table
_FAILURES = 3  # named in the error


def describe_model(stored: StoredModel) -> list[str]:
    """Return lines on the model and its accuracy on the test set of its run."""
    entry, manifest = stored.entry, stored.manifest
    kind = f" ({entry.architecture})" if entry.architecture else ""
    lines = [f"{stored.path}{kind}: {_format_accuracy(stored) if entry.test else 'not evaluated on a test set'}"]
    return [*lines, f"from a quick run ({manifest.toy}): too weak for use"] if manifest.toy else lines


def _format_accuracy(stored: StoredModel) -> str:
    names = ("accuracy", "accuracy_low_95", "accuracy_high_95", "images")
    values = [stored.entry.test.get(name) for name in names]
    if not all(type(value) in (int, float) for value in values):
        raise ValueError(
            f"{stored.manifest.folder / MANIFEST} is damaged: its test results are not {', '.join(names)}."
        )
    accuracy, low, high, count = values
    return f"accuracy {accuracy:.1%} ({low:.1%} to {high:.1%}) on {count:,} test {stored.manifest.noun}"


def print_answers(answers: Sequence[Answer], classes: Sequence[str], *, limited: bool) -> None:
    """Print a table with a row for each input.

    Args:
        limited: whether a file holds all predictions, so that a few rows are enough.
    """
    top = max((len(answer.labels) for answer in answers), default=0)
    shown = answers[: _ROWS_BESIDE_FILES if limited else _ROWS]
    header = ["input", *(f"{rank}." for rank in range(1, top + 1)), "remark"]
    rows = [(printable_name(answer.name), _format_cells(answer, classes, top)) for answer in shown]
    print_table("Predictions", header, rows)
    if len(shown) < len(answers):
        say(f"… and {len(answers) - len(shown):,} more" + ("" if limited else "; --csv FILE holds all"))


def _format_cells(answer: Answer, classes: Sequence[str], top: int) -> list[str]:
    pairs = zip(answer.labels, answer.probabilities, strict=True)
    cells = [f"{printable_name(classes[label])} {_format_share(probability)}" for label, probability in pairs]
    remark = "unlike the training data" if answer.unlike else ("not predicted" if answer.reason else "")
    return [*cells, *[""] * (top - len(cells)), remark]


def _format_share(probability: float) -> str:
    """Return a probability in percent; only 1 itself is 100 %."""
    return f"{min(probability, 0.999):.1%}" if probability < 1 else "100.0%"


def describe_unlike(answers: Sequence[Answer], stored: StoredModel) -> list[str]:
    """Return a sentence on the inputs unlike the training data, with the rate of false alarms; none without a score."""
    unlike, noun = stored.entry.unlike, stored.manifest.noun
    known = [answer for answer in answers if answer.unlike is not None]
    if unlike is None or not known:
        return []
    alarms = sum(bool(answer.unlike) for answer in known)
    limit = f"their maximum logit is lower than for {1 - unlike.share:.0%} of the validation {noun}"
    return [
        f"{alarms:,} of {len(known):,} inputs may be unlike the training data: {limit}{_describe_range(unlike, noun)}. "
        f"The same limits mark {_format_alarms(unlike)} test {noun}. They do not detect every input that is unlike the "
        "training data."
    ]


def _describe_range(unlike: Unlike, noun: str) -> str:
    if unlike.mean_low is None:
        return ""
    values = "brightness or contrast" if noun == "images" else "mean or root mean square"
    return f", or their {values} is outside the range of the validation {noun}"


def _format_alarms(unlike: Unlike) -> str:
    low, high = unlike.false_alarm_rate_low_95, unlike.false_alarm_rate_high_95
    return f"{unlike.false_alarm_rate:.1%} ({low:.1%} to {high:.1%}) of {unlike.n:,}"


def require_answers(answers: Sequence[Answer]) -> None:
    """Raise ``ValueError`` that names the inputs without a prediction, if there are any."""
    failed = [answer for answer in answers if answer.reason]
    if not failed:
        return
    first = "; ".join(f"{printable_name(answer.name)} ({answer.reason})" for answer in failed[:_FAILURES])
    more = f"; and {len(failed) - _FAILURES:,} more" if len(failed) > _FAILURES else ""
    rest = "The others are predicted." if len(failed) < len(answers) else "Nothing was predicted."
    raise ValueError(f"{len(failed):,} of {len(answers):,} inputs cannot be predicted: {first}{more}. {rest}")
