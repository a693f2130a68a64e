"""The documented pipeline (docs/pipeline.rst): teacher, control and distilled student on MNIST, compared fairly.

``python main.py`` runs it; ``python main.py --help`` lists what can be changed. The functions also work one by one.
"""

import copy
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import config
import kd
import visualization
from distillation import distillation_loader, distillation_objective
from kd.checkpoint import require_writable
from kd.console import print_table, progress, say
from kd.data import in_order
from kd.program import exit_status
from kd.results import Run, result_files, weight_files
from kd.run import open_run, stage
from kd.settings import command_line, current
from kd.stats import mcnemar, verdict
from models import StudentModel, TeacherModel
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
    for folder in (config.MODELS_DIR, *(config.RESULTS_DIR / part for part in ("metrics", "predictions", "plots"))):
        require_writable(folder)


def load_and_split_data() -> Data:
    """Load MNIST, hold ``TEST_SIZE`` of its training images back for validation (stratified), and make the loaders."""
    training = kd.load_mnist(train=True, root=config.DATA_DIR)
    test = kd.load_mnist(train=False, root=config.DATA_DIR)
    chosen = kd.stratified_order(training.labels, seed=config.RANDOM_STATE)[: config.LIMIT]
    try:
        train_indices, val_indices = train_test_split(
            chosen, test_size=config.TEST_SIZE, random_state=config.RANDOM_STATE, stratify=training.labels[chosen]
        )
    except ValueError as error:
        size = f"TEST_SIZE = {config.TEST_SIZE} of {len(chosen):,} images"
        raise ValueError(f"{size} cannot be split with every class in both parts: {error}") from error
    train_subset = Subset(training, train_indices.tolist())
    val_subset = Subset(training, val_indices.tolist())
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
    history = train_model("teacher", teacher, kd.supervised, train_loader, val_loader)
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
    loaders = DistillLoaders(
        distillation_loader("logits-training", teacher, train_subset, train_loader),
        distillation_loader("logits-validation", teacher, val_subset, val_loader),
    )
    rows = sum(len(loader.dataset) for loader in loaders)  # type: ignore[misc,arg-type]  # Dataset has no __len__
    say(f"teacher logits: {rows:,} rows collected by image and verified against the live teacher")
    return loaders


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
        regular = StudentModel().to(config.DEVICE)
    distilled = copy.deepcopy(regular)
    difference = kd.batches_differ(train_loader, train_distill_loader, seed=config.SEED)
    regular_history = train_model("regular", regular, kd.supervised, train_loader, val_loader)
    distilled_history = train_model(
        "distilled", distilled, distillation_objective(), train_distill_loader, val_distill_loader
    )
    if difference:
        note = f"The control and the distilled student did not see the same batches: {difference}."
        warnings.warn(f"{note} Their difference is not due to the objective alone.", stacklevel=2)
        regular_history.notes.append(note)
        distilled_history.notes.append(note)
    return StudentTraining(regular, distilled, regular_history, distilled_history)


def evaluate_all_models(
    teacher: nn.Module, student_reg: nn.Module, student_dist: nn.Module, test_loader: DataLoader[Any]
) -> TestMetrics:
    """Evaluate the three on every test image, once; print accuracies, prediction distributions and one verdict."""
    models = dict(zip(TestMetrics._fields, (teacher, student_reg, student_dist), strict=True))
    loader = in_order(test_loader)

    def produce(_: object) -> dict[str, Any]:
        with progress("evaluation", steps=len(models) * len(loader)) as advance:
            return {name: kd.predict(model, loader, on_batch=advance)._asdict() for name, model in models.items()}

    outcome = stage("evaluation", {"models": models, "test": loader, "device": config.DEVICE}, produce)
    metrics = TestMetrics(*(_result(**outcome[name]) for name in TestMetrics._fields))
    _print_evaluation(metrics, outcome["teacher"]["labels"])
    return metrics


