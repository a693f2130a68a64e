"""Fashion-MNIST with two training recipes: does the recipe help, and does distillation help on top of it?

    python recipes/training_recipe.py --data FOLDER             # Fashion-MNIST as IDX files: 20 minutes on 2 cores
    python recipes/training_recipe.py --data FOLDER --quick     # quick run, to try the script

Look at ``RECIPES`` and ``make_students``. For each seed there are four students with the same initial weights: control
and distilled student, each with the plain recipe and with the tuned one. In the tuned recipe, both see the same
mixtures, and the teacher runs on them. Both recipes were fixed beforehand without tuning; one teacher, trained with the
plain recipe; test images are used only after training. Results are in docs/recipe.md.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tyro
from torch import Tensor, nn

import kd
from kd.checks import require
from kd.console import print_table, say
from kd.data.mixing import Mixing
from kd.data.sources import open_source, split_source
from kd.data.sources.partition import Splits
from kd.evaluation.contrast import Contrast, contrast_of
from kd.evaluation.verdict import Question, judge_all
from kd.evaluation.verdict_text import describe_verdict
from kd.formatting import format_p, format_range, format_signed
from kd.models import MLP, ConvNet
from kd.teachers.cache import with_teacher_logits
from kd.training.recipe import Recipe
from kd.training.run_steps import train_with_recipe
from kd.training.students import DistillationData, Student, train_students

PLAIN, TUNED = "plain", "tuned"
RECIPES = {
    PLAIN: Recipe(),
    TUNED: Recipe(optimizer="adamw", weight_decay=0.05, schedule="cosine", warmup=1, ema=0.999),
}
MIXUP = 0.2  # of the tuned recipe
CONTROL, DISTILLED = "control", "distilled"
CONTRASTS = (
    ((DISTILLED, PLAIN), (CONTROL, PLAIN)),
    ((DISTILLED, TUNED), (CONTROL, TUNED)),
    ((CONTROL, TUNED), (CONTROL, PLAIN)),
    ((DISTILLED, TUNED), (DISTILLED, PLAIN)),
    ((DISTILLED, TUNED), (CONTROL, PLAIN)),
)

Arm = tuple[str, str]  # kind of student, recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Fashion-MNIST: control and distilled students with a plain and a tuned training recipe."""

    data: str = "/usr/share/datasets/fashion-mnist"
    """folder of Fashion-MNIST's IDX files, such as that of the Debian package dataset-fashion-mnist"""
    limit: int | None = None
    """train on the first N images only (stratified)"""
    pairs: int = 10
    """number of seeds; each arm has one student per seed"""
    width: int = 256
    """hidden units of the students"""
    epochs: int = 10
    """epochs of the teacher and of every student"""
    temperature: float = 5.0
    """distillation temperature"""
    alpha: float = 0.5
    """weight of the labels: loss = alpha * CE + (1 - alpha) * T^2 * KL"""
    quick: bool = False
    """quick run, too small to conclude anything from"""

    def apply_quick(self) -> Settings:
        """Return the settings of a quick run if ``--quick`` is given, else these settings."""
        return dataclasses.replace(self, limit=600, pairs=2, width=8, epochs=2) if self.quick else self


class Setup(NamedTuple):
    """The images, the trained teacher and the data of both kinds of students of both recipes."""

    splits: Splits
    teacher: nn.Module
    data: dict[Arm, DistillationData]


def prepare(settings: Settings) -> Setup:
    """Open the images, train the teacher with the plain recipe and cache its logits."""
    splits = split_source(open_source(settings.data), limit=settings.limit)
    with kd.seeded(0):
        teacher = ConvNet()
    loaders = kd.make_loader(splits.train, batch_size=128, shuffle=True), kd.make_loader(splits.val, batch_size=500)
    recipe = dataclasses.replace(RECIPES[PLAIN], epochs=settings.epochs)
    train_with_recipe("teacher", teacher, kd.supervised, *loaders, recipe=recipe, seed=0)
    parts = {"training": (splits.train, loaders[0]), "validation": (splits.val, loaders[1])}
    training, validation = (loader.dataset for loader in with_teacher_logits(teacher, parts).values())
    alone = DistillationData(splits.train, splits.val, splits.test, 128)
    mixed = alone._replace(mix=Mixing(len(splits.classes), mixup=MIXUP))
    data = {
        (CONTROL, PLAIN): alone,
        (DISTILLED, PLAIN): DistillationData(training, validation, splits.test, 128),
        (CONTROL, TUNED): mixed,
        (DISTILLED, TUNED): mixed,
    }
    return Setup(splits, teacher, data)


