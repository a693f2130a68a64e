"""Loaded Python code as JSON data: equal for equal code, wherever it was loaded from."""

from __future__ import annotations

import types
from typing import Any


def describe_code(code: types.CodeType) -> list[Any]:
    """Return everything in the code that affects its behaviour, without line numbers and file name."""
    arguments = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    names = [list(code.co_varnames), list(code.co_names), list(code.co_freevars)]
    constants = [_describe_constant(value) for value in code.co_consts]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), arguments, names, constants]


def _describe_constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return describe_code(value)
    if isinstance(value, frozenset):  # iteration order differs between processes
        return sorted(map(repr, value))
    return [_describe_constant(item) for item in value] if isinstance(value, tuple) else repr(value)
