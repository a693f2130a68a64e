"""The speed benchmark is fair: the tutorial's pipeline uses our networks, loss and settings, and its script runs."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import config
import kd
from models import StudentModel, TeacherModel
from tests.benchmarks.test_scripts import run

CONTENDERS = Path(config.__file__).parent / "benchmarks" / "contenders"


@pytest.fixture(scope="module")
def obvious() -> Iterator[ModuleType]:
    """Import the tutorial's script; remove its folder from the import path afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CONTENDERS.parent)
        patch.syspath_prepend(CONTENDERS)
        import obvious as module

        yield module


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def randomise_norms(model: nn.Module) -> nn.Module:
    """Randomise the norms, with positive scales: only then do pooling and norm commute."""
    for norm in filter(lambda m: isinstance(m, nn.BatchNorm2d), model.modules()):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model


def copy_weights(model: nn.Module, source: nn.Module) -> nn.Module:
    """Copy the weights layer by layer: names differ, order and shapes do not."""
    model.load_state_dict(dict(zip(model.state_dict(), source.state_dict().values(), strict=True)))
    return model


def test_the_tutorials_teacher_has_the_logits_of_our_teacher(obvious: ModuleType) -> None:
    with kd.seeded(0):
        teacher = randomise_norms(TeacherModel()).eval()
        tutorial_teacher = copy_weights(obvious.Teacher(), teacher).eval()
    with torch.no_grad():
        torch.testing.assert_close(tutorial_teacher(images()), teacher(images()), rtol=1e-4, atol=1e-4)


def test_the_tutorials_student_has_the_logits_of_our_student(obvious: ModuleType) -> None:
    with kd.seeded(0):
        student = StudentModel()
        tutorial_student = copy_weights(obvious.Student(), student)
    torch.testing.assert_close(tutorial_student(images()), student(images()))


def test_the_tutorials_loss_equals_ours(obvious: ModuleType) -> None:
    with kd.seeded(0):
        teacher, student, labels = obvious.Teacher().eval(), StudentModel(), torch.randint(10, (16,))
    teacher_logits = 5 * teacher(images()).detach()
    objective = kd.distilled(temperature=config.TEMPERATURE, alpha=config.ALPHA)
    output, terms = objective(student, (images(), labels, teacher_logits))
    tutorial_loss = obvious.distillation_loss(output, teacher_logits, labels)
    torch.testing.assert_close(tutorial_loss, torch.stack(list(terms.values())).sum())
    assert tutorial_loss > F.cross_entropy(output, labels) / 2  # the soft term counts


def test_the_tutorial_does_not_train_its_teacher(obvious: ModuleType) -> None:
    teacher, student = obvious.Teacher(), obvious.Student()
    before = copy.deepcopy(teacher.state_dict())
    loss, _ = obvious.loss_with(teacher)(student, images(), torch.zeros(16, dtype=torch.int64))
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_the_tutorials_cached_logits_belong_to_their_images(obvious: ModuleType) -> None:
    teacher, dataset = obvious.Teacher(), torch.utils.data.TensorDataset(images(200), torch.arange(200) % 10)
    loader = obvious.with_teacher_logits(torch.utils.data.DataLoader(dataset), teacher)
    for inputs, _, logits in loader:
        torch.testing.assert_close(logits, teacher(inputs), rtol=1e-4, atol=1e-5)
    assert len(loader) == 2


def test_the_tutorial_has_our_settings(obvious: ModuleType) -> None:
    assert (obvious.BATCH_SIZE, obvious.LEARNING_RATE) == (config.BATCH_SIZE, config.LEARNING_RATE)
    assert (obvious.TEMPERATURE, obvious.ALPHA) == (config.TEMPERATURE, config.ALPHA)


def last_line(script: str, *arguments: str | Path) -> str:
    return run(f"contenders/{script}", *arguments).splitlines()[-1]


@pytest.mark.slow
def test_both_scripts_report_the_same_figures_in_a_quick_run(tmp_path: Path) -> None:
    run("contenders/mnist_folder.py", tmp_path)
    size = ("--limit", "600", "--epochs", "1")
    obvious, ours = last_line("obvious.py", "--data", tmp_path, *size), last_line("ours.py", *size)
    for figures in map(json.loads, (obvious, ours)):
        parts = ("total", "import", "teacher", "control", "distilled", "evaluation_and_saving")
        assert set(figures) == {"seconds", "epoch_seconds", "test_errors", "peak_rss"}
        assert set(figures["seconds"]) == set(parts)
        assert sum(figures["seconds"][part] for part in parts[1:]) <= figures["seconds"]["total"]
        assert all(second > 0 for second in figures["seconds"].values())
        assert set(figures["epoch_seconds"]) == set(figures["test_errors"]) == {"teacher", "control", "distilled"}
        assert all(0 < errors < 9000 for errors in figures["test_errors"].values())  # 9,000: guessing
