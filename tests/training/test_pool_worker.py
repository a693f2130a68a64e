"""An error in a worker process reaches its parent, whatever the error holds."""

from __future__ import annotations

import threading

import cloudpickle
import pytest

from kd.training.pool_worker import _pickle_error


class TwoArgumentsError(Exception):
    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")


def with_a_lock() -> Exception:
    error = ValueError("layer 3")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ValueError("layer 3"), ValueError, "layer 3"),
        (FloatingPointError("layer 3"), FloatingPointError, "layer 3"),
        (TwoArgumentsError("layer", 3), RuntimeError, "TwoArgumentsError: layer 3"),
        (with_a_lock(), RuntimeError, "ValueError: layer 3"),
    ],
)
def test_the_parent_gets_the_real_error(raised: Exception, kind: type[Exception], message: str) -> None:
    try:
        raise raised
    except Exception as error:
        received, result = cloudpickle.loads(_pickle_error(error))
    assert (type(received), str(received), result) == (kind, message, None)
    assert "test_the_parent_gets_the_real_error" in received.__notes__[0]
