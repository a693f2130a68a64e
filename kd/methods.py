"""Every method by its name: one literal table, from which the command line, the tests and the docs follow.

Importable in a moment, without torch: a factory is a dotted name, resolved when a method is to be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

Setting = float | int | str


class Method(NamedTuple):
    """What is to be known of a method before it is used.

    Attributes:
        factory: ``module:function`` of ``make(student, teacher, example_batch, **settings) -> Objective``. It builds
            whatever parameters the method has, from the two models and the shapes of one batch.
        needs: of ``labels``; ``logits`` (the teacher's, from its cache, third in the batch); ``teacher`` (the live
            model, for its features); ``ids`` (of samples, after input, label and logits if there are any).
        settings: the factory's keyword arguments, with the authors' defaults.
        paper: authors, year and arXiv number.
        reference: a public implementation to hold against ours, and its licence.
    """

    factory: str
    needs: tuple[str, ...]
    settings: Mapping[str, Setting]
    paper: str
    reference: str


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "kd": Method(
            factory="kd.response_methods:kd",
            needs=("labels", "logits"),
            settings={"temperature": 5.0, "alpha": 0.5},
            paper="Hinton, Vinyals, Dean 2015, arXiv:1503.02531",
            reference="RepDistiller distiller_zoo/KD.py (BSD-2-Clause)",
        ),
    }
)
