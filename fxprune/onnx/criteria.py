"""How much every position of an ONNX model matters: by weights, or on data."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fxprune import criteria
from fxprune.criteria import DEPTH, ON_FLOW, Method, called, needs_flow, scores_of
from fxprune.flow import Flow
from fxprune.layout import Layout
from fxprune.onnx.compact import expanded
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.onnx.frontend.session import Feeds, session_of
from fxprune.onnx.saliency import saliency
from fxprune.passes.analyse import Analysis
from fxprune.ranking import Part, WeightOf, group_norm, ranks
from fxprune.stages import track

METHODS = ("group_norm", "magnitude", "bn_scale", "random", *ON_FLOW, "saliency", DEPTH)


def onnx_importance(
    program: OnnxProgram,
    analysis: Analysis,
    layout: Layout,
    method: Method = "group_norm",
    data: Iterable[Feeds] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """How much every position matters, in the order of `layout`.

    The criteria are those of `importance`, by the same names, but for "taylor": ONNX Runtime takes
    no gradients. Scores are divided by their mean over the group, so that groups compare.

    Raises:
        InputError: the method is unknown, or has no data.
    """
    check_method(method, data)
    if method == "random":
        return np.random.default_rng(seed).random(layout.total)
    if method == "saliency":
        scores = saliency(program, analysis, list(data or ()))
    else:
        flow = None
        if data is not None and needs_flow(method, data):
            flow = observed(program, analysis, data)
            flow.check(called(method))
        scores = scores_of(analysis, method, weight_of(program), flow)
    by_weights = lambda: group_norm(analysis, weight_of(program))  # noqa: E731
    return ranks(analysis, layout, scores, called(method), by_weights, over=np.mean)


def check_method(method: Any, data: Any) -> None:
    """Raise InputError unless positions can be ranked so."""
    criteria.check_method(method, data, METHODS, "known for ONNX models are")


def weight_of(program: OnnxProgram) -> WeightOf:
    """What gives parts of a parameter of a model."""

    def of(name: str) -> Callable[[Part], np.ndarray]:
        array = expanded(program.model.graph.initializers[program.initializers[name]])
        return lambda part: array[part].astype(np.float64)

    return of


def observed(program: OnnxProgram, analysis: Analysis, data: Iterable[Feeds]) -> Flow:
    """What flows through a model on data."""
    flow = Flow(analysis)
    computed = [str(value.name) for node in program.model.graph for value in node.outputs]
    names = [name for name in computed if name in flow.names]
    with session_of(program.model, names, optimised=True) as session:
        for feeds in track(data, "looking at data"):
            flow.begin()
            results = session.run(feeds, names) if names else []
            for name, array in [*feeds.items(), *zip(names, results, strict=True)]:
                flow.add(name, array)
            flow.end()
    return flow
