"""A graph run node by node, on one batch after the other, while its weights change on the way.

What no input decides is the same for all batches: masks are computed once, everything else when it
is needed. What batches have computed waits on a shelf, so memory does not grow with the data.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import fx

from fxprune.torch.backend.module import TracedModule

Values = dict[str, Any]
"""What a batch has computed that is still read, by the names of nodes."""


class Walk:
    """One run of a graph, with all gates open or as they are."""

    def __init__(
        self,
        part: TracedModule,
        graph: fx.Graph,
        masks: Callable[[fx.Node], bool],
        showing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`masks` tells nodes that are computed once; they run within what `showing` gives."""
        self._interpreter = fx.Interpreter(part, graph=graph)
        self._showing = showing
        self._is_mask = masks
        self._known: dict[fx.Node, Any] = {}
        self._last = {source: node for node in graph.nodes for source in node.all_input_nodes}
        self.moving = moving(graph)

    def value(self, node: fx.Node, values: Values) -> Any:
        """What a node returned, or, where no input decides on it, returns."""
        if node in self.moving:
            return values[node.name]
        if node not in self._known:
            self._known[node] = self._result(node, {})
        return self._known[node]

    def advance(self, node: fx.Node, values: Values) -> None:
        """Run a node on a batch."""
        if node in self.moving and node.op != "placeholder":
            values[node.name] = self._result(node, values)

    def leave(self, node: fx.Node, values: Values) -> None:
        """Forget what nobody reads behind a node."""
        for source in node.all_input_nodes:
            if self._last[source] is node:
                values.pop(source.name, None)

    def forget(self) -> None:
        """Compute what is made of weights anew, since these have changed, or nobody reads it."""
        self._known = {node: known for node, known in self._known.items() if self._is_mask(node)}

    def _result(self, node: fx.Node, values: Values) -> Any:
        sources = {source: self.value(source, values) for source in node.all_input_nodes}
        self._interpreter.env = sources
        with self._showing():
            return self._interpreter.run_node(node)


def moving(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that inputs decide on."""
    return reached(graph.nodes, lambda node: node.op == "placeholder")


def reached(nodes: Iterable[fx.Node], starts: Callable[[fx.Node], bool]) -> set[fx.Node]:
    """The nodes that something starts at, and all that read them."""
    found: set[fx.Node] = set()
    for node in nodes:
        if starts(node) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found
