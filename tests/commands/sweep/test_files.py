"""Output files and sentences of a sweep."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from kd.commands.sweep.files import student_rows, sweep_files
from kd.commands.sweep.points import list_grid, make_point
from kd.commands.sweep.results import Sweep
from kd.commands.sweep.text import lines, print_sweep
from tests.commands.sweep.test_plots import DEFAULT, SWEEPS, make_sweep


def make_files(sweep: Sweep) -> dict[str, bytes]:
    contents = sweep_files(Path("r"), sweep, {"SEED": 0}, {"control-seed-0": 1.23456}, limit=None)
    return {path.as_posix(): content for path, content in contents.items()}


def test_the_documented_files_contain_every_point_and_student() -> None:
    sweep = SWEEPS["some not finite"]()
    files = make_files(sweep)
    assert sorted(files) == [
        "r/metrics/sweep.csv",
        "r/metrics/sweep.json",
        "r/metrics/sweep_timings.json",
        "r/plots/sweep.png",
    ]
    summary = json.loads(files["r/metrics/sweep.json"])
    assert len(summary["points"]) == 21
    assert [trial["mean"] for trial in summary["points"]][-5:] == [None] * 5
    means = [trial["mean"] for trial in summary["points"][:-5]]
    assert means == sorted(means)
    chosen = summary["points"][0]
    assert summary["roles"]["chosen"] == {"temperature": chosen["temperature"], "alpha": chosen["alpha"]}
    assert summary["roles"]["control"] == {"temperature": None, "alpha": 1.0}
    assert summary["verdict"]["on"] == "chosen"
    table = list(csv.DictReader(io.StringIO(files["r/metrics/sweep.csv"].decode())))
    assert len(table) == 21 * 2 + 3 * 3
    assert {row["test_errors"] for row in table if row["part"] == "tried"} == {""}
    assert all(row["test_errors"] for row in table if row["part"] == "final")
    assert {row["seed"] for row in table if row["part"] == "tried"} == {"0", "1"}
    assert {row["seed"] for row in table if row["part"] == "final"} == {"2", "3", "4"}


def test_all_rows_have_the_same_columns_with_varied_settings() -> None:
    for name, columns in (
        ("two settings more", {"temperature", "alpha", "student_width", "learning_rate"}),
        ("another method", {"control", "beta", "temperature", "epochs"}),
        ("another divergence", {"temperature", "alpha", "divergence"}),
    ):
        rows = list(student_rows(SWEEPS[name]()))
        assert len({tuple(row) for row in rows}) == 1
        assert columns <= set(rows[0])


def test_the_settings_of_another_method_are_in_the_files_and_none_for_its_control() -> None:
    summary = json.loads(make_files(SWEEPS["another method"]())["r/metrics/sweep.json"])
    assert summary["roles"]["documented"] == {"control": False, "beta": 8.0, "temperature": 4.0, "epochs": 10}
    control = summary["roles"]["control"]
    assert control == {"control": True, "beta": None, "temperature": None, "epochs": control["epochs"]}
    assert len(summary["points"]) == 4 * 3 * 2 + 2


def test_the_rates_of_the_chosen_point_reveal_its_selection_bias() -> None:
    sweep = SWEEPS["default"]()
    tried, fresh, test = sweep.rates(sweep.roles["chosen"])
    assert tried == pytest.approx(86.5 / 6000)
    assert fresh == pytest.approx((85 + 88 + 85 + 3 * 4) / 3 / 6000)
    assert test == pytest.approx(((2 * 85 - 2) + (2 * 88 - 0) + (2 * 85 - 1)) / 3 / 10_000)
    (choice, *_) = lines(sweep)
    for rate in (tried, fresh, test):
        assert f"{100 * rate:.2f} %" in choice
    assert "partly luck" in choice


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "default",
            [
                "fewer errors on average (95 % CI ",
                "than the documented point (T = 5, alpha = 0.5)",
                "Distillation at the chosen point (T = 10",
            ],
        ),
        ("documented is best", ["No point is better than the documented one.", "Distillation at the chosen point"]),
        (
            "the control is best",
            ["No point is better than training on the labels alone.", "Distillation at the documented point"],
        ),
        ("controls alone", ["No point is better", "no verdict: neither the chosen nor the documented point"]),
        ("another method", ["Distillation by dkd at the chosen point (beta = ", "labels alone, epochs "]),
        ("two settings more", ["control is also chosen on the validation images: alpha = 1 (labels alone), "]),
    ],
)
def test_the_sentences_name_the_choice_and_the_judged_point(name: str, parts: list[str]) -> None:
    sentences = lines(SWEEPS[name]())
    for part in parts:
        assert any(part in line for line in sentences), sentences


def test_a_documented_point_with_a_non_finite_loss_raises_an_error_naming_it() -> None:
    with pytest.raises(FloatingPointError, match=r"documented point \(T = 5, alpha = 0\.5\).*not finite"):
        make_sweep(list_grid(DEFAULT), failed=[make_point(5, 0.5)])


def test_the_verdict_is_the_last_line_and_refers_to_the_test_images() -> None:
    assert "3 paired seeds and 10,000 test images, given this teacher" in lines(SWEEPS["default"]())[-1]


def test_printed_output_shows_the_best_points_and_all_with_a_role(capsys: pytest.CaptureFixture[str]) -> None:
    print_sweep(SWEEPS["default"](), limit=2000)
    out = " ".join(capsys.readouterr().out.split())
    assert "RUN on 2,000 training images" in out
    assert "21 points with 2 seeds each; the 10 best" in out
    assert "documented" in out
    assert "T = 1, alpha = 0.75" not in out
