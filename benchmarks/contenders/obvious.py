"""The documented pipeline in the style of an ordinary tutorial: one file, torchvision and a plain loop, without kd.

    python benchmarks/contenders/mnist_folder.py /tmp/mnist
    python benchmarks/contenders/obvious.py --data /tmp/mnist --epochs 10

The baseline for ``ours.py``. Layers, loss, optimizer, batch size and split sizes are this project's. Everything else
follows the usual examples: transforms per image, a loader with default workers, ``loss.item()`` at each step, a live
teacher. Nothing is slow on purpose. With ``--cached`` the teacher runs once per image and its logits go into a dataset,
as in docs/pipeline.rst.
"""

# ruff: noqa: E402  the clock starts before the heavy imports, because users wait for them too
import time

STARTED = time.perf_counter()

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, random_split
from torchvision import datasets, transforms

sys.path.insert(0, str(Path(__file__).parent.parent))
import measuring

IMPORTED = time.perf_counter()

BATCH_SIZE, LEARNING_RATE = 128, 4e-3
TEMPERATURE, ALPHA = 5.0, 0.5

Loss = Callable[..., tuple[Tensor, Tensor]]  # model, images, labels (and teacher logits) → loss, logits


# --- networks: the layers of kd/models/networks.py in the same order, so that weights can be copied layer by layer.
# Pooling comes last, as in textbooks. Scales of the norms are positive at the start and stay positive; then equal
# weights give equal logits. In training, norms use the statistics of whole maps here, but of pooled maps in kd. ---


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, stride=2)
        self.conv2 = nn.Conv2d(16, 48, 5, bias=False)
        self.bn1 = nn.BatchNorm2d(48)
        self.conv3 = nn.Conv2d(48, 128, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(128)
        self.fc1 = nn.Linear(128 * 2 * 2, 256)
        self.fc2 = nn.Linear(256, 10)
        self.pool = nn.MaxPool2d(2)
        self.dropout1 = nn.Dropout2d(0.1)
        self.dropout2 = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = self.dropout1(self.pool(F.relu(self.bn1(self.conv2(x)))))
        x = self.dropout1(F.relu(self.bn2(self.conv3(x))))
        x = torch.flatten(x, 1)
        x = self.dropout2(F.relu(self.fc1(x)))
        logits: Tensor = self.fc2(x)
        return logits


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 256)
        self.fc2 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))
        return logits


# --- data ---


def load_mnist(root: Path, *, train: bool) -> Dataset[Any]:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images: Dataset[Any] = datasets.MNIST(root, train=train, download=False, transform=transform)
    return images


def make_loaders(root: Path, limit: int | None) -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
    """Return training and validation loaders (9:1 of the first ``limit`` images; None: of all) and the test loader."""
    images: Dataset[Any] = load_mnist(root, train=True)
    if limit is not None:
        images = Subset(images, range(limit))
    training, validation = random_split(images, [0.9, 0.1], generator=torch.Generator().manual_seed(42))
    return (
        DataLoader(training, batch_size=BATCH_SIZE, shuffle=True),
        DataLoader(validation, batch_size=BATCH_SIZE),
        DataLoader(load_mnist(root, train=False), batch_size=BATCH_SIZE),
    )


class DistillDataset(Dataset[Any]):
    def __init__(self, images: Dataset[Any], logits: Tensor) -> None:
        self.images, self.logits = images, logits

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return (*self.images[index], self.logits[index])


@torch.no_grad()
def with_teacher_logits(loader: DataLoader[Any], teacher: nn.Module) -> DataLoader[Any]:
    teacher.eval()
    in_order = DataLoader(loader.dataset, batch_size=BATCH_SIZE)
    logits = torch.cat([teacher(images) for images, _ in in_order])
    return DataLoader(DistillDataset(loader.dataset, logits), batch_size=BATCH_SIZE, shuffle=True)


# --- training ---


