"""Points proposed by Optuna's TPE, round after round, and kept in an SQLite study.

What a round proposes is a function of the seed, the round's number and the results of the rounds before it. The study
holds finished trials and nothing else, so a search that was killed at any moment goes on as if it had not been.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from kd.commands.sweep.points import Point, Score, Tried, documented, point
from kd.commands.sweep.settings import STUDENTS_OWN, SweepSettings
from kd.seeding import epoch_seed

# Trials proposed at once: enough to keep several processes busy, few enough to learn from. A constant, and not the
# number of cores, so that every machine proposes the same points.
ROUND = 4

_DIGITS = 3  # significant ones of a proposed number: validation errors show no finer difference

_ERRORS, _ENTROPY = "validation_errors", "cross_entropy"  # of a trial's students, in the order of their seeds

Params = dict[str, float]
Space = dict[str, BaseDistribution]


class Trial(NamedTuple):
    """What was proposed, and how it did."""

    params: Params
    tried: Tried


def search(
    settings: SweepSettings,
    file: Path,
    key: str,
    attempt: Callable[[Sequence[Point]], Mapping[Point, Tried]],
    *,
    worst: int,
) -> list[Tried]:
    """Propose and attempt points until there are ``settings.trials``; those that the file holds are not repeated.

    The documented point comes first if it lies within the ranges.

    Args:
        file: the SQLite database; made if it is not there.
        key: of all that the results depend on besides the point. Studies of other keys stay beside this one's.
        attempt: trains the students of some points.
        worst: how many errors a point counts with whose loss is not finite.

    Raises:
        OSError: the file cannot be used.
    """
    assert settings.trials is not None
    space, reference = _space(settings), _params(documented(settings))
    with _study(file, f"kd sweep {key}") as study:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trials = [_read(trial) for trial in finished if _ERRORS in trial.user_attrs]  # another program's are not ours
        while len(trials) < settings.trials:
            number, known = divmod(len(trials), ROUND)
            told = trials[: number * ROUND]
            proposed = _proposed(space, told, reference, seed=epoch_seed(settings.seed, number) % 2**32, worst=worst)
            new = proposed[known : settings.trials - number * ROUND]
            tried = attempt([_point(params) for params in new])
            for params in new:
                trials.append(Trial(params, tried[_point(params)]))
                study.add_trial(_recorded(trials[-1], space, worst))
    return [trial.tried for trial in trials[: settings.trials]]


def _space(settings: SweepSettings) -> Space:
    """Ranges: logarithmic but for alpha. Of whole numbers, the values themselves."""
    space: Space = {
        "temperature": FloatDistribution(min(settings.temperatures), max(settings.temperatures), log=True),
        "alpha": FloatDistribution(min(settings.alphas), max(settings.alphas)),
    }
    for name, values in settings.varied.items():
        if STUDENTS_OWN[name] is int:
            space[name] = CategoricalDistribution(values)
        else:
            space[name] = FloatDistribution(min(values), max(values), log=True)
    return space


def _proposed(space: Space, told: Sequence[Trial], reference: Params, *, seed: int, worst: int) -> list[Params]:
    """The points of one round, from the trials of all earlier ones alone."""
    with _quiet():
        # Within a round the points keep away from each other, as if each were a bad one until it is known.
        study = optuna.create_study(sampler=TPESampler(seed=seed, multivariate=True, constant_liar=True))
        study.add_trials([_recorded(trial, space, worst) for trial in told])
        if not told and all(_within(space[name], reference.get(name)) for name in space):
            study.enqueue_trial(reference)
        return [_rounded(study.ask(space).params, space) for _ in range(ROUND)]


def _within(distribution: BaseDistribution, value: float | None) -> bool:
    if isinstance(distribution, FloatDistribution):
        return value is not None and distribution.low <= value <= distribution.high
    return isinstance(distribution, CategoricalDistribution) and value in distribution.choices


def _rounded(params: Mapping[str, float], space: Space) -> Params:
    """To few digits, which a person can read and type, without leaving the range."""
    rounded = dict(params)
    for name, distribution in space.items():
        if isinstance(distribution, FloatDistribution):
            value = float(f"{params[name]:.{_DIGITS}g}")
            rounded[name] = min(max(value, distribution.low), distribution.high)
    return rounded


def _point(params: Params) -> Point:
    others = {name: value for name, value in params.items() if name not in {"temperature", "alpha"}}
    return point(params["temperature"], params["alpha"], others)


def _params(reference: Point) -> Params:
    own = {"temperature": reference.temperature, "alpha": reference.alpha, **dict(reference.others)}
    return {name: value for name, value in own.items() if value is not None}


def _recorded(trial: Trial, space: Space, worst: int) -> FrozenTrial:
    scores = trial.tried.scores
    attributes = {
        _ERRORS: [score and score.errors for score in scores],
        _ENTROPY: [score and score.cross_entropy for score in scores],
    }
    value = trial.tried.mean if trial.tried.finite else float(worst)
    return create_trial(params=trial.params, distributions=space, value=value, user_attrs=attributes)


def _read(trial: FrozenTrial) -> Trial:
    """The inverse of ``_recorded``."""
    columns = (trial.user_attrs[_ERRORS], trial.user_attrs[_ENTROPY])
    scores = tuple(None if errors is None else Score(errors, entropy) for errors, entropy in zip(*columns, strict=True))
    return Trial(trial.params, Tried(_point(trial.params), scores))


@contextmanager
def _study(file: Path, name: str) -> Iterator[optuna.Study]:
    """The study of this name in the file, closed at the end of the block."""
    try:
        with _quiet():
            storage = RDBStorage(f"sqlite:///{file}")
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(file, error) from error
    try:
        with _quiet():
            study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        yield study
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(file, error) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _unusable(file: Path, error: Exception) -> OSError:
    reason = str(error).split("\n", 1)[0]
    return OSError(
        f"the search's database {file} cannot be used: {reason} Put a whole one back, or delete it: what students were "
        "trained is kept elsewhere and is taken up again."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's own lines on the screen, and its word that an option may change one day."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
