"""Settings of the training recipe: how each network is trained. Imports no torch, like ``kd.commands.settings``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, TypeVar

from kd.checks import LEARNING_RATE, Range, at_least, one_of, or_none, require

BALANCED = "balanced"  # class weights computed from the training split

# Settings that no longer exist, and their replacements.
REPLACED = {
    "bfloat16": "use --precision bfloat16 for every training, or --teacher-precision bfloat16 for the teacher's alone"
}
OPTIMIZER = one_of("adam", "adamw", "sgd")
SCHEDULE = one_of("linear", "cosine", "constant", "step")
PRECISION = one_of("float32", "bfloat16", "float16")
KEEP = one_of("last", "best")
MOMENTUM = Range(lambda x: 0 <= x < 1, "in [0, 1)", "0.9 is usual")
WEIGHT_DECAY = Range(lambda x: x >= 0, "at least 0", "0.05 is usual for adamw, 0.0005 for sgd", 1e6)
WARMUP = Range(lambda x: x >= 0, "at least 0", "a share of the training if below 1, else epochs", 1e9)
CLIP = Range(lambda x: x >= 0, "at least 0", "1 is usual; 0 does not clip")
SMOOTHING = Range(lambda x: 0 <= x < 1, "in [0, 1)", "0.1 is usual")
MIXING = Range(lambda x: 1e-3 <= x <= 1e3, "in [0.001, 1000]", "0.2 to 1 is usual")
EMA = Range(lambda x: 0 <= x < 1, "in [0, 1)", "0.999 is usual; 0 keeps no average")

# A sentence for reports.
CHOSEN_EPOCH = (
    "The final weights are those of the epoch with the best validation results, which are therefore too good. Control "
    "and distilled student are chosen alike, and the test set plays no part."
)

Settings = TypeVar("Settings", bound="RecipeSettings")


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """How the teacher, the control and the distilled student are trained."""

    batch_size: Annotated[int, at_least(1)] = 128
    """images per training step, at least 1"""
    epochs: Annotated[int, at_least(1)] = 10
    """epochs of each training run, at least 1"""
    learning_rate: Annotated[float, LEARNING_RATE] = 4e-3
    """largest learning rate, above 0; by default the initial one of Adam, which decays linearly to 0"""
    optimizer: Annotated[str, OPTIMIZER] = "adam"
    """optimizer: adam, adamw or sgd; adamw equals adam unless --weight-decay is above 0"""
    momentum: Annotated[float, MOMENTUM] = 0.9
    """momentum of sgd, in [0, 1)"""
    nesterov: bool = False
    """Nesterov momentum of sgd"""
    weight_decay: Annotated[float, WEIGHT_DECAY] = 0.0
    """weight decay, at least 0; norms and biases (parameters of one dimension) do not decay. With 0, adamw is
    adam"""
    schedule: Annotated[str, SCHEDULE] = "linear"
    """course of the learning rate: linear or cosine to 0, constant, or step (a tenth after each third)"""
    warmup: Annotated[float, WARMUP] = 0.0
    """linear warm-up of the learning rate, at least 0: a share of the training if below 1, else epochs"""
    clip: Annotated[float, CLIP] = 0.0
    """largest norm of a step's gradient, at least 0; 0 does not clip"""
    accumulate: Annotated[int, at_least(1)] = 1
    """batches per optimizer step, at least 1; every image has the same weight in a step, except with --class-weights,
    which are normalised per batch"""
    ema: Annotated[float, EMA] = 0.0
    """decay of a moving average of weights and buffers, in [0, 1); the averaged model is evaluated after each epoch
    and is the result; 0 keeps none"""
    precision: Annotated[str, PRECISION] = "float32"
    """precision of training: float32, bfloat16 or float16 (steps whose gradient overflows are skipped and counted);
    weights and evaluation stay float32"""
    keep: Annotated[str, KEEP] = "last"
    """epoch whose weights are kept: last, or best, the one with the best validation accuracy (ties: lowest
    cross-entropy); with best, validation results are too good, because they chose the epoch"""
    patience: Annotated[int, at_least(0)] = 0
    """with --keep best: stop after this many epochs in a row without a better one; 0 trains all"""
    seed: Annotated[int, at_least(0)] = 0
    """seed of initial weights, batch order and dropout, at least 0"""

    # Labels and mixed samples, of every training: teacher, control and distilled student
    class_weights: str | None = None
    """weights of the classes in the label term of every training: balanced (training samples / (classes · samples of
    the class)), or a CSV file with the header class,weight and a line for each class"""
    label_smoothing: Annotated[float, SMOOTHING] = 0.0
    """label smoothing of every training, in [0, 1): teacher, control and distilled student alike; not to be confused
    with --smoothing of kd compare, for one additional control"""
    mixup: Annotated[float | None, or_none(MIXING)] = None
    """mix pairs of training samples with weights from Beta(MIXUP, MIXUP), in [0.001, 1000]: the same mixtures for
    control and distilled student, and the teacher runs on them at every step; None turns it off"""
    cutmix: Annotated[float | None, or_none(MIXING)] = None
    """replace a rectangle of each training image by another image, its area from Beta(CUTMIX, CUTMIX), in
    [0.001, 1000]; with --mixup too, each batch uses one of the two at random; None turns it off"""

    # The teacher's own recipe; None takes the value of the students.
    teacher_batch_size: Annotated[int | None, or_none(at_least(1))] = None
    """--batch-size of the teacher; defaults to the students' value"""
    teacher_epochs: Annotated[int | None, or_none(at_least(1))] = None
    """--epochs of the teacher; defaults to the students' value"""
    teacher_learning_rate: Annotated[float | None, or_none(LEARNING_RATE)] = None
    """--learning-rate of the teacher; defaults to the students' value"""
    teacher_optimizer: Annotated[str | None, or_none(OPTIMIZER)] = None
    """--optimizer of the teacher; defaults to the students' value"""
    teacher_momentum: Annotated[float | None, or_none(MOMENTUM)] = None
    """--momentum of the teacher; defaults to the students' value"""
    teacher_weight_decay: Annotated[float | None, or_none(WEIGHT_DECAY)] = None
    """--weight-decay of the teacher; defaults to the students' value"""
    teacher_schedule: Annotated[str | None, or_none(SCHEDULE)] = None
    """--schedule of the teacher; defaults to the students' value"""
    teacher_warmup: Annotated[float | None, or_none(WARMUP)] = None
    """--warmup of the teacher; defaults to the students' value"""
    teacher_clip: Annotated[float | None, or_none(CLIP)] = None
    """--clip of the teacher; defaults to the students' value"""
    teacher_accumulate: Annotated[int | None, or_none(at_least(1))] = None
    """--accumulate of the teacher; defaults to the students' value"""
    teacher_ema: Annotated[float | None, or_none(EMA)] = None
    """--ema of the teacher; defaults to the students' value"""
    teacher_precision: Annotated[str | None, or_none(PRECISION)] = None
    """--precision of the teacher; defaults to the students' value"""
    teacher_keep: Annotated[str | None, or_none(KEEP)] = None
    """--keep of the teacher; defaults to the students' value"""
    teacher_patience: Annotated[int | None, or_none(at_least(0))] = None
    """--patience of the teacher; defaults to the students' value"""

    @property
    def mixing_flags(self) -> str:
        """The flags that mix training samples, with their values; "" if none does."""
        values = {"--mixup": self.mixup, "--cutmix": self.cutmix}
        return " ".join(f"{flag} {value:g}" for flag, value in values.items() if value is not None)

    def check_recipe(self) -> None:
        """Raise ``ValueError`` for settings of the recipe that clash; the error names the flag."""
        teacher = teacher_settings(self)
        sgd = "sgd" in (self.optimizer, teacher.optimizer)
        require(sgd or not self.nesterov, "--nesterov", self.nesterov, "omitted without --optimizer sgd")
        is_used = sgd or self.momentum == RecipeSettings.momentum
        require(is_used, "--momentum", self.momentum, "omitted without --optimizer sgd", "other optimizers ignore it")
        is_used = teacher.optimizer == "sgd" or self.teacher_momentum is None
        allowed = "omitted without --teacher-optimizer sgd"
        require(is_used, "--teacher-momentum", self.teacher_momentum, allowed, "other optimizers ignore it")
        self.check_training()
        teacher.check_training("--teacher-")

    def check_training(self, prefix: str = "--") -> None:
        """Raise ``ValueError`` for settings of a single training that clash, without the teacher's own.

        Args:
            prefix: of the flags in errors.
        """
        nesterov = self.optimizer == "sgd" and self.nesterov
        require(not nesterov or self.momentum > 0, f"{prefix}momentum", self.momentum, "above 0 with --nesterov")
        alone = self.patience > 0 and self.keep != "best"
        require(not alone, f"{prefix}patience", self.patience, f"0, or given with {prefix}keep best")
        too_long = self.warmup >= 1 and self.warmup >= self.epochs
        allowed = f"below the number of epochs, {self.epochs}"
        require(not too_long, f"{prefix}warmup", self.warmup, allowed, "below 1 it is a share of the training")

    def require_no_teacher_flags(self) -> None:
        """Raise ``ValueError`` if a setting is for the training of the teacher alone: no teacher is trained."""
        for name in _TEACHERS:
            value, advice = getattr(self, name), "no teacher is trained"
            require(value is None, f"--{name.replace('_', '-')}", value, "omitted with a loaded teacher", advice)


