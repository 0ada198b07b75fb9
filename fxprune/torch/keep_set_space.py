"""The keep-sets of a gated model as a space, its scores, and the models behind its points."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from torch import nn

from fxprune.filling import Filling
from fxprune.layout import Layout
from fxprune.passes.cost import COSTS, Costs
from fxprune.searching.scores import Candidate, Score
from fxprune.searching.spaces import Point
from fxprune.searching.widths import KeepSets
from fxprune.targets import Limits, Target
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.budget.budget import on_arrays
from fxprune.torch.budget.latency import measure_latency
from fxprune.torch.candidates import Pruned
from fxprune.torch.checks import has_weights
from fxprune.torch.criteria import importance as importance_of
from fxprune.torch.keep_sets import positions_of
from fxprune.torch.objectives import scores_of, some_cost_is_to_be_small
from fxprune.torch.record import gated_record, traced_part

CandidateOf = Callable[[Point], Candidate]
"""What makes the model behind a point."""


def keep_set_space(
    gated: nn.Module,
    score: Any,
    target: Target | None,
    importance: Any,
    data: Any,
    *,
    bounded: bool = True,
    widen: bool = True,
) -> tuple[KeepSets, tuple[Score, ...], CandidateOf]:
    """What `search` and `sensitivity` look at.

    Args:
        gated: what `prepare` returned; it stays as it is, candidates are made of a copy.
        score: one score or several, as `search` takes them.
        target: what may remain; if missing, what the model was prepared with.
        importance: what orders positions, as `importance` returns it; if missing, what the score
            says of them, else norms of weights.
        data: batches for scores that are names.
        bounded: whether there is a target at all.
        widen: whether proposals that cost too little grow, if no cost is to be small.

    Raises:
        InputError: an argument does not fit; TargetError for the target.
    """
    gates, record = gated_record(gated)
    _, part = traced_part(gated)
    layout, budget = gates.layout, gates.method.budget
    scores = scores_of(score, COSTS, data, gated)
    limited, limits = budget.costs, budget.limit if bounded else {}
    if target is not None:
        modules = [path for path, _ in part.named_modules() if path]
        latency = cache(lambda: measure_latency(part, record.analysis, budget.round_to))
        limited, limits = Limits(target).on(
            record.analysis, modules, lambda path: latency().inside(path)
        )
    index = {name: place for place, name in enumerate(layout.names)}
    arrays = {name: on_arrays(limited.polynomials[name], index) for name in limits}
    filling = Filling(arrays, layout, budget.round_to, budget.least)
    filling.check_reachable(limited, limits)
    all_costs = {**record.analysis.costs.polynomials, **limited.polynomials}
    space = KeepSets(
        layout,
        filling,
        Costs(all_costs, record.analysis.costs.full),
        limits,
        _order(gated, layout, importance, scores),
        widen=widen and not some_cost_is_to_be_small(scores, COSTS),
    )
    working = copy_module(gated)
    return space, scores, lambda point: Pruned(point, working)


def _order(
    gated: nn.Module, layout: Layout, importance: Any, scores: Sequence[Score]
) -> np.ndarray:
    """What orders the positions of each group."""
    if importance is not None:
        return positions_of(layout, importance)
    for score in scores:
        if score.effects is not None:
            return positions_of(layout, score.effects)
    if not has_weights(traced_part(gated)[1]):
        return np.zeros(layout.total)
    return positions_of(layout, importance_of(gated))
