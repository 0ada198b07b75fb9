"""The graph that passes see: named values with shapes, nodes with an operator and attributes.

Front ends build it, passes read it, nobody changes it. A value is an array that flows between
nodes; a parameter is a value that the model owns, so it can be sliced. Sizes are those of one
example run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum


class ValueKind(Enum):
    """Where a value comes from."""

    INPUT = "input"
    PARAMETER = "parameter"  # owned by the model and sliceable: parameters, buffers, initialisers
    COMPUTED = "computed"


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An array: its name, its shape in the example run, and where it comes from.

    `trained` marks parameters that count as parameters (buffers do not), `bits` says how many an
    element of one takes.
    """

    name: str
    shape: tuple[int, ...]
    kind: ValueKind = ValueKind.COMPUTED
    trained: bool = False
    bits: int = 32

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One application of an operator.

    `op` is a name of the operator table or of a structural rule; any other name is an unknown
    operator. `inputs` holds the array operands in the operator's order, None for an absent
    optional one. `attributes` holds literals under the rule's names.
    """

    name: str
    op: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, object] = field(default_factory=dict)
    source: str = ""

    def __str__(self) -> str:
        left = ", ".join(map(str, self.outputs))
        right = ", ".join("-" if value is None else str(value) for value in self.inputs)
        return f"{left} = {self.op}({right})"

    @property
    def place(self) -> str:
        """How messages name this node."""
        return f"{self.name} ({self.op}{', ' + self.source if self.source else ''})"


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in execution order, and what goes in and out.

    `outputs` are returned in some mode and on some example, `results` in evaluation on the first
    example, `others` in every other mode and on every other example where the nodes are others.
    `batch` is the batch size of the first example.
    """

    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    results: tuple[Value, ...]
    parameters: tuple[Value, ...]
    batch: int
    others: tuple[tuple[Value, ...], ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self.nodes))

    def users(self) -> dict[str, list[Node]]:
        """The nodes that read each value, by value name, in graph order."""
        users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    users.setdefault(value.name, []).append(node)
        return users

    def producers(self) -> dict[str, Node]:
        """The node that computes each value, by value name."""
        return {value.name: node for node in self.nodes for value in node.outputs}

    def evaluated(self) -> set[str]:
        """The names of the nodes that evaluation runs."""
        return self.needed(self.results)

    def needed(self, values: Iterable[Value]) -> set[str]:
        """The names of the nodes that compute `values`."""
        needed = {value.name for value in values}
        names: set[str] = set()
        for node in reversed(self.nodes):
            if any(value.name in needed for value in node.outputs):
                names.add(node.name)
                needed.update(value.name for value in node.inputs if value is not None)
        return names
