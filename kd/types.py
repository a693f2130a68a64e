"""Shared types of the toolkit: ``Batch``, ``Objective``, ``Metric``, and the label of unlabelled samples.

Axis letters in all docstrings: N samples, B batch, K classes, C channels, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

# A loader's batch: input [B, ...], label [B] int64, a class in 0 … K − 1 or UNLABELLED, then, if the method needs them,
# teacher logits [B, K] and finally sample ids [B] int64. Labels of mixed samples are probabilities [B, K].
Batch = tuple[Tensor, ...]

# Label of an unlabelled sample. Distillation trains on such samples with the teacher's logits only.
UNLABELLED = -1

# (model, batch) → the model's output and its weighted loss terms by name; the loss is their sum.
Objective = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]

# (output, batch) → a scalar, averaged over the samples, which must all be labelled. Reported, never trained on.
Metric = Callable[[Tensor, Batch], Tensor]
