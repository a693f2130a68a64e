"""Frozen parameters: chosen by patterns on their names, and not changed by training."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from kd.checks import did_you_mean


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters that match a pattern, and return their names.

    A frozen parameter needs no gradient, so no optimizer changes it, nor decays it. A layer with running statistics,
    such as batch norm, keeps these if all its parameters are frozen (if it has none: if its statistics match): it runs
    in eval mode in training too. Dropout in frozen layers stays active.

    Args:
        patterns: shell-style, such as ``layer1.*``; ``*`` also matches dots. None freezes nothing.

    Raises:
        ValueError: a pattern matches no parameter, or all parameters would be frozen. The model is not changed.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in parameters):
            raise ValueError(f"{pattern!r} must match the name of a parameter. {_suggest(model, pattern)}")
    frozen = [name for name in parameters if _matches(name, patterns)]
    if parameters and len(frozen) == len(parameters):
        raise ValueError(
            f"{' '.join(patterns)!r} matches all {len(parameters)} parameters, so nothing would be trained. Leave out "
            f"the last layer, such as {next(reversed(parameters))}"
        )
    for name in frozen:
        parameters[name].requires_grad_(False)
    if frozen:
        _freeze_statistics(model, patterns)
    return frozen


def _freeze_statistics(model: nn.Module, patterns: Sequence[str]) -> None:
    for path, module in model.named_modules():
        statistics = [name for name, _ in module.named_buffers(recurse=False) if name.startswith("running_")]
        own = [name for name, _ in module.named_parameters(recurse=False)]
        names = [f"{path}.{name}" if path else name for name in own or statistics]
        if statistics and all(_matches(name, patterns) for name in names):
            module.register_forward_pre_hook(_use_running_statistics)


def _use_running_statistics(module: nn.Module, _: object) -> None:
    """Set a layer to eval mode before each forward pass. A hook, because ``model.train()`` resets the mode of layers;
    it is copied and pickled with the model.
    """
    module.training = False


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _suggest(model: nn.Module, pattern: str) -> str:
    names = [name for name, _ in model.named_parameters()]
    layers = [f"{name}.*" for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    if f"{pattern.rstrip('.')}.*" in layers:
        return f"Did you mean {pattern.rstrip('.')}.*?"
    examples = [*layers[:3], *names[-1:]]
    return did_you_mean(pattern, [*layers, *names], f"Names are, for example, {', '.join(examples)}.")
