"""Does a loaded teacher see its inputs on the scale it was trained on? If not, it may be right half as often, or never.

Models see inputs normalised with the training data's mean and standard deviation. A teacher trained elsewhere may
expect other numbers. Its labels and the running statistics of its first batch norm show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from kd.data.datasets import ArrayDataset, unwrap_subsets
from kd.models.features import capture
from kd.models.inference import device_of, evaluating
from kd.models.main_output import take_logits

SAMPLES = 512
_CLEAR = 3.0  # standard deviations by which another scale must be right more often
_FAR = 2.0  # standard deviations between a batch norm's running mean and the mean here, averaged over its channels
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def explain_input_scale(teacher: nn.Module, dataset: Dataset[Any], *, seed: int = 0) -> str | None:
    """Return a reason to doubt that the teacher was trained on inputs scaled like these; None if there is none.

    Runs the teacher on a sample of the dataset, in eval mode, on these inputs and on the usual scales of images.

    Args:
        dataset: samples (input, label), with images stored as bytes; for other data only batch norm is compared.
    """
    base, rows = unwrap_subsets(dataset)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:SAMPLES].tolist()
    samples = [dataset[row] for row in chosen]
    inputs, labels = torch.stack([sample[0] for sample in samples]), torch.tensor([sample[1] for sample in samples])
    right = _find_right(teacher, inputs, labels)
    chance = float(torch.bincount(labels.clamp(min=0)).max()) / len(labels)
    halfway = (1 + chance) / 2  # a poor network may be right more often on any scale
    if isinstance(base, ArrayDataset) and base.inputs.dtype == torch.uint8 and base.inputs.ndim == 4:
        for name, scaled in _usual_scales(base.inputs[rows[chosen]]):
            other = _find_right(teacher, scaled, labels)
            gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
            clear = gained - lost > max(_CLEAR * (gained + lost) ** 0.5, 0.02 * len(labels))
            if clear and float(other.float().mean()) > halfway:
                return (
                    f"it is right on {right.float().mean():.1%} of {len(labels)} samples normalised with this data's "
                    f"mean and standard deviation, but on {other.float().mean():.1%} of them scaled to {name}. Wrap "
                    "it in a FILE.py:NAME that scales its inputs so"
                )
    distance = _measure_distance(teacher, inputs)
    if distance > _FAR:
        return (
            f"the running mean of its first batch norm is {distance:.1f} standard deviations away from the mean here. "
            "It was probably trained on inputs of another scale"
        )
    return None


def _usual_scales(stored: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the usual scales of images [B, C, H, W] uint8, by name."""
    shares = stored.float() / 255
    yield "[0, 1]", shares
    yield "[-1, 1]", 2 * shares - 1
    yield "[0, 255]", stored.float()
    if stored.shape[1] == 3:
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in _IMAGENET)
        yield "ImageNet's mean and standard deviation", (shares - mean) / std


def _find_right(teacher: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return for each sample whether the teacher's class is its label, [B] bool."""
    with evaluating(teacher), torch.no_grad():
        outputs = [take_logits(teacher(batch.to(device_of(teacher)))) for batch in inputs.clone().split(128)]  # type: ignore[no-untyped-call]
    return torch.cat(outputs).argmax(dim=1).cpu() == labels


def _measure_distance(teacher: nn.Module, inputs: Tensor) -> float:
    """Return the distance of the first batch norm's running mean from these inputs', in its standard deviations."""
    norms = ((name, module) for name, module in teacher.named_modules() if isinstance(module, _BatchNorm))
    name, norm = next(norms, ("", None))
    if norm is None or norm.running_mean is None or norm.running_var is None:
        return 0.0
    layer = f"{name}:input"
    with evaluating(teacher), torch.no_grad(), capture(teacher, layer) as features:
        teacher(inputs[:128].clone().to(device_of(teacher)))
    means = features[layer].movedim(1, 0).flatten(1).mean(dim=1)
    return float(((means - norm.running_mean).abs() / (norm.running_var + norm.eps).sqrt()).mean())
