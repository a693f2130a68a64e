"""Try a model before any training, so that what would fail at the end, or in the last batch of an epoch, fails now."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.losses.labels import label_loss
from kd.models.inference import device_of, evaluating, find_differing_rows
from kd.models.main_output import take_logits
from kd.models.outputs import PROBED, require_untrained_returns_logits
from kd.seeding import seeded
from kd.storage.weights import require_dense_state
from kd.types import Batch


def last_batch_size(samples: int, batch_size: int) -> int:
    """Return the size of an epoch's last batch."""
    return samples % batch_size or min(samples, batch_size)


def try_training(name: str, model: nn.Module, batch: Batch, *, epochs: Sequence[tuple[int, int]] = ()) -> nn.Module:
    """Run copies of the model forward and backward in training mode, on two samples and, if there is one, on one.

    Returns the copy that has seen two samples, with the state that its forward pass collects in training.

    Args:
        name: name of the model in errors.
        batch: inputs and labels, at least one sample.
        epochs: samples and batch size of each training; a last batch of one sample is tried too.

    Raises:
        ValueError: the model fails, its output is not logits [B, K] in both modes, no parameter gets a gradient, or an
            entry of its ``state_dict`` is not a tensor and so could not be saved.
    """
    require_dense_state(name, model)
    single = next((epoch for epoch in epochs if last_batch_size(*epoch) == 1), None)
    copies = []
    for size in (2, 1) if single else (2,):
        copies.append(copy.deepcopy(model))
        try:
            _step(copies[-1], batch, size)
        except Exception as error:  # user code can raise anything
            reason = str(error).split("\n", 1)[0].removesuffix(".")
            if size == 1 and single:
                samples, batch_size = single
                raise ValueError(
                    f"{name} cannot be trained on a batch of one sample ({reason}), and {samples:,} samples leave one "
                    f"with a batch size of {batch_size}. Choose another batch size (--batch-size)."
                ) from error
            raise ValueError(f"{name} fails in training mode on a batch of {size} samples: {reason}.") from error
    inputs = batch[0][torch.arange(max(2, min(PROBED, len(batch[0])))) % len(batch[0])]
    require_untrained_returns_logits(f"outputs of {name}", model, inputs)
    require_untrained_returns_logits(f"outputs of {name} in training mode", model, inputs, training=True)
    return copies[0]


def require_restorable(name: str, model: nn.Module, other: nn.Module, batch: Batch) -> None:
    """Check that the model's weights determine its output: another instance with these weights must return the same.

    Args:
        name: name of the model in errors.
        model: after a step of training, if it is to be trained: it may have collected values that its weights lack.
        other: a model of the same kind, built with another seed or copied before the training; it is changed.
        batch: inputs and labels.

    Raises:
        ValueError: the outputs differ, or the weights do not fit.
    """
    require_dense_state(name, model)
    try:
        other.load_state_dict(model.state_dict())
    except RuntimeError as error:
        reason = str(error).split("\n", 1)[0].rstrip(":.")
        raise ValueError(f"{name} cannot be restored from its own state_dict: {reason}.") from error
    before, after = (_predict(instance, batch[0][:2]) for instance in (model, other))
    if before.shape != after.shape or not torch.allclose(before, after, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"{name} returns other outputs after its weights are saved and loaded: they depend on values that its "
            "state_dict lacks, such as a buffer with persistent=False, a plain tensor or a plain number that counts "
            "steps. Register these as buffers."
        )


def require_repeatable(name: str, model: nn.Module, inputs: Tensor) -> None:
    """Check that the output for a sample in eval mode is the same in a second call and without the rest of the batch.

    Otherwise neither cached logits nor saved predictions are those of the model.

    Args:
        name: name of the model in errors.
        inputs: [B, ...], of which four are enough.

    Raises:
        ValueError: the outputs differ by more than rounding.
    """
    few = inputs[:4]
    first, again = (_predict(model, few, seed=seed) for seed in (0, 1))
    alone = _predict(model, few[:1], seed=0)
    if first.shape != again.shape or find_differing_rows(again, first):
        raise ValueError(
            f"{name} returns other outputs for the same inputs in eval mode: it draws random numbers there, or changes "
            "values of its own. Its predictions could not be repeated. Do this only if self.training."
        )
    if first[:1].shape != alone.shape or find_differing_rows(alone, first[:1]):
        raise ValueError(
            f"{name} returns other outputs for a sample in a batch than for this sample alone in eval mode. Look for "
            "statistics of the batch, such as batch norm with track_running_stats=False, or a mean over dimension 0."
        )


def _step(model: nn.Module, batch: Batch, size: int) -> None:
    inputs, labels = (tensor[torch.arange(size) % len(tensor)].to(device_of(model)) for tensor in batch[:2])
    with seeded(0, device_of(model)):
        model.train()
        output = model(inputs)
        if not isinstance(output, Tensor) or output.ndim != 2:
            got = list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(f"it must return logits [B, K] there too. Got {got} instead")
        known = labels[labels >= 0] if labels.ndim == 1 else labels
        loss = label_loss(output, labels, unlabelled=True)
        if len(known) and not loss.isfinite():
            raise ValueError(
                f"the loss is {loss.item()}. Look for outputs that are not finite, such as the logarithm or root "
                "of a value at or below 0"
            )
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if not gradients:
        raise ValueError("no parameter gets a gradient; are all frozen?")
    if len(known) and (wrong := next((name for name, grad in gradients.items() if not grad.isfinite().all()), None)):
        raise ValueError(
            f"the gradient of {wrong} is not finite, although the loss is. Look for operations without a derivative "
            "there, such as the root or the norm of zeros"
        )


def _predict(model: nn.Module, inputs: Tensor, *, seed: int = 0) -> Tensor:
    with evaluating(model), torch.no_grad(), seeded(seed, device_of(model)):
        return take_logits(model(inputs.clone().to(device_of(model)))).cpu()
