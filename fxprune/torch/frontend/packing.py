"""A torch.fx graph as flat rows, so that it can be pickled.

Nodes refer to one another, and pickle follows references by recursion, which ends at a thousand
nodes. In rows a node refers to others by number, and to a function by where it can be imported
from, which is not always what the function says: `F.max_pool2d` is made inside of another.
"""

import sys
from dataclasses import dataclass
from operator import attrgetter
from pickle import PicklingError
from types import FunctionType
from typing import Any

from torch import fx

from fxprune.torch.frontend.owners import PlainGraph

Row = tuple[str, str, Any, Any, Any, Any, dict[str, Any]]
"""Operator, name, target, arguments, keyword arguments, type and meta of a node."""

_FOREIGN = ("nn_module_stack", "stack_trace")  # torch's notes on the original source


@dataclass(frozen=True, slots=True)
class _Reference:
    number: int


@dataclass(frozen=True, slots=True)
class Imported:
    """A function by the module that holds it and its name there."""

    module: str
    name: str

    def found(self) -> Any:
        """The function; its module is imported if it is not yet."""
        __import__(self.module)
        return attrgetter(self.name)(sys.modules[self.module])


def imported(function: Any, home: str = "", called: str = "") -> Imported:
    """Where a function can be imported from, if it does not say so itself.

    Raises:
        PicklingError: nowhere, as a lambda.
    """
    home, called = home or str(function.__module__), called or function.__qualname__
    names = vars(sys.modules[home]).items() if home in sys.modules else ()
    name = next((name for name, value in names if value is function), called)
    place = Imported(home, name)
    try:
        if place.found() is function:
            return place
    except (ImportError, AttributeError):
        pass
    raise PicklingError(
        f"the model calls {home}.{called}, which cannot be imported by a name: define "
        "it at the top of a module, or use fxprune.save, which needs no pickle"
    )


def pack_graph(graph: fx.Graph) -> list[Row]:
    """The nodes of a graph as rows, in order."""
    numbers: dict[fx.Node, Any] = {node: _Reference(i) for i, node in enumerate(graph.nodes)}
    return [
        (
            node.op,
            node.name,
            imported(node.target) if isinstance(node.target, FunctionType) else node.target,
            fx.map_arg(node.args, numbers.__getitem__),
            fx.map_arg(node.kwargs, numbers.__getitem__),
            node.type,
            {key: value for key, value in node.meta.items() if key not in _FOREIGN},
        )
        for node in graph.nodes
    ]


def unpack_graph(rows: list[Row]) -> fx.Graph:
    """The graph that was packed."""
    graph = PlainGraph()
    nodes: list[fx.Node] = []

    def resolve(item: Any) -> Any:
        return nodes[item.number] if isinstance(item, _Reference) else item

    for op, name, target, args, kwargs, kind, meta in rows:
        target = target.found() if isinstance(target, Imported) else target
        args, kwargs = fx.node.map_aggregate((args, kwargs), resolve)
        node = graph.create_node(op, target, args, kwargs, name, kind)
        node.meta = meta
        nodes.append(node)
    return graph
