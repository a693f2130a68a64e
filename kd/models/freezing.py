"""Frozen parameters: chosen by patterns on their names, and not changed by training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import nn

from kd.checks import did_you_mean


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters that match a pattern, and return their names.

    A frozen parameter needs no gradient, so no optimizer changes it, nor decays it. A layer with running statistics,
    such as batch norm, keeps these if all its parameters are frozen (if it has none: if its statistics match): it runs
    in eval mode in training too. Dropout in frozen layers stays active.

    Args:
        patterns: shell-style, such as ``layer1.*``; ``*`` also matches dots. None freezes nothing. A parameter with
            several names (tied weights) matches by any of them, and is returned under the first.

    Raises:
        ValueError: a pattern matches no parameter, or all parameters would be frozen. The model is not changed.
    """
    names = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in names):
            raise ValueError(f"{pattern!r} must match the name of a parameter. {_suggest(model, pattern)}")
    matched = {id(parameter) for name, parameter in names.items() if _matches(name, patterns)}
    parameters = dict(model.named_parameters())
    frozen = [name for name, parameter in parameters.items() if id(parameter) in matched]
    if parameters and len(frozen) == len(parameters):
        raise ValueError(
            f"{' '.join(patterns)!r} matches all {len(parameters)} parameters, so nothing would be trained. Leave out "
            f"the last layer, such as {next(reversed(parameters))}"
        )
    for name in frozen:
        parameters[name].requires_grad_(False)
    if frozen:
        _freeze_statistics(model, patterns, matched)
    return frozen


def _freeze_statistics(model: nn.Module, patterns: Sequence[str], frozen: Collection[int]) -> None:
    """Freeze the statistics of layers whose parameters are all frozen, given by their ids."""
    layers: dict[nn.Module, bool] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        statistics = [name for name, _ in module.named_buffers(recurse=False) if name.startswith("running_")]
        own = [id(parameter) in frozen for parameter in module.parameters(recurse=False)]
        matches = own or [_matches(f"{path}.{name}" if path else name, patterns) for name in statistics]
        layers[module] = layers.get(module, False) or (bool(statistics) and all(matches))
    for module, is_frozen in layers.items():
        if is_frozen:
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
