"""The scores that a user asks a search for, by name, as functions or as importances."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fxprune.arguments import batches, near, refusal, shown
from fxprune.errors import InputError
from fxprune.layout import Layout
from fxprune.searching.found import Objective
from fxprune.searching.scores import Candidate, Score, loss_of
from fxprune.torch.batches import repeatable
from fxprune.torch.criteria import gate_effects
from fxprune.torch.keep_sets import positions_of
from fxprune.torch.record import gates_of
from fxprune.torch.zero_cost import METHODS, score

TAYLOR = "taylor"
_WANTED = (
    "a function of a model, fxprune.scores.accuracy(loader), importances by group, the name of a "
    "score or of a cost, or a list of these"
)


def scores_of(
    wanted: Any, costs: Sequence[str], data: Iterable[Any] | None, gated: nn.Module | None
) -> tuple[Score, ...]:
    """What was asked for.

    Args:
        wanted: one score or a list of them.
        costs: the names of costs.
        data: batches for scores that are names.
        gated: the model whose keep-sets are searched, None for a builder.

    Raises:
        InputError: something is no score, or lacks data.
    """
    data = None if data is None else repeatable(batches("data", data))
    several = wanted if isinstance(wanted, list | tuple) else [wanted]
    found = tuple(_score_of(each, costs, data, gated) for each in several)
    names = [each.name for each in found]
    if not found or len(set(names)) < len(names):
        raise refusal("score", wanted, f"{_WANTED}, each of another name")
    return found


def _score_of(
    wanted: Any, costs: Sequence[str], data: Iterable[Any] | None, gated: nn.Module | None
) -> Score:
    if isinstance(wanted, Score):
        return wanted
    if isinstance(wanted, str):
        return _named(wanted, costs, data, gated)
    if isinstance(wanted, Mapping):
        return _importances("importance", wanted, gated)
    if not callable(wanted) or isinstance(wanted, type | nn.Module):
        raise refusal("score", wanted, _WANTED)
    return Score(Objective(_name_of(wanted)), _of_model(wanted))


def _name_of(function: Any) -> str:
    name = str(getattr(function, "__name__", type(function).__name__))
    return "score" if name == "<lambda>" else name


def _of_model(function: Callable[[Any], Any]) -> Callable[[Candidate], float]:
    """A function of a model as one of candidates."""

    def of(candidate: Candidate) -> Any:
        value = function(candidate.model())
        return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value

    return of


def _named(
    name: str, costs: Sequence[str], data: Iterable[Any] | None, gated: nn.Module | None
) -> Score:
    cost = name.removeprefix("-")
    if cost in costs:
        return Score(Objective(cost, cost == name), lambda c: c.point.costs[cost])
    if name not in (*METHODS, TAYLOR):
        known = (*costs, *METHODS, TAYLOR)
        raise InputError(
            f"unknown score {shown(name)}; known are {', '.join(known)}{near(name, known)}"
        )
    if name == TAYLOR and gated is None:
        raise InputError('score="taylor" is about the gates of a gated model: a builder has none')
    if data is None:
        raise InputError(f'score="{name}" needs data: batches of (inputs, labels), or a loader')
    if name == TAYLOR:
        assert gated is not None
        effects = gate_effects(gated, data).numpy()
        return _adding_up(name, gates_of(gated).layout, effects)
    return Score(Objective(name), lambda c: score(c.gated() or c.model(), data, name))


def _importances(name: str, values: Mapping[str, Any], gated: nn.Module | None) -> Score:
    if gated is None:
        raise refusal("score", values, "a function of what is built: a builder has no groups")
    layout = gates_of(gated).layout
    return _adding_up(name, layout, positions_of(layout, values, "score"))


def _adding_up(name: str, layout: Layout, effects: np.ndarray) -> Score:
    parts = np.split(effects, np.cumsum(layout.sizes)[:-1])
    by_name = dict(zip(layout.names, parts, strict=True))
    return Score(Objective(name), lambda c: -loss_of(layout, by_name, c.point.keep_set), by_name)


def some_cost_is_to_be_small(scores: Sequence[Score], costs: Sequence[str]) -> bool:
    """Whether larger is worse by some score, so that what fits must not be widened."""
    return any(s.name in costs and not s.objective.maximise for s in scores)
