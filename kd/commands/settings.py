"""What ``kd run`` can be told. Importable in a moment, so that ``--help`` and a mistake are answered at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import UseAppendAction

from kd.checks import (
    ALPHA,
    LEARNING_RATE,
    TEMPERATURE,
    Range,
    at_least,
    check_ranges,
    or_none,
    proportion,
    require,
)
from kd.commands.method_flags import all_method_settings
from kd.commands.teacher_flags import TeacherChoice, chosen_teachers
from kd.methods import METHODS, Setting, require_unlabelled_method

# Settings of the commands that are no constants of the documented pipeline.
FLAGS_ALONE = frozenset(
    {
        "config",
        "dry_run",
        "data",
        "test_share",
        "image_size",
        "columns",
        "class_names",
        "download",
        "teacher",
        "label_order",
        "unlabelled",
        "augment",
        "views",
    }
)


def flag(name: str) -> str:
    """A setting's name as the command line has it."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Train teacher, control and distilled student, on MNIST or data of your own, and compare them fairly."""

    # Each setting is declared here once: its range, its default, and below it its meaning and unit. ``kd run --help``
    # and ``python main.py --help`` print them; ``config.py`` repeats the defaults, and a test compares.

    command: ClassVar[str] = "run"
    own_file: ClassVar[bool] = False  # whether OUT/run.toml counts unless --config says another file

    out: Path = Path("run")
    """folder of everything: models, results, and in OUT/.kd what an interrupted run goes on from"""
    config: Path | None = None
    """settings to start from, as a run leaves them in OUT/run.toml; flags given beside it win"""

    device: str = "auto"
    """where the models train: cpu, cuda, cuda:1, mps; auto takes CUDA where there is one"""

    # Training
    batch_size: Annotated[int, at_least(1)] = 128
    """images per training step, at least 1"""
    test_size: Annotated[float, proportion("0.1 keeps a tenth for validation")] = 0.1
    """fraction of the TRAINING images kept for validation, in (0, 1); named after scikit-learn's argument"""
    random_state: Annotated[int, at_least(0)] = 42
    """seed of the split into training and validation images, at least 0"""
    epochs: Annotated[int, at_least(1)] = 10
    """passes over the training images, for each of the three models, at least 1"""
    learning_rate: Annotated[float, LEARNING_RATE] = 4e-3
    """Adam's step size at the first step, above 0; it falls linearly to 0"""
    bfloat16: bool = False
    """train the teacher with products in bfloat16: faster with Intel AMX or a new GPU, with other rounding"""
    seed: Annotated[int, at_least(0)] = 0
    """seed of initial weights, order of batches and dropout, at least 0"""

    # Distillation
    temperature: Annotated[float, TEMPERATURE] = 5.0
    """softens teacher and student in the soft loss, above 0; 1 turns softening off"""
    alpha: Annotated[float, ALPHA] = 0.5
    """weight of the labels against the teacher, in [0, 1]: loss = ALPHA * CE + (1 - ALPHA) * T^2 * KL"""

    method: str = "kd"
    """how the distilled student learns, by its name in docs/methods.md"""
    set: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE, a setting of a method other than kd; may be given several times"""

    # Models, data, files
    data: str = "mnist"
    """what to learn from: mnist, torchvision:NAME, sklearn:NAME, hf:NAME_OR_FOLDER, a folder of images or of IDX
    files, a .npz file, or a .py file with load(), which is run"""
    test_share: Annotated[float, proportion("0.2 keeps a fifth to test with")] = 0.2
    """share of the data to test with where they come without a test part, in (0, 1)"""
    image_size: Annotated[int | None, or_none(at_least(1))] = None
    """pixels of each side to which image files are scaled and cropped, at least 1; None takes them as they are"""
    columns: tuple[str, str] | None = None
    """names of the columns with inputs and labels, for hf: data"""
    class_names: tuple[str, ...] = ()
    """the classes in label order, where the data do not tell it"""
    download: bool = False
    """let hf: fetch data that are not on this disk; nothing else ever uses the network"""
    teacher: UseAppendAction[tuple[str, ...]] = ()
    """a model's name to train, or NAME=FILE for trained weights (.pth, .safetensors), or logits=FILE or
    probabilities=FILE for the answers alone (.npy, .npz, .csv); given several times, they answer as one; none stands
    for convnet"""
    label_order: tuple[str, ...] = ()
    """the classes in the order of a loaded teacher's outputs, where it is not the data's"""
    augment: UseAppendAction[tuple[str, ...]] = ()
    """how training images are changed at random: flip, crop:PIXELS, rotate:DEGREES, zoom:SHARE, colour:SHARE, or
    FILE.py:NAME; may be given several times"""
    views: Annotated[int | None, or_none(at_least(1, "8 is a beginning"))] = None
    """views of each image, at least 1, that --augment draws once, with the teacher's answer to each kept; None draws
    new ones in each epoch and asks the teacher at each step"""
    unlabelled: Path | None = None
    """a folder of images, or an .npz file with an array x, without labels: the distilled student learns from them what
    the teacher says"""
    student: str = "mlp"
    """kind of both students: STUDENT_WIDTH hidden units, or three stages of 8, 16 and 32 maps; or a model's name,
    as mlp:64,32, cnn:16, torchvision:resnet18, timm:NAME or FILE.py:NAME"""
    student_width: Annotated[int, at_least(1)] = 256
    """hidden units of both students where they are mlp, at least 1"""
    limit: Annotated[int | None, or_none(at_least(100))] = None
    """toy size: use only the first so many training images of the stratified order; None uses all"""
    data_dir: Path | None = None
    """a copy of MNIST in torchvision's layout (DATA_DIR/MNIST/raw); None uses the embedded one"""
    snapshot_seconds: Annotated[float, Range(lambda x: x >= 0, "at least 0", "30 costs next to nothing")] = 30.0
    """seconds between two snapshots of a training, at least 0"""
    dry_run: bool = False
    """print what it would take (models, memory, disk, and time from a few measured steps) and write nothing"""
    fresh: bool = False
    """redo every step; what was kept is put aside in the state folder, .kd"""

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
    def file(self) -> Path:
        """Where these settings are saved."""
        return self.out / f"{self.command}.toml"

    def check(self) -> None:
        """Refuse a value outside its range; the error names the flag."""
        check_ranges(type(self), vars(self), shown=flag)
        _ = self.method_settings
        self._require_a_teacher_that_answers()
        self._require_one_teacher_with_features()
        self._require_a_loaded_teacher_for_an_order()
        if self.unlabelled is not None:
            require_unlabelled_method(self.method)
        self._require_items_that_can_change()

    @property
    def trainings(self) -> dict[str, int]:
        """How many models are trained, by kind."""
        return {"teacher": self._teachers(), "control": 1, "distilled": 1}

    def _teachers(self) -> int:
        """0 where they come trained."""
        return int(any(choice.file is None for choice in self.teachers_chosen))

    @property
    def live(self) -> bool:
        """Whether the teacher is asked at each step, because no answer of it can be kept."""
        return bool(self.augment) and self.views is None

    @property
    def asked_at_each_step(self) -> bool:
        """Whether the teacher is needed in every step of a student, for its answers or for its features."""
        return self.live or "teacher" in METHODS[self.method].needs

    def _require_items_that_can_change(self) -> None:
        """Each view of an image is an item of its own, which not everything knows of."""
        if not self.augment:
            require(self.views is None, "--views", self.views, "left out", "without --augment there is one of each")
            return
        clash = {
            "--unlabelled": self.unlabelled is not None,
            f"--method {self.method}, which remembers each image": self.ids,
            "a teacher of answers alone, which knows no views": any(c.is_answers for c in self.teachers_chosen),
        }
        for name, there in clash.items():
            require(not there, "--augment", " ".join(self.augment), f"left out with {name}")

    def _require_a_teacher_that_answers(self) -> None:
        """A file of answers has none for further items, and no features."""
        if not any(choice.is_answers for choice in self.teachers_chosen):
            return
        if "teacher" in METHODS[self.method].needs:
            raise ValueError(
                f"{self.method} learns from the teacher's features, and --teacher logits=FILE has its answers alone. "
                "Give --teacher NAME=WEIGHTS, or choose a method that needs only logits, such as kd."
            )
        if self.unlabelled is not None:
            raise ValueError(
                "--unlabelled needs a teacher that can be asked, and --teacher logits=FILE has no answers to these "
                "items. Give --teacher NAME=WEIGHTS."
            )

    def _require_one_teacher_with_features(self) -> None:
        several = len(self.teachers_chosen) > 1 and "teacher" in METHODS[self.method].needs
        advice = f"{self.method} learns from the features of one"
        require(not several, "--teacher", " ".join(self.teacher), "given once", advice)

    def _require_a_loaded_teacher_for_an_order(self) -> None:
        loaded = any(choice.file for choice in self.teachers_chosen)
        advice = "a teacher trained here has the data's"
        require(loaded or not self.label_order, "--label-order", " ".join(self.label_order), "left out", advice)

    @property
    def teachers_chosen(self) -> list[TeacherChoice]:
        """The teachers, at least one; ``ValueError`` as ``chosen_teachers`` has it."""
        return chosen_teachers(self.teacher)

    @property
    def ids(self) -> bool:
        """Whether the method needs to know which samples a batch holds."""
        return "ids" in METHODS[self.method].needs

    @property
    def method_settings(self) -> dict[str, Setting]:
        """All settings of the method, given or not.

        Raises:
            ValueError: there is no such method or setting.
        """
        return all_method_settings(self.method, self.set, temperature=self.temperature, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class PairedSettings(RunSettings):
    """A run's settings, and those that all commands share that train many pairs of control and distilled student."""

    margin: Annotated[
        float,
        Range(lambda x: 0 < x <= 100, "above 0 and at most 100 percentage points", "0.1 is 10 of 10,000 images"),
    ] = 0.1
    """what counts as no difference, in percentage points of the test images, in (0, 100]"""
    processes: Annotated[int | None, or_none(at_least(1))] = None
    """students trained at once, each with one thread, at least 1; None takes one for each core"""
