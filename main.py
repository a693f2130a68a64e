"""The pipeline of docs/pipeline.rst: train teacher, control and distilled student on MNIST, and compare them.

``python main.py`` runs it; ``python main.py --help`` lists the settings. The functions can also be called separately.
"""

if __name__ == "__main__":  # before the other imports, which take seconds: Ctrl-C ends them without a traceback
    from kd.storage.stopping import exit_on_stop_signals

    exit_on_stop_signals()

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import config
import kd
import visualization
from distillation import distillation_objective, method_settings, require_method
from kd.arms import RUN_ARMS, TEACHER
from kd.commands.config_flags import command_line, current_settings
from kd.commands.messages import say_method, say_sizes
from kd.commands.method_flags import format_method_settings
from kd.commands.program import exit_status
from kd.commands.run import files, text
from kd.commands.run.results import Run
from kd.commands.run.validation import predict_validation
from kd.commands.settings import RunSettings
from kd.data.loaders import in_order
from kd.data.splits import stratified_split
from kd.evaluation.unlike import Validation
from kd.methods import method_named
from kd.methods.objectives import in_bfloat16
from kd.models.inference import Predictions
from kd.storage.files import require_writable
from kd.storage.run_folder import open_run
from kd.teachers.cache import with_teacher_logits
from kd.training import run_steps
from models import TeacherModel, new_student
from train import train_model


class Data(NamedTuple):
    train_loader: DataLoader[Any]
    val_loader: DataLoader[Any]
    test_loader: DataLoader[Any]
    train_subset: Subset[Any]
    val_subset: Subset[Any]
    test_dataset: Dataset[Any]


class _TeacherTuple(NamedTuple):
    model: nn.Module
    train_loss: list[float]
    val_loss: list[float]
    train_acc: list[float]
    val_acc: list[float]


class TeacherTraining(_TeacherTuple):
    """The trained teacher and its curves: one entry per epoch, accuracies in [0, 1].

    Attributes:
        history: all curves and the training time, for ``TrainMetrics``. Not an element of the documented tuple of five.
    """

    history: kd.History


class DistillLoaders(NamedTuple):
    train_distill_loader: DataLoader[Any]
    val_distill_loader: DataLoader[Any]


class StudentTraining(NamedTuple):
    student_regular: nn.Module
    student_distilled: nn.Module
    regular_history: kd.History
    distilled_history: kd.History


class _TrainMetricsTuple(NamedTuple):
    teacher: kd.History
    regular: kd.History
    distilled: kd.History


class TrainMetrics(_TrainMetricsTuple):
    """The curves of the three models.

    Attributes:
        validation: for the limits in the manifest (``kd.evaluation.unlike``). Not an element of the documented tuple of
            three, and None unless it is set.
    """

    validation: Validation | None = None


class Result(NamedTuple):
    """Results of a model on the test set: accuracy in [0, 1], number of errors, logits [N, K] in dataset order."""

    accuracy: float
    errors: int
    logits: Tensor


class TestMetrics(NamedTuple):
    teacher: Result
    regular: Result
    distilled: Result


def initialize_directories() -> None:
    """Create ``models/`` and ``results/{metrics,predictions,plots}``, and check that they are writable."""
    for folder in files.folders(config.MODELS_DIR, config.RESULTS_DIR):
        require_writable(folder)


def load_and_split_data() -> Data:
    """Load MNIST, split off the fraction ``TEST_SIZE`` for validation (stratified), and create the loaders."""
    training = kd.load_mnist(train=True, root=config.DATA_DIR)
    test = kd.load_mnist(train=False, root=config.DATA_DIR)
    train_subset, val_subset = stratified_split(
        training, held_back=config.TEST_SIZE, seed=config.RANDOM_STATE, limit=config.LIMIT
    )
    return Data(
        kd.make_loader(train_subset, batch_size=config.BATCH_SIZE, shuffle=True),
        kd.make_loader(val_subset, batch_size=config.BATCH_SIZE),
        kd.make_loader(test, batch_size=config.BATCH_SIZE),
        train_subset,
        val_subset,
        test,
    )


def train_teacher(train_loader: DataLoader[Any], val_loader: DataLoader[Any]) -> TeacherTraining:
    """Train a ``TeacherModel`` with Adam and cross-entropy, and save its curves as ``teacher_training.png``."""
    with kd.seeded(config.SEED):
        teacher = TeacherModel().to(config.DEVICE)
    objective = in_bfloat16(kd.supervised) if config.BFLOAT16 else kd.supervised
    history = train_model(TEACHER, teacher, objective, train_loader, val_loader)
    kd.publish(visualization.teacher_plot(history))
    curves = (history[name] for name in ("train_loss", "val_loss", "train_acc", "val_acc"))
    training = TeacherTraining(teacher, *curves)
    training.history = history
    return training


def prepare_distillation_data(
    teacher: nn.Module,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
    train_subset: Dataset[Any],
    val_subset: Dataset[Any],
) -> DistillLoaders:
    """Return loaders over (image, label, teacher logits), with the batch size, ``drop_last`` and order of the given
    loaders.

    The logits are computed in the order of the subsets and verified row by row against the teacher.
    """
    ids = (
        "ids" in method_named(config.METHOD).needs
    )  # sample ids as a fourth tensor, for methods with a memory per image
    splits = {"training": (train_subset, train_loader), "validation": (val_subset, val_loader)}
    return DistillLoaders(*with_teacher_logits(teacher, splits, ids=ids).values())


