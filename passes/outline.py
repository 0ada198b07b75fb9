"""A model in outline: its layers, where their results join, and what feeds what.

What has one input and no parameters (activations, reshapes) is left out: it hands on what it is
given. A residual stream stays a chain, since additions are stops of their own.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from fxprune.ir import Graph, Node, Value, ValueKind

INPUT, OUTPUT = "input", "output"
"""Operators of what goes in and comes out."""


@dataclass(frozen=True, slots=True)
class Stop:
    """An input, a layer, a place where results join, or an output.

    `layer` is the number of the layer, None where it is none; `fed_by` are the numbers of the stops
    before it that feed it.
    """

    name: str
    op: str
    fed_by: tuple[int, ...] = ()
    layer: int | None = None
    removed: bool = False


def outline(graph: Graph, layers: Iterable[str], removed: Collection[str]) -> tuple[Stop, ...]:
    """The stops of what evaluation runs, in its order.

    Args:
        graph: the model.
        layers: the names of the nodes that are layers, in order.
        removed: the names of the nodes that are gone.
    """
    evaluated = graph.evaluated()
    numbers = {name: number for number, name in enumerate(layers)}
    stops = [Stop(value.name, INPUT) for value in graph.inputs]
    sources = {value.name: frozenset({number}) for number, value in enumerate(graph.inputs)}
    places: dict[str, int] = {}  # one call may be several nodes
    for node in graph.nodes:
        if node.name not in evaluated:
            continue
        feeding = _sources(node, sources)
        if node.name in numbers or len(feeding) > 1:
            place = places.setdefault(node.name, len(stops))
            feeding -= {place}
            if place == len(stops):
                layer = numbers.get(node.name)
                gone = node.name in removed
                stops.append(Stop(node.name, node.op, tuple(sorted(feeding)), layer, gone))
            feeding = frozenset({place})
        sources.update((value.name, feeding) for value in node.outputs)
    return (*stops, *_ends(graph.results, sources))


def _sources(node: Node, sources: dict[str, frozenset[int]]) -> frozenset[int]:
    arrays = (v for v in node.inputs if v is not None and v.kind is not ValueKind.PARAMETER)
    return frozenset[int]().union(*(sources.get(value.name, frozenset()) for value in arrays))


def _ends(results: Iterable[Value], sources: dict[str, frozenset[int]]) -> Iterator[Stop]:
    for value in results:
        yield Stop(value.name, OUTPUT, tuple(sorted(sources.get(value.name, ()))))