def save_and_visualize_results(
    teacher: nn.Module,
    student_reg: nn.Module,
    student_dist: nn.Module,
    train_metrics: TrainMetrics,
    test_metrics: TestMetrics,
    test_loader: DataLoader[Any],
) -> None:
    """Save models, metrics, predictions and plots: all of them, or on an error none.

    Everything is drawn from the two metrics; of ``test_loader`` only the images and labels are used.
    """
    run = Run(
        histories=train_metrics._asdict(),
        logits={name: result.logits for name, result in test_metrics._asdict().items()},
        labels=_labels(test_loader, test_metrics),
        test=in_order(test_loader).dataset,
        config=current(config, without=("FRESH", "SNAPSHOT_SECONDS")),
        toy=visualization.toy_stamp(),
    )
    models = {"teacher_model": teacher, "student_regular": student_reg, "student_distilled": student_dist}
    files = (
        weight_files(config.MODELS_DIR, models, run)
        | result_files(config.RESULTS_DIR, run)
        | visualization.all_plots(run)
    )
    kd.publish(files)
    _print_files(files)


def main() -> None:
    """Run the whole pipeline with the values of ``config``, from where an earlier run was interrupted."""
    config.check()
    initialize_directories()
    with open_run(config.STATE_DIR, fresh=config.FRESH, interval=config.SNAPSHOT_SECONDS):
        data = load_and_split_data()
        say(
            f"MNIST: {len(data.train_subset):,} training, {len(data.val_subset):,} validation and "
            f"{len(data.test_loader.dataset):,} test images; training on {config.DEVICE}"  # type: ignore[arg-type]
        )
        training = train_teacher(data.train_loader, data.val_loader)
        teacher = training.model
        loaders = prepare_distillation_data(teacher, *data[:2], data.train_subset, data.val_subset)
        students = train_students(teacher, *data[:2], *loaders)
        models = (teacher, students.student_regular, students.student_distilled)
        test_metrics = evaluate_all_models(*models, data.test_loader)
        train_metrics = TrainMetrics(training.history, students.regular_history, students.distilled_history)
        save_and_visualize_results(*models, train_metrics, test_metrics, data.test_loader)


def _result(logits: Tensor, labels: Tensor) -> Result:
    errors = int((logits.argmax(dim=1) != labels).sum())
    return Result(1 - errors / len(labels), errors, logits)


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


def _print_evaluation(metrics: TestMetrics, labels: Tensor) -> None:
    toy = f", TOY RUN on {config.LIMIT:,} training images" if config.LIMIT is not None else ""
    rows = {
        name: (f"{result.accuracy:.2%}", f"{result.errors:,}", f"{len(labels):,}")
        for name, result in metrics._asdict().items()
    }
    print_table(f"Test set{toy}", ("model", "accuracy", "errors", "images"), rows)
    classes = metrics.teacher.logits.shape[1]
    answers = {"true": labels} | {name: result.logits.argmax(dim=1) for name, result in metrics._asdict().items()}
    counts = torch.stack([torch.bincount(answer, minlength=classes) for answer in answers.values()], dim=1)
    distribution = {str(label): [f"{count:,}" for count in row] for label, row in enumerate(counts.tolist())}
    print_table("Predictions per class", ("class", *answers), distribution)
    wrong = [result.logits.argmax(dim=1) != labels for result in (metrics.regular, metrics.distilled)]
    say(verdict(metrics.regular.errors, metrics.distilled.errors, mcnemar(*wrong)))


def _print_files(files: Mapping[Path, bytes]) -> None:
    for folder in sorted({path.parent for path in files}):
        names = ", ".join(path.name for path in files if path.parent == folder)
        say(f"{folder}/  {names}")


def _cli(arguments: list[str]) -> int:
    def program() -> None:
        description = "Teacher, control and distilled student on MNIST, compared fairly."
        command_line(config, arguments, program="main.py", description=description)
        main()

    return exit_status(program)


if __name__ == "__main__":
    sys.exit(_cli(sys.argv[1:]))
