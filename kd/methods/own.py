"""Methods of the user's own, by ``FILE.py:NAME``: a loss of logits, an objective, or a factory of objectives.

The names of the function's required parameters tell which of the three it is; see docs/add_a_method.md. Parameters with
a default are settings of the method. Does not import torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kd.checks import require
from kd.imports import digest_source, load_plugin
from kd.methods.table import Method, Setting

if TYPE_CHECKING:
    from torch import nn

    from kd.types import Batch, Objective

Function = Callable[..., Any]

LOSS = {"student_logits", "teacher_logits", "labels"}  # labels may be omitted
OBJECTIVE = {"model", "batch"}
FACTORY = {"student", "teacher", "batch"}
INPUTS = ("labels", "logits", "teacher", "ids")  # what a function may name in its attribute ``needs``
ALPHA = 0.5  # default weight of the labels beside a loss, as for kd

_FORMS = (
    "def NAME(student_logits, teacher_logits, labels) -> loss, def NAME(model, batch) -> (output, terms) or "
    "def NAME(student, teacher, batch) -> objective, each with any settings as further parameters with a default"
)


class OwnMethod(NamedTuple):
    """A method from a user's file.

    Attributes:
        method: its entry, as in the table of methods.
        function: the function itself.
        inputs: names of its required parameters.
        source: SHA-256 of its file and of the modules beside it that it imports.
    """

    method: Method
    function: Function
    inputs: frozenset[str]
    source: str


_pinned: ContextVar[dict[str, OwnMethod] | None] = ContextVar("pinned methods", default=None)


def load_method(spec: str) -> OwnMethod:
    """Load the method ``FILE.py:NAME``; the file runs once, and again only after it has changed.

    Inside ``pin_methods``, a file that changes is not read again.

    Raises:
        ValueError, OSError: see ``kd.imports.load_plugin``; or the object is not one of the three kinds of function.
    """
    pinned = _pinned.get()
    if pinned is None:
        return _load(spec, digest_source(spec))
    if spec not in pinned:
        pinned[spec] = _load(spec, digest_source(spec))
    return pinned[spec]


@contextmanager
def pin_methods() -> Iterator[None]:
    """Keep each method as it was when first used inside the block, so that a command trains and records one version."""
    token = _pinned.set({})
    try:
        yield
    finally:
        _pinned.reset(token)


@lru_cache(maxsize=16)
def _load(spec: str, source: str) -> OwnMethod:
    function = load_plugin(spec)
    inputs, settings = _read_parameters(spec, function)
    if inputs in (OBJECTIVE, FACTORY):
        needs = getattr(function, "needs", ("labels", "logits" if inputs == OBJECTIVE else "teacher"))
        valid = isinstance(needs, tuple) and set(needs) <= set(INPUTS) and not {"logits", "teacher"} <= set(needs)
        allowed = f"a tuple of {', '.join(INPUTS)}, without both logits and teacher"
        require(valid, f"the attribute needs of {spec}", needs, allowed)
        unlabelled = "labels" not in needs
    else:
        stated, advice = getattr(function, "needs", None), "the parameters of a loss of logits tell its needs"
        require(stated is None, f"the attribute needs of {spec}", stated, "omitted", advice)
        needs, unlabelled = ("labels", "logits"), "labels" not in inputs
        settings = {"alpha": ALPHA, **settings}
    method = Method(spec, needs, settings, paper="", reference=spec, unlabelled=unlabelled)
    return OwnMethod(method, function, inputs, source)


def _read_parameters(spec: str, function: Any) -> tuple[frozenset[str], dict[str, Setting]]:
    """Return the names of the required parameters, and the settings with their defaults."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec} must be a function. Got a {type(function).__name__} instead.") from error
    named = all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    inputs = frozenset(p.name for p in parameters if p.default is p.empty)
    is_loss = LOSS - {"labels"} <= inputs <= LOSS
    if not named or not (is_loss or inputs in (OBJECTIVE, FACTORY)):
        given = ", ".join(map(str, parameters)) or "no parameters"
        raise ValueError(f"{spec} must be one of {_FORMS}. Got ({given}) instead. Rename its parameters.")
    settings = {p.name: p.default for p in parameters if p.name not in inputs}
    for name, default in settings.items():
        require(
            type(default) in (int, float, str) and not (isinstance(default, float) and not math.isfinite(default)),
            f"the default of {name} in {spec}",
            default,
            "a finite number or a text",
            "it is a setting for --set",
        )
    require(
        not (is_loss and "alpha" in settings),
        f"the parameter alpha of {spec}",
        settings.get("alpha"),
        "named otherwise",
        "alpha is the weight of the labels, which is added to every loss",
    )
    return inputs, settings


def make_own(
    own: OwnMethod, student: nn.Module, teacher: nn.Module, batch: Batch, settings: Mapping[str, Setting]
) -> Objective:
    """Build the objective of a user's method; see ``kd.methods.make``."""
    from kd.methods.own_objective import OwnObjective, bind_settings, require_no_models, weigh_loss  # imports torch
    from kd.seeding import seeded

    path, _, function = own.method.reference.rpartition(":")
    name = f"{Path(path).name}:{function}"  # without the folder, which is no part of a training's key
    if own.inputs == FACTORY:
        with seeded(0):  # so that its parameters, part of a training's key, are the same in every process
            objective = own.function(student=student, teacher=teacher, batch=batch, **settings)
        require(callable(objective), f"the result of {name}", objective, "an objective: a function of (model, batch)")
        require_no_models(objective, {"student": student, "teacher": teacher}, name=name)
        teacher.eval()
    elif own.inputs == OBJECTIVE:
        objective = bind_settings(own.function, settings)
    else:
        objective = weigh_loss(own.function, own.inputs, settings, name=name)
    return OwnObjective(objective, name=name, source=own.source).to(batch[0].device)


@contextmanager
def explain_failure(spec: str) -> Iterator[None]:
    """Turn any error of a user's method inside the block into a ``ValueError`` that names the method."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # user code can raise anything
        reason = str(error).split("\n", 1)[0].removesuffix(".")
        raise ValueError(f"{spec} fails on a batch ({type(error).__name__}: {reason}). Correct it.") from error
