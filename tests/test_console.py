"""Console output: a progress bar on a terminal; elsewhere plain lines without control characters or truncation."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kd
from kd.console import print_table, printable, printable_name, progress, say
from kd.training.hooks import print_epoch

ESCAPE = "\x1b"
DIGITS = [str(k) for k in range(10)]
# The widest table: predictions per class on MNIST's 10,000 test images.
DISTRIBUTION = {name: ["1,135"] * 10 for name in ("true", "teacher", "control", "distilled")}


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an output without a terminal or a known size, wherever the tests run."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


def a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", str(columns)), ("LINES", "40")):
        monkeypatch.setenv(name, value)


def cells(text: str) -> list[list[str]]:
    """Return the rows of a printed table, without the frame."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    return [[cell.strip() for cell in re.split("[│┃|]", line)[1:-1]] for line in plain.splitlines() if "│" in line]


def history() -> kd.History:
    result = kd.History(train_loss=[0.9, 0.12345], train_acc=[0.5, 0.98765], val_loss=[0.8, 0.2], val_acc=[0.6, 0.97])
    result.seconds = 83.4
    return result


@pytest.mark.parametrize(
    "text", ["a [red]word[/red] in brackets", "C:\\results", "x" * 300, "α · CE, 99.30 % of [0, 1]"]
)
def test_say_prints_text_unchanged_on_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    assert capsys.readouterr().out == text + "\n"


def test_say_prints_colons_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    say("results:key:/plots")
    assert capsys.readouterr().out == "results:key:/plots\n"


def test_an_epoch_is_one_plain_line_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    hook = print_epoch("distilled", 10)
    hook(2, history())
    hook(10, history())
    printed = capsys.readouterr().out
    first, second = printed.splitlines()
    assert ESCAPE not in printed
    assert "\r" not in printed
    assert first.startswith("distilled")
    for part in (" 2/10", "train loss 0.1235", "accuracy 98.77%", "val loss 0.2000", "accuracy 97.00%", "83 s"):
        assert part in first
    assert "10/10" in second
    assert first.index("train") == second.index("train")


def test_an_epoch_without_validation_does_not_mention_it(capsys: pytest.CaptureFixture[str]) -> None:
    curves = {name: values for name, values in history().items() if not name.startswith("val_")}
    print_epoch("student", 10)(2, kd.History(curves))
    assert capsys.readouterr().out == "student    epoch  2/10  train loss 0.1235 accuracy 98.77%  0 s\n"


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training", steps=3) as advance:
        for _ in range(3):
            advance()
    assert capsys.readouterr() == ("", "")


def test_progress_shows_percent_and_time_left_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_terminal(monkeypatch)
    with progress("training the teacher", steps=4) as advance:
        for _ in range(3):
            advance()
    output = capsys.readouterr().out
    assert ESCAPE in output
    for part in ("training the teacher", "75%"):
        assert part in output
    assert re.search(r"\d:\d\d:\d\d|-:--:--", output)


def test_progress_ends_with_its_block_even_on_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), progress("training", steps=4):
        raise KeyboardInterrupt
    assert capsys.readouterr().out.rindex("\x1b[?25h") >= 0, "the cursor must be visible again"


def test_a_table_is_plain_and_whole_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Predictions per class", ("", *DIGITS), DISTRIBUTION)
    printed = capsys.readouterr().out
    assert ESCAPE not in printed
    assert printed.startswith("Predictions per class")
    assert cells(printed) == [[name, *row] for name, row in DISTRIBUTION.items()]
    assert max(map(len, printed.splitlines())) > 80


def test_numbers_are_right_aligned_and_names_left_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", ("model", "errors"), {"a": ["1"], "longer": ["1,000"]})
    printed = capsys.readouterr().out
    assert "│ a      │      1 │" in printed
    assert "│ longer │  1,000 │" in printed


def test_a_table_of_26_classes_is_whole_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Predictions per class", ("", *map(str, range(26))), {"distilled": ["1,135"] * 26})
    assert cells(capsys.readouterr().out) == [["distilled", *["1,135"] * 26]]


@pytest.mark.parametrize("columns", [100, 80])
def test_the_table_of_ten_classes_is_whole_on_a_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_terminal(monkeypatch, columns)
    print_table("Predictions per class", ("class", *DISTRIBUTION), {digit: ["1,135"] * 4 for digit in DIGITS})
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert printed.count("1,135") == 40


def test_a_line_printed_during_a_progress_bar_starts_on_a_new_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_terminal(monkeypatch)
    with progress("training", steps=4) as advance:
        advance()
        say("epoch 1/2")
    printed = capsys.readouterr().out
    assert "training" in printed
    assert re.search(r"\r\x1b\[2Kepoch 1/2\n", printed), "the bar was not erased before the line"


@given(st.text())
@pytest.mark.slow
def test_printed_text_controls_no_terminal(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t"]
    assert not set(shown) & set("\u202a\u202e\u2066\u2069")
    shown.encode()
    if text.isprintable():
        assert shown == text


def test_names_from_data_are_printed_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b]0;title\x07 \udcff a\rb")
    print_table("Title", ("", "[red]"), {"[/]": ("\x1b[31m",)})
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b]0;title\\x07 \\udcff a\\rb" in printed
    assert "[/]" in printed
    assert "[red]" in printed
    assert "\\x1b[31m" in printed


HEADER = ("distilled minus", "mean", "95 % CI (t)", "bootstrap CI", "p (t)", "p (Wilcoxon)", "p (sign)")


@pytest.mark.parametrize("name", ["control", "chosen: T = 10, alpha = 0.25, student_width = 256, epochs = 40 " * 2])
@pytest.mark.parametrize("width", [30, 40, 60, 80, 100])
def test_a_narrow_terminal_shows_every_cell(
    width: int, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_terminal(monkeypatch, columns=width)
    row = ["+1,783.3", "+1,600.1 to +1,900.2", "+1,601.0 to +1,899.0", "< 0.0001", "0.0021", "0.002"]
    print_table("Paired differences in test errors; the verdict uses the first row's t interval", HEADER, {name: row})
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    if width >= 60:  # below, cells are wrapped
        assert set(row) <= {cell for line in cells(printed) for cell in line}


def test_a_printable_name_is_one_line() -> None:
    assert printable_name("a\tb\nc\rd\x1b[31m\udcff") == "a\\tb\\nc\\rd\\x1b[31m\\udcff"
    assert printable_name("Ä \u3000 \u200c 猫") == "Ä \u3000 \u200c 猫"
