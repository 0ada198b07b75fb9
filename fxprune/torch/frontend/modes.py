"""Models that do different things in training and in evaluation: one graph for both.

A graph that has both results returns them as a pair, marked by `MODES` in the meta of its output.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from fxprune.torch.frontend.owners import OwnedGraph
from fxprune.torch.frontend.regions import EFFECTS
from fxprune.torch.frontend.values import CONSTANT

MODES = "fxprune_modes"
"""Key in the output node's meta: the graph returns (train result, eval result)."""


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """A model in evaluation; afterwards each of its modules is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def is_training_flag(node: fx.Node) -> bool:
    """Whether a node reads `training` of a module."""
    return node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training"


def remove_dead(graph: fx.Graph) -> None:
    """Remove nodes without users; in-place effects have been turned into uses before."""
    graph.eliminate_dead_code(
        is_impure_node=lambda n: n.op in ("placeholder", "output") or n.target in EFFECTS
    )


def merge(train: OwnedGraph, evaluation: OwnedGraph) -> OwnedGraph:
    """One graph that computes both results; what both modes compute alike is there once."""
    merged = OwnedGraph()
    known: dict[Any, fx.Node] = {}
    results = []
    for graph in (train, evaluation):
        copies: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            if node.op == "output":
                results.append(fx.map_arg(node.args[0], copies.__getitem__))
                continue
            args = fx.map_arg(node.args, copies.__getitem__)
            kwargs = fx.map_arg(node.kwargs, copies.__getitem__)
            if CONSTANT in node.meta and graph is evaluation:
                node.target = f"{node.target}_of_evaluation"  # each mode makes its own
            key = (node.op, node.target, str(args), str(kwargs), node.name)
            if key not in known:
                known[key] = merged.node_copy(node, copies.__getitem__)
            copies[node] = known[key]
        merged.calls.update(_copied_calls(graph, copies))
        merged.told |= graph.told
    merged.output(tuple(results)).meta[MODES] = True
    return merged


def _copied_calls(graph: OwnedGraph, copies: Mapping[fx.Node, fx.Node]) -> dict[str, list[Any]]:
    """The calls of modules, with nodes of the copy where it has them."""
    return {
        path: fx.map_arg(given, lambda node: copies.get(node, node))
        for path, given in graph.calls.items()
    }


def select_mode(graph: fx.Graph, training: bool) -> fx.Graph:
    """The part of a merged graph that one mode runs."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    copy.set_codegen(graph._codegen)
    output = copy.output_node()
    output.args = (output.args[0][0 if training else 1],)  # type: ignore[index]
    remove_dead(copy)
    return copy
