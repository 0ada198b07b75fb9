"""How long does an ONNX model take here, in ONNX Runtime? And which share of it fits in a time?"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import onnx_ir

from fxprune.errors import TargetError
from fxprune.ir import Graph
from fxprune.onnx.frontend.session import random_feeds, session_of
from fxprune.stages import track
from fxprune.timing import median_ms

_SECONDS = 1.0
_STEPS = 7
_LEAST_SHARE = 0.02


def latencies_ms(models: Mapping[str, onnx_ir.Model], graph: Graph) -> dict[str, float]:
    """Median milliseconds of one sample, or of the batch that the models insist on.

    The models have the same inputs, take turns, and run with all optimisations.
    """
    first = next(iter(models.values()))
    shapes = {value.name: value.shape for value in graph.inputs}
    for value in first.graph.inputs:
        if value.shape and not isinstance(value.shape[0], int):
            shapes[str(value.name)] = (1, *shapes[str(value.name)][1:])
    feeds = random_feeds(first, shapes)
    names = [str(value.name) for value in first.graph.outputs]
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(session_of(model, optimised=True))
            for name, model in models.items()
        }
        runs = {name: partial(session.run, feeds, names) for name, session in sessions.items()}
        return median_ms(runs, _SECONDS)


def largest_share_within(
    limits: Mapping[str, float],
    full: onnx_ir.Model,
    graph: Graph,
    smaller: Callable[[float], onnx_ir.Model],
) -> float:
    """The largest share of the cost whose measured latency is within limits.

    A share is tried by making the model and running it beside the full one, half of the interval
    at a time; latency is taken to fall with the share, up to noise.

    Args:
        limits: "latency", a share of that of the full model, and "latency_ms", milliseconds.
        full: the model as it is.
        graph: its graph.
        smaller: makes the model of a share; a TargetError says that there is none so small.

    Raises:
        TargetError: no share is fast enough.
    """

    low, high, best = _LEAST_SHARE, 1.0, 0.0
    fastest = float("inf")
    for _ in track(range(_STEPS), "measuring smaller models"):
        middle = (low + high) / 2
        try:
            model = smaller(middle)
        except TargetError:
            low = middle
            continue
        times = latencies_ms({"full": full, "smaller": model}, graph)
        fastest = min(fastest, times["smaller"])
        reached = {"latency": times["smaller"] / times["full"], "latency_ms": times["smaller"]}
        if all(reached[name] <= limit for name, limit in limits.items()):
            low = best = middle
        else:
            high = middle
    if not best:
        raise TargetError(
            f"target of latency is not reached: the fastest model tried takes {fastest:.3g} ms; "
            "ask for more, or pin less"
        )
    return best
