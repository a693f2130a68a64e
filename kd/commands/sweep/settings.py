"""Settings of ``kd sweep``: the settings of ``kd run``, the values to try and the numbers of students."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from tyro.conf import UseAppendAction

from kd.checks import MANY, at_least, naming_flag, or_none, ranges, require, require_in_range
from kd.commands.paired_settings import PairedSettings
from kd.commands.recipe_settings import RecipeSettings
from kd.methods import Setting, method_named, settings_of

Value = Setting | None  # of a varied setting

OF_METHOD = "set."  # prefix of a setting of the method that has the name of a setting of the students
GRID = ("temperature", "alpha")  # settings of kd that have flags for their values


@dataclass(frozen=True, kw_only=True)
class SweepSettings(PairedSettings):
    """Choose temperature and alpha: train many students from one teacher and compare them on the validation images.

    TEMPERATURE and ALPHA define the documented point, the baseline of the choice. The chosen point, the documented
    point and the control are then trained with fresh seeds and tested once. If OUT contains a finished kd run with the
    same settings, its teacher and logits are reused. With another METHOD, VARY lists the values of its settings.
    """

    command: ClassVar[str] = "sweep"

    # Points
    temperatures: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0)
    """temperatures of kd to try, each above 0"""
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """weights of the labels in kd to try, in [0, 1]; 1 is the control, which is always tried"""
    vary: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE,VALUE,… varies another setting: of the students, such as student_width, learning_rate, epochs or
    batch_size, or of the method (--set)"""
    trials: Annotated[int | None, or_none(at_least(1, "30 is usual", largest=MANY))] = None
    """points that Optuna proposes between the smallest and largest values, at least 1; None tries every combination"""
    seeds: Annotated[int, at_least(1, "a standard deviation needs 2", largest=MANY)] = 2
    """students per point, at least 1; all points use the same seeds, counting up from SEED"""

    # Evidence
    final_pairs: Annotated[int, at_least(2, "one pair has no spread", largest=MANY)] = 5
    """fresh seeds for testing the chosen point, the documented point and the control, at least 2"""

    @property
    def trainings(self) -> dict[str, int]:
        """Upper bound on the number of models to train, by kind; equal points are trained once."""
        others = math.prod(len(values) for values in self.varied.values())
        of_method = math.prod(len(values) for values in self.varied_of_method.values())
        grid = len(self.temperatures) * len(self.alphas) if self.method == "kd" else 1
        points = self.trials or grid * of_method * others
        controls = min(self.trials or others, others)
        return {
            "teacher": self.count_trained_teachers(),
            "control": controls * self.seeds + self.final_pairs,
            "distilled": points * self.seeds + 2 * self.final_pairs,
        }

    @property
    def varied(self) -> dict[str, tuple[Value, ...]]:
        """Names and values of the students' settings in ``vary``, without duplicates.

        Raises:
            ValueError: a text is not NAME=VALUE,VALUE,… or the setting is not one that can vary under one teacher.
        """
        kinds = student_settings()
        return {name: kinds[name].parse(name, listed) for name, listed in self._parse_vary() if name in kinds}

    @property
    def varied_of_method(self) -> dict[str, tuple[Setting, ...]]:
        """Names and values of the method's settings in ``vary``; a name that students have too starts with ``set.``.

        Raises:
            ValueError: see ``varied``.
        """
        of_students = student_settings()
        return {
            name: self._parse_method_values(name.removeprefix(OF_METHOD), listed)
            for name, listed in self._parse_vary()
            if name not in of_students
        }

    def _parse_vary(self) -> Iterator[tuple[str, str]]:
        """Yield name and listed values of each text in ``vary``."""
        students, of_method = student_settings(), method_named(self.method).settings
        seen = set[str]()
        for text in self.vary:
            name, equals, listed = text.partition("=")
            name = name.strip()
            require(bool(equals), "--vary", text, "NAME=VALUE,VALUE,…", "for example --vary student_width=64,256")
            if name.replace("-", "_") in students:
                name = name.replace("-", "_")
            elif name.removeprefix(OF_METHOD) in of_method:
                setting = name.removeprefix(OF_METHOD)
                name = OF_METHOD + setting if setting in students else setting
            allowed = [*students, *(key for key in of_method if self.method != "kd" or key not in GRID)]
            is_grid = self.method == "kd" and name in GRID
            advice = f"use --{name}s" if is_grid else f"other settings are not of the students or of {self.method}"
            is_known = name in students or name.removeprefix(OF_METHOD) in of_method
            require(is_known and not is_grid, "--vary", name, f"one of {', '.join(allowed)}", advice)
            require(name not in seen, f"--vary {name}", text, "given once", "list all values after one =")
            seen.add(name)
            yield name, listed

    def _parse_method_values(self, name: str, listed: str) -> tuple[Setting, ...]:
        with naming_flag(f"--vary {name}"):
            values = [settings_of(self.method, {name: value})[name] for value in listed.split(",")]
        return tuple(dict.fromkeys(values))

    def check(self) -> None:
        """Raise ``ValueError`` naming the flag if a setting is outside its range or a search lacks Optuna."""
        super().check()
        self._check_fixed()
        self._check_grid()
        fixed = "student_width" in self.varied and self.student != "mlp"
        require(
            not fixed,
            "--vary student_width",
            self.student,
            "used with --student mlp, without a file",
            "other students have no such width",
        )
        for name, values in self.varied.items():
            _check_values(name, values, f"--vary {name}")
            self._require_documented(name, values, getattr(self, name), f"--{name.replace('_', '-')}")
        for name, of_method in self.varied_of_method.items():
            setting = name.removeprefix(OF_METHOD)
            documented = settings_of(self.method, self.method_settings)[setting]
            if "," in str(documented):
                raise ValueError(
                    f"--vary {name} must be omitted: {documented!r}, the value of --set {setting}, has commas, which "
                    "separate the values of --vary. Use kd compare with --set for each value."
                )
            self._require_documented(name, of_method, documented, f"--set {setting}")
        self._check_combinations()
        if self.trials is not None and importlib.util.find_spec("optuna") is None:
            raise ValueError(
                "--trials needs Optuna, which is not installed: pip install 'paired-distillation[search]'. Or omit "
                "--trials to try every combination of the values."
            )

    def _check_combinations(self) -> None:
        """Refuse values whose combination clashes, or that have no effect in one."""
        warmups, advice = self.varied.get("warmup", ()), "below 1 it is a share of the training, else epochs"
        numbers = [value for value in warmups if isinstance(value, float)]
        crosses = self.trials is not None and bool(numbers) and min(numbers) < 1 <= max(numbers)
        require(not crosses, "--vary warmup", warmups, "all below 1 or all at least 1 with --trials", advice)
        varied = {**self.varied, **self.varied_of_method}
        for values in itertools.product(*varied.values()):
            chosen = dict(zip(varied, values, strict=True))
            students = {name: value for name, value in chosen.items() if name in self.varied}
            own = {name.removeprefix(OF_METHOD): v for name, v in chosen.items() if name not in self.varied}
            texts = [text for text in self.set if text.partition("=")[0] not in own]
            texts += [f"{name}={value}" for name, value in own.items()]
            candidate: SweepSettings = dataclasses.replace(self, vary=(), set=tuple(texts), **students)  # type: ignore[arg-type]
            try:
                candidate.check_training()
                candidate.check_smoothing()
                ignored = "momentum" in students and candidate.optimizer != "sgd"
                require(not ignored, "--momentum", candidate.momentum, "omitted without --optimizer sgd")
            except ValueError as error:
                flags = " ".join(f"--vary {name}={value}" for name, value in chosen.items())
                raise ValueError(f"{flags}: {error}") from error

    def _check_fixed(self) -> None:
        """Refuse settings with which the students of all points cannot share one teacher and its cached logits."""
        require(
            self.unlabelled is None, "--unlabelled", str(self.unlabelled), "omitted", "kd run and kd compare accept it"
        )
        flags, advice = self.mixing_flags, "kd sweep needs cached logits; kd run and kd compare accept it"
        require(not flags, "--mixup and --cutmix", flags, "omitted", advice)
        require(
            not self.live, "--augment", " ".join(self.augment), "given with --views V", "kd sweep needs cached logits"
        )
        advice = "several are averaged at one temperature, but a sweep varies it"
        require(len(self.teachers_chosen) == 1, "--teacher of kd sweep", " ".join(self.teacher), "given once", advice)

    def _check_grid(self) -> None:
        """Check the values of kd's temperature and alpha, and that another method has values to vary."""
        for name, grid_values in {"temperatures": self.temperatures, "alphas": self.alphas}.items():
            require(len(grid_values) >= 1, f"--{name}", grid_values, "at least one number")
            _check_values(name.removesuffix("s"), grid_values, f"--{name}")
            setting = name.removesuffix("s")
            has_it = setting in method_named(self.method).settings
            advice = (
                f"for {self.method} use --vary {setting}=VALUE,VALUE" if has_it else f"{self.method} has no {setting}"
            )
            is_default = grid_values == _default(name)
            require(self.method == "kd" or is_default, f"--{name}", grid_values, "used with --method kd", advice)
        if self.method != "kd" and not self.vary:
            known = ", ".join([*method_named(self.method).settings, *student_settings()])
            raise ValueError(
                f"--vary must be given for --method {self.method}: NAME=VALUE,VALUE,… for a setting of the method "
                f"or of the students. Settings: {known}."
            )

    def _require_documented(self, name: str, values: Sequence[Value], documented: Value, flag: str) -> None:
        """Check that the documented point is a candidate: its value must be among the values or in their range."""
        included = documented in values
        if is_range(values) and isinstance(documented, float):
            numbers = [value for value in values if isinstance(value, float)]
            included = min(numbers) <= documented <= max(numbers)
        allowed = f"values that include {documented or repr(documented)}, the value of {flag}"
        advice = "; a value with commas, such as a list of layers, cannot be varied" if documented == "" else ""
        require(included, f"--vary {name}", values, allowed, f"or set {flag} to one of your values{advice}")


