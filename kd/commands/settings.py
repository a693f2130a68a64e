"""Settings of ``kd run``. Imports no torch, so that ``--help`` and errors about flags appear at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import UseAppendAction

from kd.checks import (
    ALPHA,
    MANY,
    TEMPERATURE,
    Range,
    at_least,
    check_ranges,
    naming_flag,
    one_of,
    or_none,
    proportion,
    require,
)
from kd.commands.method_flags import all_method_settings
from kd.commands.recipe_settings import RECIPE_FLAGS, RecipeSettings
from kd.commands.teacher_flags import ModelChoice, parse_student
from kd.commands.teacher_settings import TeacherSettings
from kd.methods import Setting, method_named, require_mixing_method, require_unlabelled_method

# Settings of the commands that are not constants of the documented pipeline.
FLAGS_ALONE = RECIPE_FLAGS | {
    *("config", "dry_run", "data", "test_share", "image_size", "columns", "target", "class_names", "download"),
    *("teacher", "train_teacher", "teacher_input", "teacher_trained_on", "label_order", "label_map", "teacher_head"),
    *("ids", "unlabelled", "freeze", "augment", "views", "workers", "track", "trust"),
}


def flag(name: str) -> str:
    """Return the flag of a setting: ``--batch-size`` for ``batch_size``."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class RunSettings(RecipeSettings, TeacherSettings):
    """Train a teacher, a control and a distilled student on MNIST or your own data, and compare the students."""

    # The only declaration of each setting: its range, its default and, below it, its help text for ``kd run --help``
    # and ``python main.py --help``. ``config.py`` repeats the defaults; a test compares them.

    command: ClassVar[str] = "run"
    recorded_if_set: ClassVar[frozenset[str]] = FLAGS_ALONE  # recorded in results only if not at their default
    reads_run_file: ClassVar[bool] = False  # whether OUT/run.toml is read if --config is not given

    out: Path = Path("run")
    """output folder: models, results and, in OUT/.kd, the state to resume from"""
    config: Path | None = None
    """settings file to start from, such as OUT/run.toml of an earlier run; other flags override it"""

    device: str = "auto"
    """device to train on: cpu, cuda, cuda:1 or mps; auto uses CUDA if available"""

    # Split
    test_size: Annotated[float, proportion("0.1 keeps a tenth for validation")] = 0.1
    """fraction of the TRAINING images held out for validation, in (0, 1); named after scikit-learn's argument"""
    random_state: Annotated[int, at_least(0)] = 42
    """seed of the training/validation split, at least 0"""

    # Distillation
    temperature: Annotated[float, TEMPERATURE] = 5.0
    """temperature T of teacher and student in the soft loss, above 0; 1 turns softening off"""
    alpha: Annotated[float, ALPHA] = 0.5
    """weight of the labels, in [0, 1]: loss = ALPHA * CE + (1 - ALPHA) * T^2 * KL"""

    method: str = "kd"
    """distillation method, by its name in docs/methods.md, or FILE.py:NAME for your own (docs/add_a_method.md)"""
    set: UseAppendAction[tuple[str, ...]] = ()
    """setting of the method as NAME=VALUE; kd has divergence (forward, reverse, js, skew or skew-reverse), and
    --temperature and --alpha for its other settings"""

    # Models, data, files
    data: str = "mnist"
    """dataset: mnist, torchvision:NAME, sklearn:NAME, hf:NAME_OR_FOLDER, wds:PATTERN, a folder of images or of IDX
    files, a .npz file, a .csv or .tsv file with --target, or a .py file with a function load(), which is executed"""
    test_share: Annotated[float, proportion("0.2 keeps a fifth for testing")] = 0.2
    """fraction of the data used as test split if the dataset has none, in (0, 1)"""
    image_size: Annotated[int | None, or_none(at_least(1))] = None
    """resize and crop image files to squares of this many pixels per side, at least 1; None keeps their size"""
    columns: tuple[str, str] | None = None
    """names of the input column and the label column of an hf: dataset"""
    target: str | None = None
    """column of a .csv or .tsv file that holds the classes; all other columns are inputs"""
    class_names: tuple[str, ...] = ()
    """class names in label order, if the dataset does not contain them"""
    download: bool = False
    """download files that are not on this disk: an hf: dataset, an hf: teacher, the weights of a teacher
    NAME=pretrained; nothing else uses the network"""
    workers: Annotated[int | None, or_none(at_least(0, "0 works in the main process", largest=1000))] = None
    """processes that decode image files (None: one per core) and augment images (None: half of the cores), at least 0;
    results do not depend on it"""
    augment: UseAppendAction[tuple[str, ...]] = ()
    """random augmentation of training images: flip, crop:PIXELS, rotate:DEGREES, zoom:SHARE, colour:SHARE,
    randaugment, trivialaugment, erasing or erasing:PROBABILITY, or FILE.py:NAME"""
    views: Annotated[int | None, or_none(at_least(1, "8 is a start", largest=MANY))] = None
    """fixed augmented views per image, at least 1, with cached teacher logits; None draws new views in every epoch
    and runs the teacher at every step"""
    unlabelled: Path | None = None
    """unlabelled images for the distilled student only: a folder, or a .npz file with an array x"""
    student: str = "mlp"
    """architecture of both students: mlp (STUDENT_WIDTH hidden units), cnn (three stages of 8, 16 and 32 channels) or
    a model name such as mlp:64,32, cnn:16, torchvision:resnet18, timm:NAME or FILE.py:NAME; NAME=FILE starts both from
    pretrained weights (.pth, .safetensors), with a new head if the file's has other classes"""
    freeze: UseAppendAction[tuple[str, ...]] = ()
    """pattern of names of student parameters that are not trained, such as 'layer1.*'; batch norms that are frozen as a
    whole keep their running statistics"""
    student_width: Annotated[int, at_least(1)] = 256
    """hidden units of both students if they are mlp, at least 1"""
    limit: Annotated[int | None, or_none(at_least(100))] = None
    """quick run: train on the first N images only (stratified), at least 100; None uses all"""
    data_dir: Path | None = None
    """copy of MNIST in torchvision's layout (DATA_DIR/MNIST/raw); None uses the embedded copy"""
    snapshot_seconds: Annotated[float, Range(lambda x: x >= 0, "at least 0", "30 costs almost no time")] = 30.0
    """seconds between snapshots of a training run, at least 0"""
    track: Annotated[str | None, or_none(one_of("tensorboard", "mlflow", "trackio"))] = None
    """also write losses and metrics of every epoch for this tracker, to OUT/track and never over the network; results
    do not depend on it"""
    trust: bool = False
    """run the Python files that a settings file names; not needed for files that a command line named before"""
    dry_run: bool = False
    """estimate models, memory, disk and time (from a few measured steps) and write nothing"""
    fresh: bool = False
    """ignore saved state and start over; the old state is moved aside within OUT/.kd"""

    @property
    def models_dir(self) -> Path:
        return self.out / "models"

    @property
    def results_dir(self) -> Path:
        return self.out / "results"

    @property
    def state_dir(self) -> Path:
        return self.out / ".kd"

    @property
    def track_dir(self) -> Path:
        """Folder of the tracker's files, which this command replaces."""
        return self.out / "track" / (self.track or "") / self.command

    @property
    def file(self) -> Path:
        """Path of the saved settings."""
        return self.out / f"{self.command}.toml"

    def check(self) -> None:
        """Raise ``ValueError`` for a value outside its range or settings that clash; the error names the flag."""
        check_ranges(type(self), vars(self), shown=flag)
        self.check_recipe()
        _ = self.method_settings, self.student_choice
        self.check_teachers(self.method)
        self._check_out()
        self._check_unlabelled()
        self._check_augmentation()
        self._check_mixing()
        self.check_smoothing()
        if not self.count_trained_teachers():
            self.require_no_teacher_flags()

    def check_smoothing(self) -> None:
        """Raise ``ValueError`` if the method is the label smoothing that all trainings have."""
        if self.method == "label-smoothing":
            own, advice = self.method_settings["smoothing"], "the student would be the control"
            allowed = f"unlike smoothing={own:g} of --method label-smoothing"
            require(not own or own != self.label_smoothing, "--label-smoothing", self.label_smoothing, allowed, advice)

    @property
    def trainings(self) -> dict[str, int]:
        """Number of training runs for each kind of model."""
        return {"teacher": self.count_trained_teachers(), "control": 1, "distilled": 1}

    @property
    def live(self) -> bool:
        """Whether the teacher runs at every step, because augmentation or mixing makes each input new."""
        return bool(self.mixing_flags) or (bool(self.augment) and self.views is None)

    @property
    def asked_at_each_step(self) -> bool:
        """Whether the teacher runs at every step of a student, for its logits or its features."""
        return self.live or "teacher" in method_named(self.method).needs

    def _check_augmentation(self) -> None:
        """Refuse settings that do not work with augmented views, because each view is a separate sample."""
        if not self.augment:
            require(self.views is None, "--views", self.views, "omitted without --augment")
            return
        clashes = {
            "--unlabelled": self.unlabelled is not None,
            f"--method {self.method}, which stores a value for each image": self.needs_ids,
            "a teacher of precomputed outputs, which contain no augmented views": self.has_outputs,
        }
        for name, is_set in clashes.items():
            require(not is_set, "--augment", " ".join(self.augment), f"omitted with {name}")

    def _check_mixing(self) -> None:
        """Refuse settings that do not work with mixed samples: each mixture is a new sample, with several labels."""
        if not self.mixing_flags:
            return
        with naming_flag(self.mixing_flags):
            require_mixing_method(self.method)
        clashes = {
            "--unlabelled, whose samples have no labels to mix": self.unlabelled is not None,
            "--views, as the teacher runs on each mixture and nothing is cached": self.views is not None,
            "a teacher of precomputed outputs, which contain no mixtures": self.has_outputs,
        }
        for name, is_set in clashes.items():
            require(not is_set, "--mixup and --cutmix", self.mixing_flags, f"omitted with {name}")

    def _check_out(self) -> None:
        """Refuse an OUT inside a folder of images: it would be a class, and its figures further images."""
        out = self.out.resolve()
        for name, where in (("--data", self.data), ("--unlabelled", self.unlabelled)):
            folder = Path(str(where)).resolve()
            if where in (None, "mnist") or not folder.is_dir() or not out.is_relative_to(folder):
                continue
            parts = out.relative_to(folder).parts
            has_splits, is_idx = (folder / "train").is_dir(), any(folder.glob("train-images*"))
            is_read = name == "--unlabelled" or (parts[:1] == ("train",) if has_splits else not is_idx)
            is_hidden = any(part.startswith(".") for part in parts)
            allowed, advice = f"outside of the folder of {name}", "it would be read as a class or as images"
            require(is_hidden or not is_read, "--out", str(self.out), allowed, advice)

    def _check_unlabelled(self) -> None:
        if self.unlabelled is None:
            return
        if self.has_outputs:
            raise ValueError(
                "--unlabelled needs a teacher model, but --teacher logits=FILE has no outputs for these samples. "
                "Use --teacher NAME=WEIGHTS."
            )
        require_unlabelled_method(self.method)

    @property
    def student_choice(self) -> ModelChoice:
        """The student as a model name, with its file: ``mlp`` and ``cnn`` stand for a width.

        Raises:
            ValueError: see ``parse_student``.
        """
        choice = parse_student(self.student)
        widths = {"mlp": f"mlp:{self.student_width}", "cnn": "cnn:8"}
        return choice._replace(spec=widths.get(choice.spec, choice.spec))

    @property
    def method_names(self) -> list[str]:
        """Names of the methods to train, as given."""
        return [self.method]

    @property
    def needs_ids(self) -> bool:
        """Whether the method needs the ids of the samples in a batch."""
        return "ids" in method_named(self.method).needs

    @property
    def method_settings(self) -> dict[str, Setting]:
        """All settings of the method, including defaults.

        Raises:
            ValueError: unknown method or setting.
        """
        return all_method_settings(self.method, self.set, temperature=self.temperature, alpha=self.alpha)
