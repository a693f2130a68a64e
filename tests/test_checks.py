"""Ranges of all settings (values outside and NaN raise an error with the name), and suggestions for names."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from kd import cli
from kd.checks import check_ranges, did_you_mean, naming_flag, ranges
from kd.commands.settings import RunSettings

DECLARED = {name: command.settings for command in cli.COMMANDS.values() for name in ranges(command.settings)}

# Smallest and largest allowed values, and the closest values outside.
INSIDE: dict[str, tuple[object, ...]] = {
    "batch_size": (1, 10**6),
    "test_size": (1e-9, 0.999),
    "random_state": (0, 10**6),
    "epochs": (1, 10**6),
    "learning_rate": (1e-12, 1e36),
    "seed": (0, 10**6),
    "temperature": (1e-3, 5, 1e4),
    "alpha": (0, 0.5, 1),
    "student_width": (1, 10**6),
    "snapshot_seconds": (0, 30, math.inf),
    "pairs": (2, 10**6),
    "margin": (1e-9, 100),
    "teachers": (1, 10**6),
    "splits": (None, 1, 10**6),
    "smoothing": (None, 0, 0.1, 0.999),
    "decide": ("auto", "errors", "balanced", "nll", "recall:7"),
    "seeds": (1, 10**6),
    "trials": (None, 1, 10**6),
    "final_pairs": (2, 10**6),
    "processes": (None, 1, 10**6),
    "rows": (1, 10_000),
    "calibration": (1, 512, 100_000),
    "threads": (1, 64, 1024),
    "top": (1, 1000),
    "views": (None, 1, 25),
    "workers": (None, 0, 16),
    "limit": (None, 100, 60_000),
    "test_share": (1e-9, 0.5, 0.999),
    "image_size": (None, 1, 224),
    "label_smoothing": (0, 0.1, 0.999),
    "distill": (0, 10**6),
    "track": (None, "tensorboard", "mlflow", "trackio"),
    "mixup": (None, 1e-3, 0.2, 1e3),
    "cutmix": (None, 1e-3, 1, 1e3),
    "teacher_head": ("own", "fit"),
}
RECIPE_INSIDE: dict[str, tuple[object, ...]] = {
    "optimizer": ("adam", "adamw", "sgd"),
    "momentum": (0, 0.9, 0.999),
    "weight_decay": (0, 0.05, 1),
    "schedule": ("linear", "cosine", "constant", "step"),
    "warmup": (0, 0.1, 1, 5.5),
    "clip": (0, 1, 1e6),
    "accumulate": (1, 10**6),
    "ema": (0, 0.999),
    "precision": ("float32", "bfloat16", "float16"),
    "keep": ("last", "best"),
    "patience": (0, 10**6),
}
RECIPE_OUTSIDE: dict[str, tuple[object, ...]] = {
    "optimizer": ("lion", "Adam", ""),
    "momentum": (1, -0.1, math.nan),
    "weight_decay": (-0.1, math.nan),
    "schedule": ("poly",),
    "warmup": (-1, math.nan),
    "clip": (-1, math.nan),
    "accumulate": (0, -1),
    "ema": (1, -0.1, math.nan),
    "precision": ("float64", "half"),
    "keep": ("first",),
    "patience": (-1,),
}
OUTSIDE: dict[str, tuple[object, ...]] = {
    "batch_size": (0, -1),
    "test_size": (0, 1, -0.1, math.nan),
    "random_state": (-1,),
    "epochs": (0, -3),
    "learning_rate": (0, -1e-3, math.inf, math.nan),
    "seed": (-1,),
    "temperature": (0, -1, math.inf, math.nan),
    "alpha": (-0.01, 1.01, math.nan),
    "student_width": (0,),
    "snapshot_seconds": (-1, math.nan),
    "pairs": (1, 0),
    "calibration": (0, -1),
    "threads": (0, -1),
    "margin": (0, 100.1, -0.1, math.nan),
    "teachers": (0,),
    "splits": (0,),
    "smoothing": (1, -0.1, math.nan),
    "decide": ("accuracy", "recall"),
    "seeds": (0, -1),
    "trials": (0, -1),
    "final_pairs": (1, 0),
    "processes": (0, -1),
    "limit": (0, 99),
    "rows": (0, -1),
    "top": (0, -1),
    "views": (0, -1),
    "workers": (-1,),
    "test_share": (0, 1, -0.1, math.nan),
    "image_size": (0, -1),
    "label_smoothing": (-0.1, 1, math.nan),
    "distill": (-1,),
    "track": ("wandb", "TensorBoard", ""),
    "mixup": (0, -0.2, 2e3, math.nan),
    "cutmix": (0, 1e-4, math.inf, math.nan),
    "teacher_head": ("new", ""),
}


# The recipe's settings, also of the teacher alone, where None takes the value of the students.
_SHARED = ("batch_size", "epochs", "learning_rate")
_OWN = {name: (INSIDE | RECIPE_INSIDE)[name] for name in (*RECIPE_INSIDE, *_SHARED)}
INSIDE = {**INSIDE, **RECIPE_INSIDE, **{f"teacher_{name}": (None, *values) for name, values in _OWN.items()}}
_NOT_OWN = {name: (OUTSIDE | RECIPE_OUTSIDE)[name] for name in (*RECIPE_OUTSIDE, *_SHARED)}
OUTSIDE = {**OUTSIDE, **RECIPE_OUTSIDE, **{f"teacher_{name}": values for name, values in _NOT_OWN.items()}}


def test_the_tables_of_this_file_cover_every_range() -> None:
    assert set(INSIDE) == set(OUTSIDE) == set(DECLARED)


@pytest.mark.parametrize("name", DECLARED)
def test_a_value_inside_its_range_passes(name: str) -> None:
    for value in INSIDE[name]:
        check_ranges(DECLARED[name], {name: value}, shown=str.upper)


@pytest.mark.parametrize("name", DECLARED)
def test_a_value_outside_its_range_is_refused_with_name_range_and_value(name: str) -> None:
    for value in OUTSIDE[name]:
        allowed = ranges(DECLARED[name])[name].allowed
        with pytest.raises(ValueError, match=re.escape(f"<{name}> must be {allowed}. Got {value!r} inst")):
            check_ranges(DECLARED[name], {name: value}, shown=lambda name: f"<{name}>")


HUGE = ("seed", "epochs", "batch_size", "temperature", "pairs", "workers", "views", "student_width", "random_state")


@pytest.mark.parametrize("name", HUGE)
def test_a_number_that_would_overflow_or_exhaust_the_machine_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"<{name}> must be at most [\d,]+\. Got {10**20} instead"):
        check_ranges(DECLARED[name], {name: 10**20}, shown=lambda name: f"<{name}>")


@pytest.mark.parametrize("value", ["data\udcff", Path("run\udcff"), ("a", "b\ud800")])
def test_a_text_that_is_not_utf_8_is_named_before_any_work(value: object) -> None:
    with pytest.raises(ValueError, match="<data> must be text in UTF-8"):
        check_ranges(RunSettings, {"data": value}, shown=lambda name: f"<{name}>")


def test_settings_without_a_range_and_unknown_names_are_ignored() -> None:
    check_ranges(RunSettings, {"out": "anywhere", "nonsense": -1, "epochs": 1}, shown=str.upper)


def test_a_misspelt_name_gets_up_to_three_suggestions_or_the_alternative() -> None:
    assert did_you_mean("hiden", ["hidden", "output"], "It has two.") == "Did you mean hidden?"
    assert did_you_mean("conv", ["conv1", "conv2", "conv3", "conv4"]).count(" or ") == 2
    assert did_you_mean("zzz", ["hidden", "output"], "It has two.") == "It has two."


def test_an_error_that_names_no_flag_gets_one() -> None:
    cases = {
        "--data x: bad": ValueError("bad"),
        "bad (--columns)": ValueError("bad (--columns)"),
        "--data x: a--b is bad": ValueError("a--b is bad"),
        "--data x: gone": OSError("gone"),
        "--data x: No such file: a.npz": FileNotFoundError(2, "No such file", "a.npz"),
    }
    for text, error in cases.items():
        with pytest.raises(OSError if isinstance(error, OSError) else ValueError) as caught, naming_flag("--data x"):
            raise error
        assert str(caught.value) == text
