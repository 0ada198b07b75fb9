"""Which gates can depend on the sample? Those whose makers and readers see the same samples.

A conditioned gate looks at the input of what it gates: of the one contraction that makes a group,
or of the first one of a branch. It acts on arrays instead of parameters. What counts as the
samples is the first axis of that input; every array that the gate acts on must begin with it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.passes.axes import Axis, Space, spaces
from fxprune.passes.branches import Branch
from fxprune.passes.facts import Reader, Reading, Types
from fxprune.passes.groups import Group


@dataclass(frozen=True, slots=True)
class Condition:
    """The gate `name` looks at axis `dim` (of size `width`) of operand `operand` of `node`.

    `places` are where it acts: node, operand, and axis (-1 for a branch, which scales it all).
    """

    name: str
    node: str
    operand: int
    dim: int
    width: int
    places: tuple[tuple[str, int, int], ...]

    def __str__(self) -> str:
        where = ", ".join(f"operand {operand} of {node}" for node, operand, _ in self.places)
        return f"{self.name}: by axis {self.dim} of operand {self.operand} of {self.node}; {where}"


def plan_conditions(
    graph: Graph, types: Types, groups: Iterable[Group], branches: Iterable[Branch]
) -> tuple[Condition, ...]:
    """The gates that can depend on the sample.

    Ensures: each acts, in every mode, on arrays whose first axis is that of its input.
    """
    search = _Search(graph, types)
    found = [
        *map(search.of_group, (g for g in groups if not g.pin)),
        *map(search.of_branch, branches),
    ]
    return tuple(condition for condition in found if condition)


class _Search:
    def __init__(self, graph: Graph, types: Types) -> None:
        self._nodes: Mapping[str, Node] = {node.name: node for node in graph.nodes}
        self._order = {node.name: place for place, node in enumerate(graph.nodes)}
        self._axes = types.axes
        contracted = {reader.node for reader in types.readers if reader.reading is Reading.CONTRACT}
        self._contractions = [node for node in graph.nodes if node.name in contracted]
        self._makers: dict[Space, list[Node]] = {}
        for node in self._contractions:
            axes = (axis for value in node.outputs for axis in types.axes[value.name])
            for space in dict.fromkeys(space for axis in axes for space in spaces(axis)):
                self._makers.setdefault(space, []).append(node)
        self._readers: dict[Space, list[Reader]] = {}
        for reader in types.readers:
            for space in dict.fromkeys(spaces(reader.axis)):
                self._readers.setdefault(space, []).append(reader)
        self._by_node: dict[str, list[tuple[int, Axis]]] = {}
        for reader in types.readers:
            self._by_node.setdefault(reader.node, []).append((reader.operand, reader.axis))

    def of_group(self, group: Group) -> Condition | None:
        """By the input of the one contraction that makes the group."""
        makers = self._makers.get(group.space, [])
        if len(makers) != 1:
            return None
        places = []
        for reader in self._readers.get(group.space, []):
            place = self._array(self._nodes[reader.node], reader.axis)
            if reader.axis is not group.space or reader.reading is not Reading.CONTRACT:
                return None
            if place is None:
                return None
            places.append((reader.node, *place))
        return self._condition(group.name, makers[0], tuple(places))

    def of_branch(self, branch: Branch) -> Condition | None:
        """By the input of its first contraction."""
        inside = set(branch.nodes)
        first = next((node for node in self._contractions if node.name in inside), None)
        places = tuple((node, operand, -1) for node, operand in branch.places)
        return self._condition(branch.name, first, places) if first else None

    def _array(self, node: Node, axis: Axis) -> tuple[int, int] | None:
        """The one array operand that has an axis beyond its first, and where."""
        places = [
            (operand, dim)
            for operand, value in enumerate(node.inputs)
            if value is not None and value.kind is not ValueKind.PARAMETER
            for dim, own in enumerate(self._axes[value.name])
            if dim and own == axis
        ]
        return places[0] if len(places) == 1 else None

    def _condition(
        self, name: str, maker: Node, places: tuple[tuple[str, int, int], ...]
    ) -> Condition | None:
        read = [self._array(maker, axis) for _, axis in self._by_node[maker.name]]
        source = next((place for place in read if place), None)
        if source is None or not places:
            return None
        samples = self._first(maker.inputs[source[0]])
        acted = [self._first(self._nodes[node].inputs[operand]) for node, operand, _ in places]
        early = [node for node, _, _ in places if self._order[node] <= self._order[maker.name]]
        if early or any(axis != samples for axis in acted):
            return None
        features = maker.inputs[source[0]]
        assert features is not None
        return Condition(name, maker.name, *source, features.shape[source[1]], places)

    def _first(self, value: Value | None) -> Axis:
        assert value is not None
        return self._axes[value.name][0]
