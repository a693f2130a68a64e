"""The documented pipeline (docs/pipeline.rst): teacher, control and distilled student on MNIST, compared fairly.

``python main.py`` runs it; ``python main.py --help`` lists what can be changed. The functions also work one by one.
"""

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
from kd.arms import OF_A_RUN, TEACHER
from kd.commands.config_flags import command_line, current_settings
from kd.commands.messages import say_method, say_sizes
from kd.commands.method_flags import format_method_settings
from kd.commands.program import exit_status
from kd.commands.run import files, text
from kd.commands.run.results import Run
from kd.commands.settings import RunSettings
from kd.data.loaders import in_order
from kd.data.splits import stratified_split
from kd.methods import METHODS
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
        history: all curves and the time it took, for ``TrainMetrics``; beside the five documented items.
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


class TrainMetrics(NamedTuple):
    teacher: kd.History
    regular: kd.History
    distilled: kd.History


class Result(NamedTuple):
    """One model on the test set: accuracy in [0, 1], number of errors, logits [N, K] in the test set's order."""

    accuracy: float
    errors: int
    logits: Tensor


class TestMetrics(NamedTuple):
    teacher: Result
    regular: Result
    distilled: Result


def initialize_directories() -> None:
    """Create ``models/`` and ``results/{metrics,predictions,plots}``; an unwritable one is an error now, not later."""
    for folder in files.folders(config.MODELS_DIR, config.RESULTS_DIR):
        require_writable(folder)


def load_and_split_data() -> Data:
    """Load MNIST, hold ``TEST_SIZE`` of its training images back for validation (stratified), and make the loaders."""
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
    """Loaders over (image, label, teacher logits), with the batch size, drop_last and order of the loaders given.

    The logits are taken from the subsets in their own order and verified row by row against the teacher.
    """
    ids = "ids" in METHODS[config.METHOD].needs  # as a fourth item, for a method that keeps something about each image
    parts = {"training": (train_subset, train_loader), "validation": (val_subset, val_loader)}
    return DistillLoaders(*with_teacher_logits(teacher, parts, ids=ids).values())


def train_students(
    teacher: nn.Module,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
    train_distill_loader: DataLoader[Any],
    val_distill_loader: DataLoader[Any],
) -> StudentTraining:
    """Train the control on the labels and its twin on labels and teacher logits: same weights, same batches.

    The teacher speaks through the logits in the loaders; the model itself is not asked again. Should the two loaders
    not show the same batches, a warning says why, and the histories' ``notes`` keep it.
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
    """Evaluate the three on every test image, once; print accuracies, prediction distributions and one verdict."""
    models = dict(zip(OF_A_RUN, (teacher, student_reg, student_dist), strict=True))
    predictions = run_steps.predict_models(models, in_order(test_loader))
    logits = {name: answer.logits for name, answer in predictions.items()}
    text.print_evaluation(_run({}, logits, predictions[TEACHER].labels, test_loader), limit=config.LIMIT)
    return TestMetrics(*map(_result, predictions.values()))


def save_and_visualize_results(
    teacher: nn.Module,
    student_reg: nn.Module,
    student_dist: nn.Module,
    train_metrics: TrainMetrics,
    test_metrics: TestMetrics,
    test_loader: DataLoader[Any],
) -> None:
    """Save models, metrics, predictions, plots and the report on them: all of them, or on an error none.

    Everything is drawn from the two metrics; of ``test_loader`` only the images and labels are used.
    """
    logits = {name: result.logits for name, result in zip(OF_A_RUN, test_metrics, strict=True)}
    run = _run(dict(zip(OF_A_RUN, train_metrics, strict=True)), logits, _labels(test_loader, test_metrics), test_loader)
    models = dict(zip(OF_A_RUN, (teacher, student_reg, student_dist), strict=True))
    plots = visualization.all_plots(run)
    folders = {"models_dir": config.MODELS_DIR, "results_dir": config.RESULTS_DIR, "state_dir": config.STATE_DIR}
    files.save(run, models, plots, **folders)


def main() -> None:
    """Run the whole pipeline with the values of ``config``, from where an earlier run was interrupted."""
    config.check()
    initialize_directories()
    with open_run(config.STATE_DIR, fresh=config.FRESH, interval=config.SNAPSHOT_SECONDS):
        data = load_and_split_data()
        tested = len(data.test_loader.dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
        sizes = {"training": len(data.train_subset), "validation": len(data.val_subset), "test": tested}
        say_sizes("MNIST", sizes, config.DEVICE)
        require_method(data.val_loader)
        training = train_teacher(data.train_loader, data.val_loader)
        teacher = training.model
        loaders = prepare_distillation_data(teacher, *data[:2], data.train_subset, data.val_subset)
        students = train_students(teacher, *data[:2], *loaders)
        models = (teacher, students.student_regular, students.student_distilled)
        test_metrics = evaluate_all_models(*models, data.test_loader)
        train_metrics = TrainMetrics(training.history, students.regular_history, students.distilled_history)
        save_and_visualize_results(*models, train_metrics, test_metrics, data.test_loader)


def _run(
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
        toy=visualization.toy_stamp(),
    )


def _result(predictions: Predictions) -> Result:
    errors = int((predictions.logits.argmax(dim=1) != predictions.labels).sum())
    return Result(1 - errors / len(predictions.labels), errors, predictions.logits)


def _labels(test_loader: DataLoader[Any], metrics: TestMetrics) -> Tensor:
    """The labels in the dataset's order; refused if the metrics were measured on other images."""
    labels = torch.cat([batch[1] for batch in in_order(test_loader)])
    for name, result in metrics._asdict().items():
        if len(result.logits) != len(labels) or int((result.logits.argmax(dim=1) != labels).sum()) != result.errors:
            raise ValueError(
                f"test_metrics.{name} was not measured on this test_loader: its {len(result.logits)} logits and "
                f"{result.errors} errors do not fit the {len(labels)} labels. Pass the loader that was evaluated."
            )
    return labels


def _cli(arguments: list[str]) -> int:
    def program() -> None:
        description = "Teacher, control and distilled student on MNIST, compared fairly."
        command_line(config, arguments, program="main.py", description=description, declared=RunSettings)
        main()

    return exit_status(program, command=("python", "main.py", *arguments))


if __name__ == "__main__":
    sys.exit(_cli(sys.argv[1:]))
