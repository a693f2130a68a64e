"""Flags of the distillation method: ``--method``, ``--set NAME=VALUE``, and ``--temperature`` and ``--alpha`` of kd."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from kd.checks import naming_flag
from kd.methods import METHODS, Setting, method_named, settings_of


def parse_method_settings(texts: Sequence[str]) -> dict[str, Setting]:
    """Parse ``("beta=8", "warmup=0")`` into a dict; raise ``ValueError`` for another form or a repeated name."""
    settings: dict[str, Setting] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign) or name in settings:
            raise ValueError(f"--set must be NAME=VALUE, each name once. Got {text!r} instead.")
        settings[name] = value
    return settings


def split_by_method(texts: Sequence[str], methods: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of ``--set METHOD.NAME=VALUE`` for each method, as NAME=VALUE."""
    starts = tuple(f"{method}." for method in methods)
    unknown = [text for text in texts if not text.startswith(starts)]
    if unknown:
        raise ValueError(
            f"--set with --methods must be METHOD.NAME=VALUE, with a method of {', '.join(methods)}. Got "
            f"{unknown[0]!r} instead."
        )
    return {
        method: tuple(text.removeprefix(start) for text in texts if text.startswith(start))
        for method, start in zip(methods, starts, strict=True)
    }


@contextmanager
def naming_one_of_several(method: str, *, common: bool = False) -> Iterator[None]:
    """Prefix a ``ValueError`` with the method of ``--methods`` it is about; its advice becomes ``--set METHOD.NAME=…``.

    Args:
        common: leave an error that mentions neither ``--method`` nor ``--set``, since it is about all methods.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        if common and not re.search(r"--(method|set)\b", text):
            raise
        text = re.sub(rf"--method {re.escape(method)}(?=[ :])[ :]*", "", text)
        raise ValueError(f"{method}: {re.sub('--set (?=[a-z])', f'--set {method}.', text)}") from error


def all_method_settings(name: str, texts: Sequence[str], *, temperature: float, alpha: float) -> dict[str, Setting]:
    """Return the settings of a method: ``kd`` has flags for temperature and alpha, all other settings use ``--set``.

    Args:
        texts: values of ``--set``, each NAME=VALUE.
        temperature, alpha: settings of ``kd``; left at their defaults for other methods.

    Raises:
        ValueError: unknown method or setting, or a setting of another method.
    """
    kd_settings = {"temperature": temperature, "alpha": alpha}
    if name == "kd":
        return _add_kd_settings(parse_method_settings(texts), kd_settings)
    with naming_flag("--method"):
        method_named(name)
    with naming_flag(f"--set {' '.join(texts)}"):
        settings = settings_of(name, parse_method_settings(texts))
    if kd_settings != {key: METHODS["kd"].settings[key] for key in kd_settings}:
        raise ValueError(
            f"--temperature and --alpha are settings of kd, not of {name}. Use --set, with any of "
            f"{', '.join(format_method_settings(settings))}."
        )
    return settings


def _add_kd_settings(given: Mapping[str, Setting], flags: Mapping[str, float]) -> dict[str, Setting]:
    """Return the settings of ``kd`` that have flags of their own, and those of ``--set`` if they are not the default.

    So a run with the default divergence is recorded as it was before there were others.
    """
    for key, value in given.items():
        if key in flags:
            raise ValueError(f"--set {key} does not apply to kd. Got --set {key}={value}; use --{key} instead.")
    with naming_flag("".join(f"--set {key}={value} " for key, value in given.items()).rstrip()):
        settings = settings_of("kd", given)
    defaults = METHODS["kd"].settings
    return {**flags, **{key: settings[key] for key in given if settings[key] != defaults[key]}}


def format_method_settings(settings: Mapping[str, Setting]) -> list[str]:
    """Return each setting as NAME=VALUE, the form of ``--set``."""
    return [
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items()
    ]
