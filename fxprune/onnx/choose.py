"""Which positions of an ONNX model stay: ranked, and filled up to a target."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir

from fxprune.criteria import Method
from fxprune.errors import InputError, NothingToPruneError
from fxprune.filling import Filling, PointArrayCost
from fxprune.layout import layout_of
from fxprune.onnx.backend.fold import fold_program
from fxprune.onnx.criteria import onnx_importance
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.onnx.frontend.session import Feeds
from fxprune.onnx.latency import largest_share_within
from fxprune.passes.analyse import Analysis
from fxprune.passes.cost import modules_of
from fxprune.passes.fold import FoldPlan, KeepSet, plan_fold
from fxprune.targets import LATENCY, Limits, Target


def choose(
    program: OnnxProgram,
    analysis: Analysis,
    limits: Limits,
    method: Method,
    data: Sequence[Feeds] | None = None,
    seed: int = 0,
) -> dict[str, tuple[bool, ...]]:
    """The keep-set that meets a target, best positions first.

    Latency is measured: models of several shares of the MACs are made, and timed beside the full
    one.

    Raises:
        NothingToPruneError: everything is pinned; TargetError: the target is not reached.
        InputError: the method does not fit.
    """
    check_prunable(analysis)
    layout = layout_of(analysis)
    rank = onnx_importance(program, analysis, layout, method, data, seed)
    times, others = _apart(limits.target)

    def within(wanted: Target) -> dict[str, tuple[bool, ...]]:
        return filled(analysis, replace(limits, target=wanted), rank)

    if not times:
        return within(others)
    most = min(1.0, float(others.get("macs", 1.0)))

    def smaller(share: float) -> onnx_ir.Model:
        return fold_program(program, plan_of(analysis, within({**others, "macs": share * most})))

    share = largest_share_within(times, program.model, analysis.graph, smaller)
    return within({**others, "macs": share * most})


def plan_of(analysis: Analysis, keep: KeepSet) -> FoldPlan:
    """What folding under a keep-set does."""
    return plan_fold(analysis.graph, analysis.types, analysis.groups, analysis.branches, keep)


def _apart(target: Target) -> tuple[dict[str, float], Any]:
    """What a target asks of latency, and the rest of it."""
    if not isinstance(target, Mapping):
        return {}, target
    times = {name: value for name, value in target.items() if name in LATENCY}
    others = {name: value for name, value in target.items() if name not in LATENCY}
    return times, others


def bounds_on(analysis: Analysis, limits: Limits) -> dict[str, float]:
    """The limits in absolute numbers, by "macs", "macs of layer1", ...

    Raises:
        TargetError: an unknown module, or a number that is out of range for this model.
        InputError: latency is limited, which no polynomial gives.
    """
    return limits.on(analysis, modules_of(analysis.graph), _not_by_module)[1]


def filled(analysis: Analysis, limits: Limits, rank: np.ndarray) -> dict[str, tuple[bool, ...]]:
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
