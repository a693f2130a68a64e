"""The whole vocabulary of the toolkit: three types, one number, and no base class.

Axis letters used in every docstring: N samples, B batch, K classes, C channels, H × W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

# What a loader yields: input [B, ...], label [B] int64, then, where the method needs it, teacher logits [B, K], and
# last ids [B] int64 of the samples.
Batch = tuple[Tensor, ...]

# The label of an item that has none: distillation learns from its input and the teacher alone.
UNLABELLED = -1

# (model, batch) → the model's output and its weighted loss terms by name; the loss is their sum.
Objective = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]

# (output, batch) → a scalar, averaged over the items, all of which have a label. Reported, never trained on.
Metric = Callable[[Tensor, Batch], Tensor]
