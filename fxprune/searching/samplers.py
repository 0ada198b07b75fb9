"""Which point is tried next? Samplers of optuna, and lists of points that are known beforehand.

A sampler is made anew for every trial, from the seed and the index of the trial among those that
have not failed, so that it depends on nothing but these and the trials that are done: a search that
was killed and goes on tries what it would have tried.
"""

import copy
import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from fxprune.arguments import choice, refusal
from fxprune.errors import InputError
from fxprune.searching.found import Objective
from fxprune.searching.spaces import Dimension, Picks, picks_at, size_of

SamplerOf = Callable[[int], BaseSampler]
"""From a seed to a sampler of optuna."""

_POPULATION = 20
"""Of NSGA-II: small, since searches have some hundred trials."""
MOST_POINTS = 100_000
_SHORT = 8
"""Ranges of more values are drawn from as if they were continuous: a Gaussian process is slow on
long lists."""

_SAMPLERS: Mapping[str, SamplerOf] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
}
SAMPLERS = (*_SAMPLERS, "qmc", "exhaustive")
"""The names of samplers."""

_ONE_SCORE = ("cmaes",)
_NUMBERED = ("cmaes",)
"""What adds the number of a trial to its seed."""


def distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """What optuna draws: of a long ascending range a share, of a short one a pick, of others one of
    several picks."""
    return {each.name: _distribution(each) for each in dimensions if each.last}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not dimension.ordered:
        return CategoricalDistribution(range(len(dimension.values)))
    if dimension.last < _SHORT:
        return IntDistribution(0, dimension.last)
    return FloatDistribution(0.0, 1.0)


def picks_of(dimensions: Sequence[Dimension], drawn: Mapping[str, Any]) -> Picks:
    """The point that was drawn."""
    return tuple(
        min(int(value * len(each.values)), each.last) if isinstance(value, float) else int(value)
        for each in dimensions
        for value in [drawn.get(each.name, 0)]
    )


class OneTrial(BaseSampler):
    """The sampler of one trial: what `make` makes for its index."""

    def __init__(self, make: Callable[[int], BaseSampler], *, renumber: bool = False) -> None:
        """With `renumber` the sampler is told of the trial as if none had failed before it."""
        self._make, self._renumber = make, renumber
        self._index = 0
        self._sampler: BaseSampler

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler."""
        self._index = index_of(study, trial.number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._sampler = self._make(self._index)
        self._sampler.before_trial(study, self._told(trial))

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self._sampler.infer_relative_search_space(study, self._told(trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does."""
        return self._sampler.sample_relative(study, self._told(trial), search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the sampler does."""
        trial = self._told(trial)
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the sampler does; it hears nothing of trials that fail."""
        if state == TrialState.COMPLETE:
            self._sampler.after_trial(study, self._told(trial), state, values)

    def _told(self, trial: FrozenTrial) -> FrozenTrial:
        if not self._renumber:
            return trial
        twin = copy.copy(trial)
        twin.number = self._index
        return twin


class Listed(BaseSampler):
    """Points that are known beforehand."""

    def __init__(self, dimensions: Sequence[Dimension], picks: Picks) -> None:
        """`picks` is the point of the trial that is asked for."""
        self._space = distributions(dimensions)
        self._drawn = {
            each.name: (pick + 0.5) / len(each.values)
            if isinstance(self._space.get(each.name), FloatDistribution)
            else pick
            for each, pick in zip(dimensions, picks, strict=True)
        }

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All dimensions."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point."""
        return {name: self._drawn[name] for name in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The same for one dimension."""
        return self._drawn[param_name]


def check_sampler(sampler: Any, objectives: Sequence[Objective]) -> str:
    """The name of a sampler, or of a function that makes one.

    Raises:
        InputError: it is neither, or cannot search for so many scores.
    """
    if callable(sampler) and not isinstance(sampler, type):
        return getattr(sampler, "__qualname__", type(sampler).__name__)
    if not isinstance(sampler, str):
        known = f"one of {', '.join(SAMPLERS)}, or a function from a seed to a sampler of optuna"
        raise refusal("sampler", sampler, known)
    choice("sampler", sampler, SAMPLERS)
    if sampler in _ONE_SCORE and len(objectives) > 1:
        raise InputError(f'sampler="{sampler}" searches for one score: "nsga2" and "tpe" for more')
    return sampler


def sampler_for(sampler: str | SamplerOf, dimensions: Sequence[Dimension], seed: int) -> OneTrial:
    """The sampler of the next trial."""
    if sampler == "qmc":
        return OneTrial(lambda index: Listed(dimensions, _sobol(dimensions, seed, index)))
    if sampler == "exhaustive":
        return OneTrial(lambda index: Listed(dimensions, picks_at(dimensions, index)))
    make = _SAMPLERS[sampler] if isinstance(sampler, str) else sampler

    def made(index: int) -> BaseSampler:
        found = make(mixed(seed, index))
        if not isinstance(found, BaseSampler):
            raise refusal("sampler", found, "a function that makes a sampler of optuna")
        return found

    return OneTrial(made, renumber=sampler in _NUMBERED)


def mixed(seed: int, index: int) -> int:
    """A seed of 31 bits for one trial: neighbours have nothing in common."""
    digest = hashlib.sha256(f"{seed} {index}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def index_of(study: Study, number: int) -> int:
    """The place of a trial among those that have not failed."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return number - sum(trial.number < number for trial in trials)


def check_exhaustive(dimensions: Sequence[Dimension]) -> int:
    """How many points there are to be looked at.

    Raises:
        InputError: too many.
    """
    number = size_of(dimensions)
    if number > MOST_POINTS:
        raise InputError(
            f'sampler="exhaustive" would look at {number:,} points, more than {MOST_POINTS:,}: '
            "take another sampler, or fewer values (a larger round_to, coarser ranges)"
        )
    return number


def _sobol(dimensions: Sequence[Dimension], seed: int, index: int) -> Picks:
    """The point `index` of a scrambled Sobol sequence (Owen 1998)."""
    engine = qmc.Sobol(len(dimensions), scramble=True, rng=seed)
    if index:
        engine.fast_forward(index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one point alone is not balanced
        (point,) = engine.random(1)
    pairs = zip(point, dimensions, strict=True)
    return tuple(min(int(share * len(each.values)), each.last) for share, each in pairs)