def make_students(setup: Setup, settings: Settings) -> dict[str, Student]:
    """Make a student for each seed and arm; the seed determines initial weights, batches and mixtures."""
    distilled = kd.distilled(temperature=settings.temperature, alpha=settings.alpha)
    objectives: dict[Arm, kd.Objective] = {
        (CONTROL, PLAIN): kd.supervised,
        (CONTROL, TUNED): kd.supervised,
        (DISTILLED, PLAIN): distilled,
        (DISTILLED, TUNED): kd.live_teacher(setup.teacher, distilled),
    }
    students = {}
    for seed in range(settings.pairs):
        for place, (arm, objective) in enumerate((arm, objectives[arm]) for arm in setup.data):
            with kd.seeded(seed):
                model = MLP(settings.width)
            recipe = dataclasses.replace(RECIPES[arm[1]], epochs=settings.epochs)
            train = functools.partial(train_with_recipe, recipe=recipe, seed=seed)
            students[name_student(arm, seed)] = Student(model, objective, train, settings.epochs, place)
    return students


def name_student(arm: Arm, seed: int) -> str:
    return f"{'-'.join(arm)}-seed-{seed}"


def compare_arms(wrong: Mapping[Arm, Sequence[Tensor]], *, margin: float) -> dict[str, Contrast]:
    """Print the paired differences of arms, with intervals for new images; return them by ``first − second``.

    P-values and verdicts are adjusted for the number of comparisons by Holm's procedure, the intervals are not.

    Args:
        wrong: for each student of an arm, in the order of the seeds, whether each test image is misclassified.
        margin: equivalence margin in errors.
    """
    stacked = {arm: np.stack([np.asarray(mask, dtype=np.float64) for mask in masks]) for arm, masks in wrong.items()}
    contrasts = {
        f"{' '.join(first)} − {' '.join(second)}": contrast_of(stacked[first] - stacked[second])
        for first, second in CONTRASTS
    }
    rows = {}
    judgements = judge_all({name: Question(contrast) for name, contrast in contrasts.items()}, margin=margin)
    for name, judgement in judgements.items():
        contrast, verdict = contrasts[name], judgement.verdict
        interval = contrast.interval()
        # The second arm need not be trained on the labels alone.
        words = {"better than the labels alone": "better", "hurts": "worse"}
        text = words.get(verdict) or describe_verdict(verdict, margin)
        limits = format_range(*interval) if interval else "no interval"
        rows[name] = [f"{format_signed(contrast.mean)} ({limits})", format_p(judgement.p), text]
    print_table("paired differences in errors, 95 % interval", ("arms", "difference", "p (Holm)", "verdict"), rows)
    return contrasts


def main(settings: Settings) -> dict[str, Contrast]:
    """Return the paired differences by ``first − second``."""
    require(Path(settings.data).is_dir(), "--data", settings.data, "a folder of Fashion-MNIST's IDX files")
    setup = prepare(settings)
    images = len(setup.splits.test)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    teacher_errors = int(kd.predict(setup.teacher, kd.make_loader(setup.splits.test, batch_size=500)).wrong.sum())
    say(f"the teacher has {teacher_errors:,} errors on {images:,} test images")
    trained = dict(train_students(list(setup.data.values()), make_students(setup, settings)))
    wrong: dict[Arm, list[Tensor]] = {arm: [] for arm in setup.data}
    for arm, masks in wrong.items():
        for seed in range(settings.pairs):
            predictions = trained[name_student(arm, seed)].test
            assert predictions is not None
            masks.append(predictions.wrong)
        counts = [int(mask.sum()) for mask in masks]
        say(f"{' '.join(arm)}: {np.mean(counts):.1f} ± {np.std(counts, ddof=1):.1f} errors; by seed {counts}")
    return compare_arms(wrong, margin=images / 1000)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__).apply_quick())
