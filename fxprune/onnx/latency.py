"""How long does an ONNX model take here, in ONNX Runtime?"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import onnx_ir

from fxprune.clocks import ONNX_RUNTIME, Clock
from fxprune.errors import InputError
from fxprune.ir import Graph
from fxprune.onnx.frontend.session import (
    Feeds,
    providers_in_use,
    random_feeds,
    run_by,
    session_of,
)
from fxprune.timing import Run, median_ms

_SECONDS = 1.0


def latencies_ms(models: Mapping[str, onnx_ir.Model], graph: Graph) -> dict[str, float]:
    """Median milliseconds of one sample, or of the batch that the models insist on.

    The models have the same inputs, take turns, and run with all optimisations.
    """
    first = next(iter(models.values()))
    feeds = feeds_of(first, graph, 1)
    with ExitStack() as stack:
        runs = {
            name: stack.enter_context(timed_run(model, feeds)) for name, model in models.items()
        }
        return median_ms(runs, _SECONDS)


def feeds_of(model: onnx_ir.Model, graph: Graph, batch: int) -> Feeds:
    """Random inputs of so many samples, or of the batch that the model insists on."""
    shapes = {value.name: value.shape for value in graph.inputs}
    for value in model.graph.inputs:
        if value.shape and not isinstance(value.shape[0], int):
            shapes[str(value.name)] = (batch, *shapes[str(value.name)][1:])
    return random_feeds(model, shapes)


def batch_of(feeds: Feeds, batch: int) -> int:
    """How many samples these inputs are, where they agree on it."""
    sizes = {len(array) for array in feeds.values() if array.ndim}
    return sizes.pop() if len(sizes) == 1 else batch


@contextmanager
def timed_run(model: onnx_ir.Model, feeds: Feeds, threads: int | None = None) -> Iterator[Run]:
    """A run of a model by the providers in use, with all optimisations."""
    names = [str(value.name) for value in model.graph.outputs]
    with session_of(model, optimised=True, threads=threads) as session:
        yield session.timed(feeds, names)


@contextmanager
def clocked(clock: Clock) -> Iterator[str]:
    """The providers of a clock are in use; the name of the first one.

    Raises:
        InputError: ONNX Runtime has none of that name here, or torch is to measure.
    """
    if clock.runtime not in (None, ONNX_RUNTIME):
        raise InputError(f"clock: files are measured by {ONNX_RUNTIME!r}, not by {clock.runtime!r}")
    with run_by(clock.providers):
        first = providers_in_use()[0]
        yield str(first[0] if isinstance(first, tuple) else first)