def train_students(
    teacher: nn.Module,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
    train_distill_loader: DataLoader[Any],
    val_distill_loader: DataLoader[Any],
) -> StudentTraining:
    """Train the control on the labels and the distilled student on labels and teacher logits.

    Both start from the same weights and see the same batches. Logit methods use the cached logits in the loaders
    instead of running the teacher. If the two loaders yield different batches, a warning is issued and recorded in the
    histories' ``notes``.
    """
    with kd.seeded(config.SEED):
        student: nn.Module = new_student().to(config.DEVICE)
    say_method(config.METHOD, format_method_settings(method_settings()))
    objective = distillation_objective(student, teacher, train_distill_loader)
    loaders, distill_loaders = (train_loader, val_loader), (train_distill_loader, val_distill_loader)
    pair = run_steps.train_pair(student, objective, loaders, distill_loaders, train=train_model, seed=config.SEED)
    return StudentTraining(*pair)


def evaluate_all_models(
    teacher: nn.Module, student_reg: nn.Module, student_dist: nn.Module, test_loader: DataLoader[Any]
) -> TestMetrics:
    """Evaluate the three models on the test set; print accuracies, prediction distributions and the verdict."""
    models = dict(zip(RUN_ARMS, (teacher, student_reg, student_dist), strict=True))
    predictions = run_steps.predict_models(models, in_order(test_loader))
    logits = {name: result.logits for name, result in predictions.items()}
    text.print_evaluation(_build_run({}, logits, predictions[TEACHER].labels, test_loader), limit=config.LIMIT)
    return TestMetrics(*map(_measure, predictions.values()))


def save_and_visualize_results(
    teacher: nn.Module,
    student_reg: nn.Module,
    student_dist: nn.Module,
    train_metrics: TrainMetrics,
    test_metrics: TestMetrics,
    test_loader: DataLoader[Any],
) -> None:
    """Save models, metrics, predictions, plots and the report. If an error occurs, nothing is written.

    All results come from the two metrics arguments; ``test_loader`` only provides images and labels.
    """
    logits = {name: result.logits for name, result in zip(RUN_ARMS, test_metrics, strict=True)}
    histories, labels = dict(zip(RUN_ARMS, train_metrics, strict=True)), _load_labels(test_loader, test_metrics)
    validation = getattr(train_metrics, "validation", None)  # a plain tuple has none
    run = dataclasses.replace(_build_run(histories, logits, labels, test_loader), validation=validation)
    models = dict(zip(RUN_ARMS, (teacher, student_reg, student_dist), strict=True))
    plots = visualization.all_plots(run)
    folders: dict[str, Any] = {
        "models_dir": config.MODELS_DIR,
        "results_dir": config.RESULTS_DIR,
        "state_dir": config.STATE_DIR,
    }
    files.save(run, models, plots, **folders)


def main() -> None:
    """Run the whole pipeline with the settings in ``config``; resume an interrupted run."""
    config.check()
    initialize_directories()
    places = [config.RESULTS_DIR, *files.folders(config.MODELS_DIR, config.RESULTS_DIR)]
    with open_run(config.STATE_DIR, fresh=config.FRESH, interval=config.SNAPSHOT_SECONDS, places=places):
        data = load_and_split_data()
        test_count = len(data.test_loader.dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
        sizes = {"training": len(data.train_subset), "validation": len(data.val_subset), "test": test_count}
        say_sizes("MNIST", sizes, config.DEVICE)
        require_method(data.val_loader)
        training = train_teacher(data.train_loader, data.val_loader)
        teacher = training.model
        loaders = prepare_distillation_data(teacher, *data[:2], data.train_subset, data.val_subset)
        students = train_students(teacher, *data[:2], *loaders)
        models = (teacher, students.student_regular, students.student_distilled)
        test_metrics = evaluate_all_models(*models, data.test_loader)
        train_metrics = TrainMetrics(training.history, students.regular_history, students.distilled_history)
        named_models = dict(zip(RUN_ARMS, models, strict=True))
        train_metrics.validation = predict_validation(named_models, data.val_loader)
        save_and_visualize_results(*models, train_metrics, test_metrics, data.test_loader)


def _build_run(
    histories: Mapping[str, kd.History], logits: Mapping[str, Tensor], labels: Tensor, test_loader: DataLoader[Any]
) -> Run:
    return Run(
        histories=histories,
        logits=logits,
        labels=labels,
        test=in_order(test_loader).dataset,
        config=current_settings(config, without=("FRESH", "SNAPSHOT_SECONDS"))
        | {"SET": format_method_settings(method_settings())},
        temperature=config.TEMPERATURE,
        toy=visualization.quick_run_stamp(),
    )


def _measure(predictions: Predictions) -> Result:
    errors = int((predictions.logits.argmax(dim=1) != predictions.labels).sum())
    return Result(1 - errors / len(predictions.labels), errors, predictions.logits)


def _load_labels(test_loader: DataLoader[Any], metrics: TestMetrics) -> Tensor:
    """Return the labels in the dataset's order, after checking that the metrics belong to this loader."""
    labels = torch.cat([batch[1] for batch in in_order(test_loader)])
    for name, result in metrics._asdict().items():
        if len(result.logits) != len(labels) or int((result.logits.argmax(dim=1) != labels).sum()) != result.errors:
            raise ValueError(
                f"test_metrics.{name} was not measured on this test_loader: its {len(result.logits)} logits and "
                f"{result.errors} errors do not match the {len(labels)} labels. Pass the loader that was evaluated."
            )
    return labels


def _cli(arguments: list[str]) -> int:
    def program() -> None:
        description = "Train teacher, control and distilled student on MNIST, and compare them."
        command_line(config, arguments, program="main.py", description=description, declared=RunSettings)
        main()

    return exit_status(program, command=("python", "main.py", *arguments))


if __name__ == "__main__":
    sys.exit(_cli(sys.argv[1:]))