def supervised_loss(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(images)
    return F.cross_entropy(logits, labels), logits


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    soft_targets = F.softmax(teacher_logits / TEMPERATURE, dim=1)
    log_probabilities = F.log_softmax(student_logits / TEMPERATURE, dim=1)
    soft = F.kl_div(log_probabilities, soft_targets, reduction="batchmean") * TEMPERATURE**2
    return ALPHA * F.cross_entropy(student_logits, labels) + (1 - ALPHA) * soft


def loss_with(teacher: nn.Module) -> Loss:
    teacher.eval()

    def loss(student: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teacher_logits = teacher(images)
        student_logits = student(images)
        return distillation_loss(student_logits, teacher_logits, labels), student_logits

    return loss


def loss_with_cached(student: nn.Module, images: Tensor, labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    student_logits = student(images)
    return distillation_loss(student_logits, logits, labels), student_logits


def train_one_epoch(
    model: nn.Module, loader: DataLoader[Any], loss_of: Loss, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    model.train()
    total_loss, correct, seen = 0.0, 0, 0
    for batch in loader:
        labels = batch[1]
        optimizer.zero_grad()
        loss, logits = loss_of(model, *batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total_loss += loss.item() * len(labels)
        correct += int((logits.argmax(dim=1) == labels).sum().item())
        seen += len(labels)
    return total_loss / seen, correct / seen


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Any]) -> tuple[float, float, list[int]]:
    """Return loss, accuracy and the predictions in the loader's order."""
    model.eval()
    total_loss, correct, predictions = 0.0, 0, []
    for images, labels in loader:
        loss, logits = supervised_loss(model, images, labels)
        predicted = logits.argmax(dim=1)
        total_loss += loss.item() * len(labels)
        correct += int((predicted == labels).sum().item())
        predictions += predicted.tolist()
    return total_loss / len(predictions), correct / len(predictions), predictions


def train(
    name: str, model: nn.Module, loss_of: Loss, training: DataLoader[Any], validation: DataLoader[Any], epochs: int
) -> dict[str, list[float]]:
    """Train for ``epochs``; return the curves and the seconds of each epoch with its validation."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    quantities = ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_seconds")
    history: dict[str, list[float]] = {quantity: [] for quantity in quantities}
    for epoch in range(epochs):
        started = time.perf_counter()
        train_loss, train_acc = train_one_epoch(model, training, loss_of, optimizer)
        val_loss, val_acc, _ = evaluate(model, validation)
        values = (train_loss, train_acc, val_loss, val_acc, time.perf_counter() - started)
        for curve, value in zip(history.values(), values, strict=True):
            curve.append(value)
        print(f"{name} epoch {epoch + 1}/{epochs}: loss {train_loss:.4f}, validation accuracy {val_acc:.4f}")
    return history


# --- plots ---


def plot_curves(histories: dict[str, dict[str, list[float]]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for axis, quantity in zip(axes, ("loss", "acc"), strict=True):
        for name, history in histories.items():
            for split in ("train", "val"):
                axis.plot(history[f"{split}_{quantity}"], label=f"{name} {split}")
        axis.set_title(quantity)
        axis.set_xlabel("epoch")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def plot_comparison(accuracies: dict[str, float], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 4))
    axis.bar(list(accuracies), list(accuracies.values()))
    axis.set_ylim(min(accuracies.values()) - 0.01, 1)
    axis.set_ylabel("test accuracy")
    figure.savefig(path)
    plt.close(figure)


def plot_examples(images: Dataset[Any], predictions: dict[str, list[int]], path: Path) -> None:
    figure, axes = plt.subplots(2, 5, figsize=(12, 6))
    for index, axis in enumerate(axes.flat):
        image, label = images[index]
        axis.imshow(image.squeeze(), cmap="gray")
        axis.set_title("\n".join([f"label {label}", *(f"{name} {p[index]}" for name, p in predictions.items())]))
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


# --- the whole pipeline ---


def run(folder: Path, data: Path, epochs: int, limit: int | None, *, cached: bool) -> dict[str, Any]:
    """Train, evaluate and save the three models; return the figures for ``measuring.print_report``."""
    torch.manual_seed(0)
    training, validation, test = make_loaders(data, limit)
    models: dict[str, nn.Module] = {"teacher": Teacher(), "control": Student(), "distilled": Student()}
    losses: dict[str, Loss] = {
        "teacher": supervised_loss,
        "control": supervised_loss,
        "distilled": loss_with_cached if cached else loss_with(models["teacher"]),
    }
    histories, seconds = {}, {}
    for name, model in models.items():
        started = time.perf_counter()
        if cached and name == "distilled":
            training = with_teacher_logits(training, models["teacher"])
        histories[name] = train(name, model, losses[name], training, validation, epochs)
        seconds[name] = time.perf_counter() - started
    started = time.perf_counter()
    predictions, accuracies = {}, {}
    for name, model in models.items():
        _, accuracies[name], predictions[name] = evaluate(model, test)
        torch.save(model.state_dict(), folder / f"{name}.pth")
        print(f"{name}: test accuracy {accuracies[name]:.4f}")
    plot_curves({"teacher": histories["teacher"]}, folder / "teacher_training.png")
    plot_curves(histories, folder / "training_curves.png")
    plot_comparison(accuracies, folder / "accuracy_comparison.png")
    plot_examples(test.dataset, predictions, folder / "prediction_examples.png")
    seconds["evaluation_and_saving"] = time.perf_counter() - started
    count = len(predictions["teacher"])
    return {
        "seconds": {"total": time.perf_counter() - STARTED, "import": IMPORTED - STARTED, **seconds},
        "epoch_seconds": {name: statistics.median(history["epoch_seconds"]) for name, history in histories.items()},
        "test_errors": {name: round(count * (1 - accuracy)) for name, accuracy in accuracies.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder made by mnist_folder.py")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, default=None, help="train on the first N images only")
    parser.add_argument("--cached", action="store_true", help="run the teacher once per image, before training")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments.data, arguments.epochs, arguments.limit, cached=arguments.cached)
    measuring.print_report(**figures)


if __name__ == "__main__":
    main()
