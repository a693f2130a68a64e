"""Check that the outputs of a model are logits; ``kd.losses.logit_kind`` judges the values."""

from __future__ import annotations

import copy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kd.checks import are_values_known
from kd.losses.logit_kind import Doubt, find_doubt
from kd.models.inference import device_of, evaluating
from kd.models.main_output import take_logits
from kd.seeding import seeded

_LARGE = 1000.0  # factor of inputs that no logits within [0, 1] survive
PROBED = 20  # inputs of an untrained model, as many as it takes to tell
_ENOUGH = 20  # rows in one call, or calls of fewer rows, after which a model is known


_CALLS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # that were checked by ``require_logits_at_first``


def require_model_returns_logits(name: str, logits: Tensor, model: nn.Module, inputs: Tensor) -> None:
    """Check that the outputs [N, K] of a model are logits, like ``require_logits_kind``.

    The logits of a hardly trained model may lie in [0, 1] by chance. They do not for much larger inputs, whereas
    probabilities and sigmoid outputs do.

    Args:
        inputs: some inputs of the model.

    Raises:
        ValueError: see ``require_logits_kind``.
    """
    doubt = find_doubt(logits)
    if doubt and _find_doubt_for_large_inputs(model, inputs):
        raise ValueError(_explain(name, doubt))


def require_logits_at_first(name: str, logits: Tensor, model: nn.Module, inputs: Tensor) -> None:
    """Check the outputs [B, K] of a model like ``require_model_returns_logits``, in its first call with 20 rows.

    For models whose outputs nothing else checks, such as the members of an ensemble and the models that ``kd.fit``
    trains. Calls with fewer rows are checked too, up to 20 of them. A check is a synchronisation on a GPU. Values that
    cannot be read now, as in ``torch.compile``, are not checked.
    """
    if not are_values_known(logits) or logits.ndim != 2 or _CALLS.get(model, 0) >= _ENOUGH:
        return
    require_model_returns_logits(name, logits.detach().float(), model, inputs)
    _CALLS[model] = _ENOUGH if len(logits) >= _ENOUGH else _CALLS.get(model, 0) + 1


def require_untrained_returns_logits(name: str, model: nn.Module, inputs: Tensor, *, training: bool = False) -> None:
    """Check that an untrained model returns logits, on at least ``PROBED`` inputs.

    The outputs of an untrained sigmoid are all about 0.5, and so are the logits of many a network. For large inputs,
    the sigmoid's are 0 and 1.

    Args:
        training: check the outputs in training mode, which may differ.

    Raises:
        ValueError: see ``require_logits_kind``.
    """
    model = copy.deepcopy(model)  # in training mode, buffers change
    model.train(training)  # a user's own train() need not return the model
    outputs = _run(model, inputs)
    require_model_returns_logits(name, outputs, model, inputs)
    is_bounded = float(outputs.min()) >= 0 and float(outputs.max()) <= 1
    if is_bounded and inputs.is_floating_point():
        doubt = find_doubt(_run(model, inputs * _LARGE), cautious=True)
        if doubt:
            raise ValueError(_explain(name, doubt))


def _explain(name: str, doubt: Doubt) -> str:
    advice = "Remove the model's softmax or sigmoid, or whatever else scales its scores at the end."
    return f"{name} must be logits, scores before the softmax. Got {doubt.got}. {advice}"


def _run(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad(), seeded(0):
        return take_logits(model(inputs.to(device_of(model), copy=True))).float().cpu()


def _find_doubt_for_large_inputs(model: nn.Module, inputs: Tensor) -> bool:
    if not inputs.is_floating_point():
        return True  # tokens cannot be scaled
    try:
        with evaluating(model):
            return find_doubt(_run(model, inputs * _LARGE)) is not None
    except Exception:  # user code can raise anything; a teacher of precomputed outputs knows its own inputs only
        return True
