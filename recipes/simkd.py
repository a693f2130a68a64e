"""Reuse the teacher's classifier (SimKD): the student learns the teacher's last maps and shares its classifier.

    python recipes/simkd.py                         # 4 seeds
    python recipes/simkd.py --limit 500 --pairs 2   # quick run
    python recipes/simkd.py --out simkd             # also save the weights of the first composite

Look at ``Composite``, the model that is deployed, and therefore evaluated, measured and saved: the student's trunk, a
projector and the teacher's classifier. Unlike in FitNets, the projector is part of the final model, and here it is
larger than the student. The loss is a mean squared difference of maps, without labels or logits.

Controls, from the same weights and on the same batches: the plain student on the labels, the plain student with plain
distillation, and the same composite on the labels. The last control separates the effects of loss and size.

Source: Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001, section 3. The
projector follows the paper: 1 × 1, 3 × 3 and 1 × 1 convolutions with batch norm and ReLU. The authors' code has no
licence and is not used. The last maps of both networks have the same size here; the paper pools the larger ones.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro
from torch import Tensor, nn

import kd
from kd.commands.trials import count_errors, judge_arms, train_copy
from kd.console import print_table
from kd.data.splits import stratified_split
from kd.evaluation.metrics import count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds
from kd.losses import hint_loss
from kd.models import CNN, MNIST_SHAPE
from kd.models.features import capture
from kd.storage.files import publish
from kd.storage.weights import weights_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A student with the teacher's classifier against plain students and the same composite on the labels."""

    pairs: int = 4
    """number of seeds; each arm has one student per seed"""
    epochs: int = 2
    """epochs of every student"""
    teacher_epochs: int = 8
    """epochs of the teacher"""
    teacher: int = 16
    """channels of the teacher's first stage"""
    student: int = 4
    """channels of the student's first stage"""
    reduction: int = 2
    """ratio of the channels of the teacher's last layer to those inside the projector: 1, 2, 4 or 8"""
    limit: int | None = None
    """train on the first N images only (stratified)"""
    out: Path | None = None
    """folder for the weights of the first seed's composite"""


class Composite(nn.Module):
    """The student up to its last maps, a projector to the teacher's maps, and the teacher's frozen classifier.

    Input [B, C, H, W], output logits [B, K].
    """

    def __init__(self, student: CNN, teacher: CNN, *, reduction: int) -> None:
        super().__init__()
        student_maps, teacher_maps = student.output.in_features, teacher.output.in_features
        inner_maps = teacher_maps // reduction
        self.trunk = nn.Sequential(student.layer1, student.layer2, student.layer3)
        self.projector = nn.Sequential(
            _make_layer(student_maps, inner_maps, 1),
            _make_layer(inner_maps, inner_maps, 3),
            _make_layer(inner_maps, teacher_maps, 1),
        )
        self.classifier = copy.deepcopy(teacher.output).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.projector(self.trunk(images)).mean(dim=(2, 3)))
        return logits


def _make_layer(inputs: int, maps: int, side: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, maps, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(maps), nn.ReLU())


def simkd(teacher: CNN) -> kd.Objective:
    """Return the objective: mean squared difference of the composite's projected maps and the teacher's last maps."""

    def objective(composite: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        teacher.eval()
        with torch.no_grad(), capture(teacher, "layer3") as teacher_layers:
            teacher(batch[0])
        with capture(composite, "projector") as composite_layers:
            output = composite(batch[0])
        return output, {"feature": hint_loss(composite_layers["projector"], teacher_layers["layer3"])}

    return objective


def format_costs(models: Mapping[str, nn.Module], images: Tensor) -> dict[str, list[str]]:
    """Format the parameters, frozen ones included, and the multiply-adds per image of each deployed model."""
    return {
        name: [f"{count_parameters(model):,}", f"{count_multiply_adds(model, images[:1]):,}"]
        for name, model in models.items()
    }


def main(settings: Settings) -> dict[str, list[int]]:
    """Return the errors by arm, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        start = CNN(settings.teacher, MNIST_SHAPE, 10)
    teacher = train_copy(start, kd.supervised, training, seed=0, epochs=settings.teacher_epochs)
    errors: dict[str, list[int]] = {name: [] for name in ("labels", "kd", "composite on labels", "simkd")}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            plain = CNN(settings.student, MNIST_SHAPE, 10)
            composite = Composite(plain, teacher, reduction=settings.reduction)
        arms: dict[str, tuple[nn.Module, kd.Objective]] = {
            "labels": (plain, kd.supervised),
            "kd": (plain, kd.live_teacher(teacher, kd.distilled(temperature=5, alpha=0.5))),
            "composite on labels": (composite, kd.supervised),
            "simkd": (composite, simkd(teacher)),
        }
        for name, (model, objective) in arms.items():
            student = train_copy(model, objective, training, seed=seed, epochs=settings.epochs)
            errors[name].append(count_errors(student, held_back))
        if seed == 0:  # ``student`` is the trained composite, the last arm
            header = ("deployed model", "parameters", "multiply-adds")
            models = {"plain student": plain, "composite": student, "teacher": teacher}
            print_table("cost of inference, one image", header, format_costs(models, training[0][0][None]))
            if settings.out:
                publish({settings.out / "composite.pth": weights_bytes(student)})
    title = f"student errors (teacher: {count_errors(teacher, held_back)})"
    judge_arms(errors, [("simkd", name) for name in errors if name != "simkd"], images=len(held_back), title=title)
    return errors


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
