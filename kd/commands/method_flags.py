"""The method and its settings as a command line says them: ``--method``, ``--set NAME=VALUE``, the two flags of kd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kd.methods import METHODS, Setting, settings_of


def parse_method_settings(texts: Sequence[str]) -> dict[str, Setting]:
    """``("beta=8", "warmup=0")`` by name; ``ValueError`` where one is not of that form, or a name comes twice."""
    given: dict[str, Setting] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign) or name in given:
            raise ValueError(f"a setting of the method must be given once, as NAME=VALUE. Got {text!r} instead.")
        given[name] = value
    return given


def all_method_settings(name: str, texts: Sequence[str], *, temperature: float, alpha: float) -> dict[str, Setting]:
    """All settings of the method that a command line has chosen: ``kd`` has flags of its own, others have ``--set``.

    Args:
        texts: what ``--set`` was given, each NAME=VALUE.
        temperature, alpha: those of ``kd``.

    Raises:
        ValueError: no such method or setting, or one that belongs to another method.
    """
    defaults, given = METHODS["kd"].settings, {"temperature": temperature, "alpha": alpha}
    if name == "kd":
        if texts:
            raise ValueError(f"kd is set by --temperature and --alpha. Got --set {' '.join(texts)} instead.")
        return dict(given)
    settings = settings_of(name, parse_method_settings(texts))
    if given != defaults:
        raise ValueError(
            f"--temperature and --alpha are settings of kd, and the method is {name}. It takes --set with "
            f"{', '.join(format_method_settings(settings))}."
        )
    return settings


def format_method_settings(settings: Mapping[str, Setting]) -> list[str]:
    """Each as ``--set`` takes it."""
    return [
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items()
    ]
