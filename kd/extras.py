"""Libraries that not everybody needs: imported when they are, and where one is missing, told how to get it."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtraError(ImportError):
    """A library of an extra is not installed; the message says how to install it."""


def extra(module: str, *, library: str, name: str, needed_for: str) -> Any:
    """The module of an optional library.

    Args:
        library: its name, for a person.
        name: of the extra that brings it.
        needed_for: what cannot be done without it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{needed_for} needs {library}, which is not installed: pip install 'paired-distillation[{name}]'."
        ) from error
