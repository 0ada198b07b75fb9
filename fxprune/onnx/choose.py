"""Which positions of an ONNX model stay: ranked, and filled up to a target."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from fxprune.clocks import ONNX_RUNTIME, Clock, Timed
from fxprune.criteria import Method
from fxprune.errors import InputError, NothingToPruneError
from fxprune.filling import Filling, PointArrayCost, kept_first
from fxprune.layout import layout_of
from fxprune.onnx.backend.fold import fold_program
from fxprune.onnx.criteria import onnx_importance
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.onnx.frontend.session import Feeds
from fxprune.onnx.latency import batch_of, clocked, feeds_of, timed_run
from fxprune.passes.analyse import Analysis
from fxprune.passes.cost import modules_of
from fxprune.passes.fold import FoldPlan, KeepSet, plan_fold
from fxprune.targets import LATENCY, Limits, times_in
from fxprune.time_search import reaching
from fxprune.timing import Run

Kept = dict[str, tuple[bool, ...]]


def choose(
    program: OnnxProgram,
    analysis: Analysis,
    limits: Limits,
    method: Method,
    data: Sequence[Feeds] | None = None,
    seed: int = 0,
    clock: Clock | None = None,
) -> tuple[Kept, Timed | None]:
    """The keep-set that meets a target, best positions first, and what was measured for that.

    Where there is a `clock`, models that have shares of the MACs are measured, and corrected.

    Raises:
        NothingToPruneError: everything is pinned; TargetError: the target is not reached.
        InputError: the method does not fit.
    """
    check_prunable(analysis)
    layout = layout_of(analysis)
    rank = onnx_importance(program, analysis, layout, method, data, seed)
    if clock is None:
        return filled(analysis, limits, rank), None
    others = {name: value for name, value in limits.target.items() if name not in LATENCY}  # type: ignore[union-attr]
    most = min(1.0, float(others.get("macs", 1.0)))
    macs, full = analysis.costs.polynomials["macs"], analysis.costs.full
    feeds = feeds_of(program.model, analysis.graph, clock.batch)

    def keep_at(at: float, multiple: int, base: Kept | None) -> Kept:
        target = {**others, "macs": min(at, most)}
        units = limits.round_to * multiple
        first = rank if base is None else kept_first(rank, np.concatenate(list(base.values())))
        return filled(analysis, replace(limits, target=target, round_to=units), first)

    def macs_of(keep: Kept) -> float:
        sizes = {name: sum(flags) for name, flags in keep.items()}
        return float(macs({**full, **sizes}) / macs(full))

    def run_of(keep: Kept | None) -> AbstractContextManager[Run]:
        small = program.model if keep is None else fold_program(program, plan_of(analysis, keep))
        return timed_run(small, feeds, clock.threads)

    with clocked(clock) as provider:
        found, search = reaching(times_in(limits.target), keep_at, macs_of, run_of)
    assert found.keep is not None
    by = replace(clock, runtime=ONNX_RUNTIME, batch=batch_of(feeds, clock.batch))
    return found.keep, search.timed(found, by, provider)


def plan_of(analysis: Analysis, keep: KeepSet) -> FoldPlan:
    """What folding under a keep-set does."""
    return plan_fold(analysis.graph, analysis.types, analysis.groups, analysis.branches, keep)


def bounds_on(analysis: Analysis, limits: Limits) -> dict[str, float]:
    """The limits in absolute numbers, by "macs", "macs of layer1", ...

    Raises:
        TargetError: an unknown module, or a number that is out of range for this model.
        InputError: latency is limited, which no polynomial gives.
    """
    return limits.on(analysis, modules_of(analysis.graph), _not_by_module)[1]


def filled(analysis: Analysis, limits: Limits, rank: np.ndarray) -> Kept:
    """The best positions that fit in a target on costs that are known exactly."""
    modules = modules_of(analysis.graph)
    costs, bounds = limits.on(analysis, modules, _not_by_module)
    least = limits.least_positions(analysis, modules)
    layout = layout_of(analysis)
    index = {name: i for i, name in enumerate(layout.names)}
    arrays = {
        name: PointArrayCost(costs.polynomials[name].points, index)  # type: ignore[attr-defined]
        for name in bounds
    }
    filling = Filling(arrays, layout, limits.round_to, least)
    filling.check_reachable(costs, bounds)
    flags = np.split(filling.choose(rank, bounds), np.cumsum(layout.sizes)[:-1])
    return {n: tuple(own.tolist()) for n, own in zip(layout.names, flags, strict=True)}


def check_prunable(analysis: Analysis) -> None:
    if analysis.free_groups or analysis.branches:
        return
    reasons = list(dict.fromkeys(group.pin for group in analysis.groups))[:10]
    raise NothingToPruneError("nothing can be pruned: " + ("; ".join(reasons) or "no weights"))


def _not_by_module(path: str) -> Any:
    raise InputError("ONNX files have no latency by module: give latency for the whole model")
