"""Settings shared by the commands that train many pairs of control and distilled student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from kd.checks import MANY, Range, at_least, or_none
from kd.commands.settings import RunSettings

if TYPE_CHECKING:
    from kd.evaluation.quantities import Quantity  # imports torch, which --help must not

PILOT_SEEDS = 3  # of each strength of label smoothing, if errors do not decide
MARGIN = Range(lambda x: 0 < x <= 100, "above 0 and at most 100 percentage points", "0.1 is 10 of 10,000 images")


@dataclass(frozen=True, kw_only=True)
class PairedSettings(RunSettings):
    """Settings shared by the commands that train many pairs of control and distilled student."""

    margin: Annotated[float, MARGIN] = 0.1
    """equivalence margin in percentage points of the test images, in (0, 100]; smaller differences do not matter"""
    processes: Annotated[int | None, or_none(at_least(1, largest=MANY))] = None
    """students trained in parallel, each on one thread, at least 1; None trains one per core"""


def count_pilots(quantity: Quantity) -> int:
    """Return the number of pilot students for each strength of label smoothing.

    A dozen validation items of a rare class tell little about one student. Errors are counted on all validation items,
    and one pilot is enough.
    """
    return 1 if quantity.key == "errors" else PILOT_SEEDS