# Settings of the recipe that are not constants of the documented pipeline.
RECIPE_FLAGS = frozenset(field.name for field in dataclasses.fields(RecipeSettings)) - {
    "batch_size",
    "epochs",
    "learning_rate",
    "seed",
}
_TEACHERS = tuple(field.name for field in dataclasses.fields(RecipeSettings) if field.name.startswith("teacher_"))


def teacher_settings(settings: Settings) -> Settings:
    """Return the settings with the teacher's own recipe, where it has one, in place of the students'."""
    values = {name.removeprefix("teacher_"): getattr(settings, name) for name in _TEACHERS}
    return dataclasses.replace(settings, **{name: value for name, value in values.items() if value is not None})


def remark_on_epoch(settings: RecipeSettings) -> list[str]:
    """Return a sentence on the choice of the epoch, if the validation results choose it."""
    return ["Every student is taken at its best epoch on the validation set."] if settings.keep == "best" else []


def describe_recipe(settings: RecipeSettings) -> str:
    """Return the flags of the recipe that differ from their defaults, and the choice of the weights that count."""
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(RecipeSettings)}
    defaults = {field.name: field.default for field in dataclasses.fields(RecipeSettings)}
    changed = {name: value for name, value in given.items() if name in RECIPE_FLAGS and value != defaults[name]}
    flags = [f"--{name.replace('_', '-')}" + (f" {v}" if v is not True else "") for name, v in changed.items()]
    averaged = "; the averaged weights are evaluated and saved" if settings.ema else ""
    chosen = "; the validation set chooses the epoch" if settings.keep == "best" else ""
    recipes = settings, teacher_settings(settings)
    plain = any(recipe.optimizer == "adamw" and not recipe.weight_decay for recipe in recipes)
    undecayed = "; adamw without weight decay equals adam" if plain else ""
    return f"{' '.join(flags)}{averaged}{chosen}{undecayed}"
