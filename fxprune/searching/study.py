"""Trials, one after the other: asked for, made affordable, scored, and kept.

What is done is kept in a storage of optuna: in memory, in a file, or in a database that several
processes and machines share. A trial that was cut off by a kill counts as failed, and is asked for
again.
"""

import contextlib
import json
import os
import platform
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from fxprune.arguments import refusal, shown
from fxprune.errors import InputError, SearchError
from fxprune.files import path_of
from fxprune.searching.found import Found, Objective, Trial
from fxprune.searching.samplers import (
    SamplerOf,
    check_exhaustive,
    check_sampler,
    distributions,
    index_of,
    picks_of,
    sampler_for,
)
from fxprune.searching.scores import check_score
from fxprune.searching.spaces import Picks, Point, Space
from fxprune.stages import track

Evaluate = Callable[[Point], Mapping[str, float]]
"""From a point to its scores by name."""

_PICKS, _IDENTITY, _OWNER = "picks", "fxprune", "process"
_PROCESS = f"{platform.node()} {os.getpid()} {uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a search goes: what is searched for, how, how long, and where trials are kept."""

    objectives: tuple[Objective, ...]
    trials: int
    sampler: str | SamplerOf
    seed: int
    storage: str | Path | BaseStorage | None = None


def run(space: Space, evaluate: Evaluate, plan: Plan) -> Found:
    """Go on until as many trials are done as planned.

    Raises:
        InputError: the storage holds another search.
        SearchError: a score fails.
    """
    trials = plan.trials
    name = check_sampler(plan.sampler, plan.objectives)
    if name == "exhaustive":
        trials = check_exhaustive(space.dimensions)
    with _quiet():
        study = _study(plan, _identity(space, plan, name))
        _fail_stale(study)
        search = _Search(study, space, evaluate, plan)
        for _ in track(range(len(search.found()), trials), "searching"):
            if not search.step(trials):
                break
    return search.found()


class _Search:
    """A study, and what its trials are."""

    def __init__(self, study: Any, space: Space, evaluate: Evaluate, plan: Plan) -> None:
        self._study, self._space, self._evaluate, self._plan = study, space, evaluate, plan
        self._space_of_optuna = distributions(space.dimensions)
        self._known: dict[Picks, tuple[float, ...]] = {}
        self._seen: set[int] = set()

    def step(self, most: int) -> bool:
        """One trial more; False if others have begun as many as are wanted."""
        self._study.sampler = sampler_for(
            self._plan.sampler, self._space.dimensions, self._plan.seed
        )
        self._study.enqueue_trial({}, user_attrs={_OWNER: _PROCESS})  # from its beginning
        trial = self._study.ask(self._space_of_optuna)
        trial.set_user_attr(_OWNER, _PROCESS)
        try:
            if index_of(self._study, trial.number) >= most:
                self._study.tell(trial, state=TrialState.FAIL)
                return False
            picks = self._space.repaired(picks_of(self._space.dimensions, trial.params))
            values = self._values(picks)
        except BaseException:
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr(_PICKS, list(picks))
        self._study.tell(trial, list(values))
        return True

    def _values(self, picks: Picks) -> tuple[float, ...]:
        """The scores of a point; of one that was looked at already, those that it has."""
        self._look_up()
        if picks not in self._known:
            point = self._space.point(picks)
            scores = self._scores(point)
            self._known[picks] = tuple(scores[each.name] for each in self._plan.objectives)
        return self._known[picks]

    def _look_up(self) -> None:
        for trial in self._done():
            if trial.number not in self._seen:
                self._seen.add(trial.number)
                self._known[_picks_of(trial)] = tuple(trial.values)

    def _scores(self, point: Point) -> Mapping[str, float]:
        try:
            return {name: check_score(name, v) for name, v in self._evaluate(point).items()}
        except Exception as error:
            found = self.found()
            reason = " ".join(str(error).split()) or type(error).__name__
            kept = f"{len(found)} finished trials are kept, as `found` of this error"
            if self._plan.storage is not None:
                kept += ", and the search goes on from them if it is called again"
            raise SearchError(
                f"no score for {shown(dict(point.config))}: {reason}; {kept}", found
            ) from error

    def found(self) -> Found:
        """What is done."""
        trials = []
        for number, trial in enumerate(self._done()):
            point = self._space.point(_picks_of(trial))
            names = (each.name for each in self._plan.objectives)
            scores = dict(zip(names, trial.values, strict=True))
            trials.append(Trial(number, point.config, scores, point.costs, point.keep_set))
        return Found(self._plan.objectives, tuple(trials))

    def _done(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE,)
        )
        return trials


def _picks_of(trial: FrozenTrial) -> Picks:
    return tuple(trial.user_attrs[_PICKS])


def _study(plan: Plan, identity: dict[str, Any]) -> Any:
    """The study in the storage; a new one if there is none.

    Raises:
        InputError: there is one of another search, or no storage can be there.
    """
    storage = _storage(plan.storage)
    directions: Any = ["maximize" if o.maximise else "minimize" for o in plan.objectives]
    try:
        study = optuna.create_study(
            storage=storage, study_name="fxprune", directions=directions, load_if_exists=True
        )
    except Exception as error:  # whatever the file or the database is
        raise InputError(
            f"storage: {shown(plan.storage)} holds no search, or another score: {error}"
        ) from error
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, identity)
    elif known != identity:
        other = [name for name in identity if known.get(name) != identity[name]]
        raise InputError(
            f"storage: {shown(plan.storage)} holds a search with another {' and '.join(other)}: "
            "give another storage, or what it was begun with"
        )
    return study


def _storage(place: Any) -> Any:
    if place is None or isinstance(place, BaseStorage):
        return place
    if isinstance(place, str) and "://" in place:
        try:
            return optuna.storages.get_storage(place)
        except Exception as error:
            raise refusal("storage", place, f"a database that is there ({error})") from error
    path = path_of("storage", place)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"storage: cannot write {path}: name a file in a folder that is there")
    _check_journal(path)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"storage: {path} holds no search: {error}") from error


def _check_journal(path: Path) -> None:
    """Raise InputError if a file is there that is something else: trials would be added to it."""
    if not path.exists():
        return
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    if first and not (first.startswith(b"{") and b'"op_code"' in first):
        raise InputError(f"storage: {path} holds no search: name another file")


def _identity(space: Space, plan: Plan, sampler: str) -> dict[str, Any]:
    """What must be the same when a search goes on, as JSON knows it."""
    facts = {
        "sampler": sampler,
        "seed": plan.seed,
        "score": [[each.name, each.maximise] for each in plan.objectives],
        "space": [[each.name, list(map(repr, each.values))] for each in space.dimensions],
        "target": dict(space.limits),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def _fail_stale(study: Any) -> None:
    """Let trials fail whose process is gone: they were cut off."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(_OWNER)
        if owner is not None and _is_gone(owner):
            study.tell(trial.number, state=TrialState.FAIL)


def _is_gone(process: str) -> bool:
    """Whether a process of this machine is not there any more; nobody knows of others."""
    host, number, _ = process.rsplit(" ", 2)
    if host != platform.node() or process == _PROCESS:
        return False
    if int(number) == os.getpid():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that optuna prints."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
