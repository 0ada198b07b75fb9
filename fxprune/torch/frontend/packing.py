"""A torch.fx graph as flat rows, so that it can be pickled.

Nodes refer to one another, and pickle follows references by recursion, which ends at a thousand
nodes. In rows a node refers to others by number.
"""

from dataclasses import dataclass
from typing import Any

from torch import fx

Row = tuple[str, str, Any, Any, Any, Any, dict[str, Any]]
"""Operator, name, target, arguments, keyword arguments, type and meta of a node."""

_FOREIGN = ("nn_module_stack", "stack_trace")  # torch's notes on the original source


@dataclass(frozen=True, slots=True)
class _Reference:
    number: int


def pack_graph(graph: fx.Graph) -> list[Row]:
    """The nodes of a graph as rows, in order."""
    numbers: dict[fx.Node, Any] = {node: _Reference(i) for i, node in enumerate(graph.nodes)}
    return [
        (
            node.op,
            node.name,
            node.target,
            fx.map_arg(node.args, numbers.__getitem__),
            fx.map_arg(node.kwargs, numbers.__getitem__),
            node.type,
            {key: value for key, value in node.meta.items() if key not in _FOREIGN},
        )
        for node in graph.nodes
    ]


def unpack_graph(rows: list[Row]) -> fx.Graph:
    """The graph that was packed."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def resolve(item: Any) -> Any:
        return nodes[item.number] if isinstance(item, _Reference) else item

    for op, name, target, args, kwargs, kind, meta in rows:
        args, kwargs = fx.node.map_aggregate((args, kwargs), resolve)
        node = graph.create_node(op, target, args, kwargs, name, kind)
        node.meta = meta
        nodes.append(node)
    return graph
