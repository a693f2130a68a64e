"""Search with Optuna's TPE sampler in rounds of a few points, saved in an SQLite study.

The proposals of a round depend only on the seed, the round's number and the results of earlier rounds. The study holds
finished trials only, so a search killed at any time resumes with the same proposals.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from kd.commands.sweep.points import Point, Score, TriedPoint, documented_point, make_method_point, make_point
from kd.commands.sweep.settings import GRID, SweepSettings, Value, is_range
from kd.seeding import epoch_seed
from kd.storage.fingerprint import digest

# Trials proposed at once: enough to keep several processes busy, few enough to learn from results. Independent of the
# number of cores, so that every machine proposes the same points.
ROUND = 4

_DIGITS = 3  # significant digits of a proposed number; validation errors do not resolve finer differences

# User attributes of a trial: a list with a value per seed. The last one only if the balanced error decides.
_ERRORS, _ENTROPY, _BALANCED = "validation_errors", "cross_entropy", "balanced_error"
_OF_METHOD = "method "
_DIGEST = "digest"  # user attribute of a trial: of its parameters and scores

Params = dict[str, Value]  # names of the method's settings start with _OF_METHOD, as students may have the same names
Space = dict[str, BaseDistribution]


class Trial(NamedTuple):
    """Proposed parameters and the point they give, with its scores."""

    params: Params
    tried: TriedPoint


def search(
    settings: SweepSettings,
    file: Path,
    key: str,
    attempt: Callable[[Sequence[Point]], Mapping[Point, TriedPoint]],
    *,
    worst: int,
) -> list[TriedPoint]:
    """Propose and try points until there are ``settings.trials``; trials saved in the file are not repeated.

    The documented point comes first if it lies within the ranges.

    Args:
        file: the SQLite database, created if missing.
        key: hash of all inputs except the points; each key has its own study in the file.
        attempt: trains and scores the students of some points.
        worst: value of what decides, reported to the sampler for a point whose loss is not finite.

    Raises:
        OSError: the file is not a usable database.
        ValueError: a saved trial was changed.
    """
    assert settings.trials is not None
    space, reference = _make_space(settings), _to_params(documented_point(settings))
    with _open_study(file, f"kd sweep {key}") as study:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        # Trials without these attributes come from another program.
        trials = [_from_frozen_trial(trial, file) for trial in finished if _DIGEST in trial.user_attrs]
        while len(trials) < settings.trials:
            number, done = divmod(len(trials), ROUND)
            earlier = trials[: number * ROUND]
            proposed = _propose_round(
                space, earlier, reference, seed=epoch_seed(settings.seed, number) % 2**32, worst=worst
            )
            new = proposed[done : settings.trials - number * ROUND]
            tried = attempt([_to_point(params) for params in new])
            for params in new:
                trials.append(Trial(params, tried[_to_point(params)]))
                study.add_trial(_to_frozen_trial(trials[-1], space, worst))
    return [trial.tried for trial in trials[: settings.trials]]


def _make_space(settings: SweepSettings) -> Space:
    """Return the search space: listed values for integers and texts, else ranges: linear for alpha and from 0."""
    space: Space = {}
    if settings.method == "kd":
        space["temperature"] = FloatDistribution(min(settings.temperatures), max(settings.temperatures), log=True)
        space["alpha"] = FloatDistribution(min(settings.alphas), max(settings.alphas))
    of_method = {_OF_METHOD + name: values for name, values in settings.varied_of_method.items()}
    for name, values in {**settings.varied, **of_method}.items():
        if is_range(values):
            low, high = (float(bound(value for value in values if value is not None)) for bound in (min, max))
            space[name] = FloatDistribution(low, high, log=low > 0)
        else:
            space[name] = CategoricalDistribution(values)
    return space


def _propose_round(space: Space, earlier: Sequence[Trial], reference: Params, *, seed: int, worst: int) -> list[Params]:
    """Propose the points of one round from the trials of earlier rounds."""
    with _silence_optuna():
        # constant_liar assumes bad results for the unfinished points of the round, so that its points spread out.
        study = optuna.create_study(sampler=TPESampler(seed=seed, multivariate=True, constant_liar=True))
        study.add_trials([_to_frozen_trial(trial, space, worst) for trial in earlier])
        if not earlier and all(name in reference and _is_within(space[name], reference[name]) for name in space):
            study.enqueue_trial(reference)
        return [_round_params(study.ask(space).params, space) for _ in range(ROUND)]


def _is_within(distribution: BaseDistribution, value: Value) -> bool:
    if isinstance(distribution, FloatDistribution):
        return isinstance(value, float) and distribution.low <= value <= distribution.high
    return isinstance(distribution, CategoricalDistribution) and value in distribution.choices


def _round_params(params: Mapping[str, Any], space: Space) -> Params:
    """Round to a few digits, which are easy to read and type, but stay within the range."""
    rounded = dict(params)
    for name, distribution in space.items():
        if isinstance(distribution, FloatDistribution):
            value = float(f"{params[name]:.{_DIGITS}g}")
            rounded[name] = min(max(value, distribution.low), distribution.high)
    return rounded


def _to_point(params: Params) -> Point:
    method = {name.removeprefix(_OF_METHOD): v for name, v in params.items() if name.startswith(_OF_METHOD)}
    others = {name: v for name, v in params.items() if name not in GRID and not name.startswith(_OF_METHOD)}
    if "temperature" not in params:
        return make_method_point(others, method)
    temperature, alpha = (float(params[name] or 0) for name in GRID)
    return make_point(temperature, alpha, others, method)


def _to_params(reference: Point) -> Params:
    grid = {"temperature": reference.temperature, "alpha": reference.alpha}
    of_method = {_OF_METHOD + name: value for name, value in reference.method or ()}
    known = {name: value for name, value in grid.items() if value is not None}
    return {**known, **dict(reference.others), **of_method}


def _to_frozen_trial(trial: Trial, space: Space, worst: int) -> FrozenTrial:
    scores = trial.tried.scores
    attributes: dict[str, Any] = {
        _ERRORS: [score and score.errors for score in scores],
        _ENTROPY: [score and score.cross_entropy for score in scores],
    }
    if any(score and score.balanced_error is not None for score in scores):
        attributes[_BALANCED] = [score and score.balanced_error for score in scores]
    attributes[_DIGEST] = _digest(trial.params, attributes)
    value = trial.tried.mean if trial.tried.finite else float(worst)
    return create_trial(params=trial.params, distributions=space, value=value, user_attrs=attributes)


def _digest(params: Mapping[str, Value], attributes: Mapping[str, Any]) -> str:
    scores = [attributes[name] for name in (_ERRORS, _ENTROPY, _BALANCED) if name in attributes]
    return digest([sorted(params.items()), *scores])


def _from_frozen_trial(trial: FrozenTrial, file: Path) -> Trial:
    """Invert ``_to_frozen_trial``; raise ``ValueError`` if the trial was changed after it was saved."""
    attributes = trial.user_attrs
    has_all = attributes.keys() >= {_ERRORS, _ENTROPY, _DIGEST}
    if not has_all or _digest(trial.params, attributes) != attributes[_DIGEST]:
        raise ValueError(
            f"trial {trial.number} in {file} was changed after it was saved, so that the search would choose other "
            "points. Restore the file from a backup or delete it; trained students are saved elsewhere and reused."
        )
    errors, entropies = attributes[_ERRORS], attributes[_ENTROPY]
    balanced = attributes.get(_BALANCED, [None] * len(errors))
    scores = tuple(None if row[0] is None else Score(*row) for row in zip(errors, entropies, balanced, strict=True))
    return Trial(trial.params, TriedPoint(_to_point(trial.params), scores))


@contextmanager
def _open_study(file: Path, name: str) -> Iterator[optuna.Study]:
    """Open the study of this name in the file; close it at the end of the block."""
    try:
        with _silence_optuna():
            storage = RDBStorage(f"sqlite:///{file}")
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable_error(file, error) from error
    try:
        with _silence_optuna():
            study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        yield study
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable_error(file, error) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _unusable_error(file: Path, error: Exception) -> OSError:
    reason = str(error).split("\n", 1)[0]
    return OSError(
        f"the search database {file} is not usable: {reason.rstrip('. ')}. Restore it from a backup or delete it; "
        "trained students are saved elsewhere and will be reused."
    )


@contextmanager
def _silence_optuna() -> Iterator[None]:
    """Suppress Optuna's log messages and its warning about experimental options."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
