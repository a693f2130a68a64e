"""Settings of ``kd compare``: the settings of ``kd run``, the numbers of pairs and teachers, additional controls."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from kd.checks import DECIDE, MANY, Range, at_least, or_none, require
from kd.commands.method_flags import naming_one_of_several, split_by_method
from kd.commands.paired_settings import PairedSettings
from kd.commands.settings import FLAGS_ALONE

STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.5)  # of label smoothing, to choose from on the validation images


@dataclass(frozen=True, kw_only=True)
class CompareSettings(PairedSettings):
    """Test whether distillation helps: train pairs of control and distilled student, then state a verdict.

    If OUT contains a finished kd run with the same settings, its teacher and logits are reused.
    """

    command: ClassVar[str] = "compare"
    recorded_if_set: ClassVar[frozenset[str]] = FLAGS_ALONE | {"until_decided", "methods", "shifts"}

    # Distillation
    methods: str = ""
    """methods to compare together, separated by commas, instead of --method: one teacher and the same controls for all,
    and a verdict for each, adjusted for their number; --set METHOD.NAME=VALUE sets them"""

    # Evidence
    pairs: Annotated[int, at_least(2, "10 is usual; one pair has no spread", largest=MANY)] = 10
    """pairs of control and distilled student per teacher, at least 2; their seeds count up from SEED"""
    until_decided: bool = False
    """train pairs in rounds and stop once the differences decide, with PAIRS as the maximum; the verdict allows for the
    looks, so with the same PAIRS it needs a larger difference"""
    teachers: Annotated[int, at_least(1, largest=MANY)] = 1
    """teachers to train, at least 1; their seeds count up from SEED. The overall verdict counts each teacher, or each
    split that several share, once"""
    splits: Annotated[int | None, or_none(at_least(1, largest=MANY))] = None
    """training/validation splits, at least 1; their seeds count up from RANDOM_STATE. None: one for each teacher"""
    decide: Annotated[str, DECIDE] = "auto"
    """what decides: errors, balanced (mean error of the classes), nll or recall:CLASS; auto takes balanced if the
    classes of the test set differ in size by more than a factor of 3, else errors"""
    smoothing: Annotated[float | None, or_none(Range(lambda x: 0 <= x < 1, "in [0, 1)", "0 omits this control"))] = None
    """label smoothing of an additional control, in [0, 1): do soft targets alone help as much? None takes the best of
    0.05, 0.1, 0.2, 0.3 and 0.5 on the validation images, by one pilot each, or three if errors do not decide; 0 omits
    it. It replaces --label-smoothing, the recipe of all other models, in this control, and must differ from it"""
    slices: Path | None = None
    """CSV file with a header and a row for each test item: shows where distillation helps and where it harms, for each
    value of each column"""
    shifts: bool = False
    """compare the students on changed test images too: rotated by 15 degrees, with noise, blurred"""
    longer: bool = True
    """add a control trained for as many multiply-adds as a distilled student plus its share of the teacher"""

    def check(self) -> None:
        """Raise ``ValueError`` naming the flag if a setting is outside its range."""
        if self.methods:
            self._check_methods()
            return
        super().check()
        only_loaded = self.teachers > 1 and not self.count_trained_teachers()
        advice = "seeds do not change a loaded teacher"
        require(not only_loaded, "--teachers", self.teachers, "1 with a loaded teacher", advice)
        if self.until_decided:
            from kd.evaluation.sequential import FEWEST  # imports numpy

            require(self.runs == 1, "--until-decided", f"{self.runs} teachers", "used with one teacher and one split")
            require(self.pairs >= FEWEST, "--pairs", self.pairs, f"at least {FEWEST} with --until-decided")
        differs = not self.smoothing or self.smoothing != self.label_smoothing
        advice = "the additional control would be the control; --smoothing 0 omits it"
        require(differs, "--smoothing", self.smoothing, f"unlike --label-smoothing {self.label_smoothing:g}", advice)

    def _check_methods(self) -> None:
        advice = "an ensemble is averaged at the temperature of one method"
        require(len(self.teacher) < 2, "--teacher with --methods", " ".join(self.teacher), "given once", advice)
        require(not self.until_decided, "--until-decided", self.methods, "used with one method, not with --methods")
        advice = "their steps take different times"
        require(not self.dry_run, "--dry-run", self.methods, "used with one method, not with --methods", advice)
        for name, settings in self.by_method.items():
            with naming_one_of_several(name, common=True):
                settings.check()

    @property
    def method_names(self) -> list[str]:
        """Names of the methods to compare, as given."""
        return [name.strip() for name in self.methods.split(",")] if self.methods else [self.method]

    @property
    def by_method(self) -> dict[str, CompareSettings]:
        """The settings for each method alone, by its name; a single entry without ``methods``.

        Raises:
            ValueError: names that are empty or repeated, or a setting that belongs to none of the methods.
        """
        if not self.methods:
            return {self.method: self}
        names = self.method_names
        allowed = "names separated by commas, each once, such as kd,dkd"
        require(all(names) and len({*names}) == len(names), "--methods", self.methods, allowed)
        defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self)}
        require(self.method == defaults["method"], "--method", self.method, "omitted with --methods")
        only_kd = {name: defaults[name] for name in ("temperature", "alpha")}
        for name, default in only_kd.items():
            advice = f"use --set METHOD.{name}=VALUE"
            unused = "kd" not in names and getattr(self, name) != default
            require(not unused, f"--{name}", getattr(self, name), "omitted if --methods does not include kd", advice)
        texts = split_by_method(self.set, names)
        return {
            name: dataclasses.replace(
                self, methods="", method=name, set=texts[name], **({} if name == "kd" else only_kd)
            )
            for name in names
        }

    @property
    def strengths(self) -> tuple[float, ...]:
        """Label smoothing that the additional control may take, if it is chosen here."""
        return tuple(strength for strength in STRENGTHS if strength != self.label_smoothing)

    @property
    def trainings(self) -> dict[str, int]:
        """Number of models to train, by kind; ``longer`` models take more epochs."""
        further = {"smoothed": self.smoothing != 0, "longer": self.longer}
        arms = ["control", "distilled", *(name for name, enabled in further.items() if enabled)]
        pilots = {"pilot": len(self.strengths)} if self.smoothing is None else {}
        teachers = self.runs * self.count_trained_teachers()
        students = dict.fromkeys(arms, self.runs * self.pairs)
        students["distilled"] *= len(self.methods.split(","))
        return {"teacher": teachers, **students, **pilots}

    @property
    def split_count(self) -> int:
        """Number of training/validation splits."""
        return self.teachers if self.splits is None else self.splits

    @property
    def runs(self) -> int:
        """Number of teachers to train: each seed and each split is used at least once."""
        return max(self.teachers, self.split_count)
