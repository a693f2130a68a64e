"""A reused classifier: the student learns the teacher's last maps, the teacher's classifier does the rest (SimKD).

    python recipes/simkd.py                         # 4 seeds
    python recipes/simkd.py --limit 500 --pairs 2   # at toy size
    python recipes/simkd.py --out simkd             # and the first composite's weights, with what it is beside them

What to look at: used in the end is ``Composite``, the student's trunk, a projector and the teacher's classifier, and so
it is what is evaluated, counted and saved. The projector is no scaffold as in FitNets but stays, and here it is
larger than the student itself. The loss is one mean squared difference of maps: no label is read, no logit compared.

Controls, from the same weights and on the same batches: the plain student on the labels, the plain student distilled
as usual, and the very same composite on the labels, which says whether it is the lesson or the size that helps.

Source: Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001, section 3. The
projector is theirs: 1 × 1, 3 × 3 and 1 × 1 convolutions with batch norm and ReLU. Their program has no licence, and
nothing here is from it. Both networks' last maps are of one size here; the paper pools the larger ones.
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
    """A composite with the teacher's classifier beside the student as it is."""

    pairs: int = 4
    """seeds"""
    epochs: int = 2
    """of every student"""
    teacher_epochs: int = 8
    """of the teacher"""
    teacher: int = 16
    """maps of the teacher's first stage"""
    student: int = 4
    """maps of the student's first stage"""
    reduction: int = 2
    """the teacher's last maps are so many times as many as those inside the projector: 1, 2, 4 or 8"""
    limit: int | None = None
    """use only so many training images"""
    out: Path | None = None
    """folder for the weights of the first seed's composite"""


class Composite(nn.Module):
    """The student up to its last maps, a projector to the teacher's, and the teacher's classifier as it is.

    Input [B, C, H, W], output logits [B, K].
    """

    def __init__(self, student: CNN, teacher: CNN, *, reduction: int) -> None:
        super().__init__()
        ours, theirs = student.output.in_features, teacher.output.in_features
        inner = theirs // reduction
        self.trunk = nn.Sequential(student.layer1, student.layer2, student.layer3)
        self.projector = nn.Sequential(_layer(ours, inner, 1), _layer(inner, inner, 3), _layer(inner, theirs, 1))
        self.classifier = copy.deepcopy(teacher.output).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.projector(self.trunk(images)).mean(dim=(2, 3)))
        return logits


def _layer(inputs: int, maps: int, side: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, maps, side, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(maps), nn.ReLU())


def simkd(teacher: CNN) -> kd.Objective:
    """Of a composite: the mean squared difference of its projected maps from the teacher's last ones, alone."""

    def objective(composite: nn.Module, batch: kd.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        teacher.eval()
        with torch.no_grad(), capture(teacher, "layer3") as theirs:
            teacher(batch[0])
        with capture(composite, "projector") as ours:
            output = composite(batch[0])
        return output, {"feature": hint_loss(ours["projector"], theirs["layer3"])}

    return objective


def costs(models: Mapping[str, nn.Module], images: Tensor) -> dict[str, list[str]]:
    """Parameters, frozen ones included, and multiply-adds for one image, of everything that is used in the end."""
    return {
        name: [f"{count_parameters(model):,}", f"{count_multiply_adds(model, images[:1]):,}"]
        for name, model in models.items()
    }


def main(settings: Settings) -> dict[str, list[int]]:
    """Errors by kind of student, in the order of the seeds."""
    training, held_back = stratified_split(kd.load_mnist(train=True), held_back=0.1, seed=0, limit=settings.limit)
    with kd.seeded(0):
        start = CNN(settings.teacher, MNIST_SHAPE, 10)
    teacher = train_copy(start, kd.supervised, training, seed=0, epochs=settings.teacher_epochs)
    found: dict[str, list[int]] = {name: [] for name in ("labels", "kd", "same on labels", "simkd")}
    for seed in range(settings.pairs):
        with kd.seeded(seed):
            plain = CNN(settings.student, MNIST_SHAPE, 10)
            composite = Composite(plain, teacher, reduction=settings.reduction)
        arms: dict[str, tuple[nn.Module, kd.Objective]] = {
            "labels": (plain, kd.supervised),
            "kd": (plain, kd.live_teacher(teacher, kd.distilled(temperature=5, alpha=0.5))),
            "same on labels": (composite, kd.supervised),
            "simkd": (composite, simkd(teacher)),
        }
        for name, (model, objective) in arms.items():
            student = train_copy(model, objective, training, seed=seed, epochs=settings.epochs)
            found[name].append(count_errors(student, held_back))
        if seed == 0:  # the last arm's student is the composite, trained
            header = ("model in use", "parameters", "multiply-adds")
            models = {"plain student": plain, "composite": student, "teacher": teacher}
            print_table("what one image takes", header, costs(models, training[0][0][None]))
            if settings.out:
                publish({settings.out / "composite.pth": weights_bytes(student)})
    title = f"the teacher has {count_errors(teacher, held_back)} errors; of a student's"
    judge_arms(found, [("simkd", name) for name in found if name != "simkd"], images=len(held_back), title=title)
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
