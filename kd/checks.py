"""The one form in which a bad value is refused: what it is, what was given, what is allowed, what to do."""

from __future__ import annotations


def require(condition: bool, name: str, got: object, allowed: str, advice: str = "") -> None:
    """Raise ``ValueError`` unless the condition holds. NaN fails every comparison, so it is refused as well."""
    if not condition:
        hint = f" ({advice})" if advice else ""
        raise ValueError(f"{name} must be {allowed}. Got {got!r} instead{hint}.")