def is_range(values: Sequence[Value]) -> bool:
    """Return whether a search may propose any number between these values, rather than only the values themselves."""
    return all(isinstance(value, float) for value in values)


class Kind(NamedTuple):
    """Type of a setting that can vary, its named choices if it has any, and whether it may be None."""

    type: type[int] | type[float] | type[str]
    choices: tuple[str, ...]
    optional: bool

    def parse(self, name: str, listed: str) -> tuple[Value, ...]:
        """Return the listed values without duplicates; ``none`` is None.

        Raises:
            ValueError: a value has the wrong type or is not one of the choices.
        """
        values: list[Value] = []
        for text in listed.split(","):
            if self.optional and text.strip().lower() == "none":
                values.append(None)
                continue
            is_choice = text in self.choices or not self.choices
            require(is_choice, f"--vary {name}", text, f"one of {', '.join(self.choices)}")
            try:
                values.append(self.type(text))
            except ValueError as error:
                allowed = "integers" if self.type is int else "numbers"
                raise ValueError(
                    f"--vary {name} must be {allowed} separated by commas. Got {listed!r} instead."
                ) from error
        return tuple(dict.fromkeys(values))


def student_settings() -> dict[str, Kind]:
    """Return the settings that can vary under one teacher: numbers and named choices of the students' recipe."""
    hints = {"student_width": int, **typing.get_type_hints(RecipeSettings)}
    kinds = {name: _kind_of(hint) for name, hint in hints.items()}
    fixed = {"seed", "class_weights"}  # class weights are computed once, with the data
    fixed |= {"keep", "patience"}  # a point that chooses its epoch by the validation images has an advantage on them
    fixed |= {"mixup", "cutmix"}  # refused, because the teacher would run at every step
    return {n: kind for n, kind in kinds.items() if kind and n not in fixed and not n.startswith("teacher_")}


def _kind_of(hint: Any) -> Kind | None:
    """Return the kind of a number, a text or a ``Literal`` of texts, or of one of these or None; else None."""
    optional = NoneType in typing.get_args(hint)
    parts = [part for part in typing.get_args(hint) if part is not NoneType] if optional else [hint]
    if len(parts) == 1 and typing.get_origin(parts[0]) is Literal:
        return Kind(str, typing.get_args(parts[0]), optional)
    return Kind(parts[0], (), optional) if len(parts) == 1 and parts[0] in (int, float, str) else None


def _default(name: str) -> Any:
    return next(field.default for field in dataclasses.fields(SweepSettings) if field.name == name)


def _check_values(setting: str, values: Sequence[Value], label: str) -> None:
    allowed = ranges(PairedSettings).get(setting)
    for value in values if allowed else ():
        require_in_range(label, value, allowed)  # type: ignore[arg-type]
