"""The smallest model that keeps a score: targets between none and all, each measured."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fxprune.arguments import number
from fxprune.errors import InputError, TargetError
from fxprune.layout import Layout
from fxprune.passes.cost import COSTS
from fxprune.searching.scores import Score, measured
from fxprune.searching.spaces import Point
from fxprune.stages import stage
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.candidates import Pruned
from fxprune.torch.keep_sets import ranked, set_keep_set
from fxprune.torch.objectives import scores_of
from fxprune.torch.record import gated_record
from fxprune.torch.refit import refit

_log = logging.getLogger("fxprune")
_STEPS = 64
"""How finely the way from the whole model to the target is divided: seven measurements or so."""


def guarded_score(score: Any, gated: nn.Module, data: Iterable[Any] | None) -> Score:
    """The one score that is kept.

    Raises:
        InputError: it is none, or several.
    """
    scores = scores_of(score, COSTS, data, gated)
    if len(scores) > 1:
        raise InputError("score: prune keeps one score: give it alone")
    return scores[0]


def reach_score(
    gated: nn.Module,
    importance: Mapping[str, Any],
    score: Score,
    least: float,
    correct: Iterable[Any] | None,
) -> float:
    """Close what can be closed so that a score stays, at most until the target is met.

    Bisection between everything open and the target: at every step the lowest-ranked positions
    close, on `correct` the weights of a copy are solved anew, and its score is measured. The score
    is taken to fall as more closes; what is returned has been measured in any case.

    Args:
        gated: what `prepare` returned; its keep-set is changed.
        importance: how positions are ranked.
        score: what is to stay.
        least: the worst that it may be.
        correct: batches to refit on, if that is wanted.

    Returns:
        How much of the way to the target was gone, from 0 to 1.

    Raises:
        TargetError: the model itself has a worse score.
    """
    gates, record = gated_record(gated)
    rank = torch.from_numpy(ranked(gated, importance))
    sign, budget = score.objective.sign(), gates.method.budget

    def keep_at(step: int) -> dict[str, tuple[bool, ...]]:
        flags = (
            budget.choose(rank, budget.relative(step / _STEPS)) if step else torch.ones(len(rank))
        )
        return _by_name(gates.layout, flags)

    def point_at(keep: dict[str, tuple[bool, ...]]) -> Point:
        sizes = {name: sum(flags) for name, flags in keep.items()}
        costs = record.analysis.costs
        return Point(sizes, costs.at({**costs.full, **sizes}), keep)

    def holds(step: int) -> bool:
        keep = keep_at(step)
        value = measured(score, Pruned(point_at(keep), _corrected(gated, keep, correct)))
        _log.info("%.3f of the way to the target: %s %g", step / _STEPS, score.name, value)
        stage(f"{score.name} {value:.4g} at {step / _STEPS:.0%} of the way")
        best.setdefault(step, value)
        return sign * value >= sign * least

    best: dict[int, float] = {}
    low, high = 0, _STEPS
    if holds(high):
        low = high
    elif not holds(low):
        raise TargetError(
            f"least_score is {least:g}, but with everything open {score.name} is {best[0]:g}: ask "
            "for what the model can do"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    set_keep_set(gated, keep_at(low))
    return low / _STEPS


def _corrected(
    gated: nn.Module, keep: Mapping[str, tuple[bool, ...]], data: Iterable[Any] | None
) -> nn.Module:
    copy = copy_module(gated)
    set_keep_set(copy, keep)
    if data is not None and not all(map(all, keep.values())):
        refit(copy, data)
    return copy


def _by_name(layout: Layout, flags: torch.Tensor) -> dict[str, tuple[bool, ...]]:
    parts = torch.split(flags.bool(), list(layout.sizes))
    return {name: tuple(part.tolist()) for name, part in zip(layout.names, parts, strict=True)}


def check_least_score(least: Any, score: Any) -> float | None:
    """The worst score that may remain, None if none was asked for.

    Raises:
        InputError: it is no number, or only one of the two was given.
    """
    if (least is None) != (score is None):
        raise InputError(
            "least_score and score go together: give for instance "
            "score=fxprune.scores.accuracy(loader), least_score=0.9"
        )
    if least is None:
        return None
    return number(
        "least_score", least, lambda x: abs(x) < float("inf"), "the worst score to accept"
    )
