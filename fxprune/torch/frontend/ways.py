"""One graph for what a model does in training and in evaluation, and on different examples.

Every run of forward that was recorded is a way. A graph of several ways returns the results of all
of them, marked by `WAYS` in the meta of its output.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import fx

from fxprune.torch.frontend.owners import OwnedGraph, PlainGraph
from fxprune.torch.frontend.regions import EFFECTS
from fxprune.torch.frontend.values import CONSTANT

WAYS = "fxprune_ways"
"""Key in the output node's meta: the way of each result that the graph returns."""
EXAMPLE = "fxprune_example"
"""Key in a node's meta, where there are several: the number of the example that it is a call of."""

ORDER = "fxprune_order"
"""Key in a node's meta: when each way of a merged graph computes it."""


class Way(NamedTuple):
    """One run of forward: on which example, and in which mode if the two modes differ."""

    example: int = 0
    training: bool | None = None


def ways_of(graph: fx.Graph) -> tuple[Way, ...]:
    """The ways of a graph, in the order of its results."""
    ways: tuple[Way, ...] = graph.output_node().meta.get(WAYS, (Way(),))
    return ways


def merge(runs: Sequence[tuple[Way, OwnedGraph]]) -> OwnedGraph:
    """One graph that computes all results; what both modes of an example compute alike is once."""
    if len(runs) == 1:
        return runs[0][1]
    merged = OwnedGraph()
    known: dict[Any, fx.Node] = {}
    calls: dict[int, dict[str, list[Any]]] = {}
    results = []
    for number, (way, graph) in enumerate(runs):
        copies: dict[fx.Node, fx.Node] = {}
        for place, node in enumerate(graph.nodes):
            if node.op == "output":
                results.append(fx.map_arg(node.args[0], copies.__getitem__))
                continue
            args = fx.map_arg(node.args, copies.__getitem__)
            kwargs = fx.map_arg(node.kwargs, copies.__getitem__)
            if CONSTANT in node.meta and number:
                node.target = f"{node.target}_of_way_{number}"  # each way makes its own
            key = (way.example, node.op, node.target, str(args), str(kwargs), node.name)
            if key not in known:
                known[key] = merged.node_copy(node, copies.__getitem__)
            copies[node] = known[key]
            copies[node].meta[EXAMPLE] = way.example
            copies[node].meta.setdefault(ORDER, {})[way] = place
        calls.setdefault(way.example, {}).update(_copied_calls(graph, copies))
        merged.told |= graph.told
        merged.replaced |= graph.replaced
        merged.forgets |= graph.forgets
        merged.knows_single |= graph.knows_single
        merged.batch = graph.batch
        merged.kept |= graph.kept
    for of_example in calls.values():
        for path, given in of_example.items():
            merged.calls.setdefault(path, []).extend(given)
    merged.output(tuple(results)).meta[WAYS] = tuple(way for way, _ in runs)
    return merged


def _copied_calls(graph: OwnedGraph, copies: Mapping[fx.Node, fx.Node]) -> dict[str, list[Any]]:
    """The calls of modules, with nodes of the copy where it has them."""
    return {
        path: fx.map_arg(given, lambda node: copies.get(node, node))
        for path, given in graph.calls.items()
    }


def select(graph: fx.Graph, way: Way) -> fx.Graph:
    """The part of a graph that one of its ways runs, in the order of its code."""
    if len(ways_of(graph)) == 1:
        return graph
    copy = PlainGraph()
    copy.set_codegen(graph._codegen)
    copies: dict[fx.Node, fx.Node] = {}
    nodes, result = run_of(graph, way)
    for node in nodes:
        copies[node] = copy.node_copy(node, copies.__getitem__)
    copy.output(fx.map_arg(result, copies.__getitem__))
    return copy


def run_of(graph: fx.Graph, way: Way) -> tuple[list[fx.Node], Any]:
    """The nodes that a way runs, in the order of its code, and what it returns.

    A graph of one way has that of all.
    """
    ways, returned = ways_of(graph), graph.output_node().args[0]
    if len(ways) == 1:
        return [node for node in graph.nodes if node.op != "output"], returned
    result = returned[ways.index(way)]  # type: ignore[index]
    return list(_in_order(graph, way, result)), result


def _in_order(graph: fx.Graph, way: Way, result: Any) -> Iterator[fx.Node]:
    """What a way runs: its inputs, its effects and all that leads to its result.

    A node that an edit has put in comes right before the first that reads it.
    """
    wanted: list[fx.Node] = [*_nodes_in(result)]
    wanted += (
        node
        for node in graph.nodes
        if (node.op == "placeholder" or node.target in EFFECTS)
        and node.meta.get(EXAMPLE, way.example) == way.example
    )
    needed: set[fx.Node] = set()
    while wanted:
        node = wanted.pop()
        if node not in needed:
            needed.add(node)
            wanted += node.all_input_nodes
    last = len(graph.nodes)
    turn: dict[fx.Node, int] = {}
    for node in reversed(graph.nodes):
        if node in needed:
            readers = (turn[user] for user in node.users if user in needed)
            turn[node] = node.meta.get(ORDER, {}).get(way, min(readers, default=last))
    missing = {node: len(node.all_input_nodes) for node in needed}
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    ready = [(turn[node], numbers[node], node) for node in needed if not missing[node]]
    heapq.heapify(ready)
    while ready:
        node = heapq.heappop(ready)[2]
        yield node
        for user in node.users:
            if user in needed:
                missing[user] -= 1
                if not missing[user]:
                    heapq.heappush(ready, (turn[user], numbers[user], user))


def _nodes_in(result: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(result, found.append)
    return found
