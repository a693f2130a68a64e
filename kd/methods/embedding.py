"""Embedding: the student's features learn the teacher's embeddings alone, and the labels train only its head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.checks import require
from kd.losses.embedding import DISTANCES, embedding_loss
from kd.losses.precision import widen
from kd.methods.feature import match_vector_layers
from kd.methods.objectives import run_teacher, supervised_where_labelled
from kd.models.features import average_positions, capture, detach_at
from kd.models.inference import evaluating, run_on_copy
from kd.seeding import seeded
from kd.types import Batch, Objective


class EmbeddingObjective(nn.Module):
    """``embedding_loss(projector(f), t) + CE(head(stop_gradient(f)), label)``, ``{"hard": CE, "feature": loss}``.

    f [B, D] are the student's features, by default the input of its last linear layer, and t [B, E] those of the
    teacher. Maps and tokens are averaged over their positions.

    The layers before f get no gradient from the labels, and the layers behind f, the student's head, none from the
    teacher. The head is a linear probe that is trained in the same steps as the features, so the student is a complete
    classifier at the end. As the two terms share no parameter, no weight between them, such as the alpha of ``kd``,
    would change a gradient's direction; there is none. Unlabelled samples train the features only.

    Args:
        teacher: runs at every step; see ``kd.methods.feature.FeatureObjective``.
        layers: the layers (student, teacher), named as in ``kd.models.features.capture``.
        projector: from the student's width to the teacher's, trained with the student and discarded.
        distance: see ``kd.losses.embedding.embedding_loss``.

    Source: Navaneet, Koohpayegani, Tejankar, Pirsiavash 2022, arXiv:2201.05131, for the features; probes that do not
    change what they probe: Alain, Bengio 2016, arXiv:1610.01644, here trained beside the features as is usual in
    self-supervised learning. The authors' projector is a multi-layer perceptron; here it is linear, and only there if
    the widths differ.
    """

    def __init__(self, teacher: nn.Module, layers: tuple[str, str], projector: nn.Module, *, distance: str) -> None:
        super().__init__()
        self.teacher = (teacher,)  # a tuple, so that torch does not register it as a submodule
        self.student_layers, self.teacher_layers = ([name] for name in layers)
        self.projector, self.distance = projector, distance

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        (teacher,), (student_layer,), (teacher_layer,) = self.teacher, self.student_layers, self.teacher_layers
        with capture(teacher, teacher_layer) as teacher_features:
            run_teacher(teacher, batch[0])
        with capture(model, student_layer) as student_features, detach_at(model, student_layer):
            output, terms = supervised_where_labelled(model, batch)
        with torch.autocast(batch[0].device.type, enabled=False):
            features = self.projector(average_positions(widen(student_features[student_layer])))
            embeddings = average_positions(widen(teacher_features[teacher_layer]))
        return output, {"hard": terms["hard"], "feature": embedding_loss(features, embeddings, distance=self.distance)}


def embedding(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, distance: str, student_layers: str, teacher_layers: str
) -> Objective:
    """``embedding_loss`` of the last linear layers' inputs or of the named layers, and CE behind the student's only.

    Raises:
        ValueError: also if the student's logits depend on layers before its features by another path, or no layer with
            trained parameters is behind them.
    """
    require(distance in DISTANCES, "distance", distance, "cosine, mse or rkd")
    ((student_layer, teacher_layer),) = match_vector_layers(student, teacher, batch, student_layers, teacher_layers)
    _require_head_behind(student, student_layer, batch[0])
    inputs, outputs = (
        _measure_width(model, layer, batch[0]) for model, layer in ((student, student_layer), (teacher, teacher_layer))
    )
    with seeded(0):
        projector = nn.Identity() if distance == "rkd" or inputs == outputs else nn.Linear(inputs, outputs)
    return EmbeddingObjective(teacher, (student_layer, teacher_layer), projector.to(batch[0].device), distance=distance)


def _measure_width(model: nn.Module, layer: str, inputs: Tensor) -> int:
    """Return the number of features of a layer, averaged over positions."""
    with evaluating(model), torch.no_grad(), capture(model, layer) as captured:
        run_on_copy(model, inputs)
    features = average_positions(captured[layer])
    if features.ndim != 2 or len(features) != len(inputs):
        raise ValueError(
            f"the features of {layer} should be a vector per sample. Got {list(features.shape)} for {len(inputs)} "
            f"samples. Name another layer of {type(model).__name__}."
        )
    return features.shape[1]


def _require_head_behind(student: nn.Module, layer: str, inputs: Tensor) -> None:
    """Check that all trained parameters that the logits depend on lie behind a layer, and that there are some."""
    with torch.enable_grad(), evaluating(student), capture(student, layer) as captured, detach_at(student, layer):
        output = run_on_copy(student, inputs)
    parameters = [(name, parameter) for name, parameter in student.named_parameters() if parameter.requires_grad]
    before, behind = (_list_reached(values, parameters) for values in (captured[layer], output))
    advice = "Name the layer whose input is the student's last features: --set student_layers=NAME:input."
    if shared := [name for name in behind if name in before]:
        raise ValueError(
            f"the logits of the student, {type(student).__name__}, depend on {shared[0]} not only through {layer}, so "
            f"the labels would train its features too. {advice}"
        )
    if not behind:
        raise ValueError(
            f"the labels would train nothing: the student, {type(student).__name__}, has no trained parameters behind "
            f"{layer}. {advice}"
        )


def _list_reached(values: Tensor, parameters: Sequence[tuple[str, nn.Parameter]]) -> list[str]:
    """Return the names of the parameters on which values depend."""
    if not values.requires_grad:
        return []
    tensors = [parameter for _, parameter in parameters]
    with torch.enable_grad():  # methods are tried without gradients
        gradients = torch.autograd.grad(values.sum(), tensors, retain_graph=True, allow_unused=True)
    return [name for (name, _), gradient in zip(parameters, gradients, strict=True) if gradient is not None]
