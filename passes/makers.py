"""Which weights make which positions?

A node makes the positions that it carries from a parameter to what it returns; those that it
contracts it reads. Every node is looked at alone, with new axes for all that comes from elsewhere:
in `x + conv(x)` all channels are one group, and yet the filters of the convolution lie along one
axis of its weight only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fxprune.ir import Graph, Node, Value
from fxprune.passes.axes import Axis, Prod, Space, Sum, spaces
from fxprune.passes.facts import Inference, Types
from fxprune.passes.infer import apply


@dataclass(frozen=True, slots=True)
class Makers:
    """The axes of parameters, with a space of its own in every place; what some of them make.

    `made` says of those that make something which space of the model that is. Vectors (biases,
    factors) make nothing; a matrix of one column does, where it is contracted.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    made: Mapping[Space, Space]


def find_makers(graph: Graph, types: Types) -> Makers:
    """Where the trained parameters of a model make positions.

    Requires: `types` inferred from `graph`.
    """
    search = _Search(graph, types)
    for node in graph.nodes:
        search.visit(node)
    return Makers(search.axes, search.made)


class _Search:
    """One walk over the nodes that parameters reach."""

    def __init__(self, graph: Graph, types: Types) -> None:
        self.made: dict[Space, Space] = {}
        self._state = Inference()
        self._original: dict[Space, Space] = {}
        trained = [v for v in graph.parameters if v.trained and v.name in types.axes]
        self.axes = {v.name: tuple(map(self._twin, types.axes[v.name])) for v in trained}
        self._state.axes.update(self.axes)
        self._given = {value.name for value in graph.parameters}
        self._origins: dict[str, tuple[str, ...]] = {name: (name,) for name in self.axes}

    def _twin(self, axis: Axis) -> Axis:
        """The same axis of new spaces, a different one in every place."""
        if isinstance(axis, Prod):
            return Prod(tuple(map(self._twin, axis.factors)), axis.size)
        if isinstance(axis, Sum):
            return Sum(tuple(map(self._twin, axis.parts)), axis.size)
        twin = self._state.fresh(axis.size)
        assert isinstance(twin, Space)
        self._original[twin] = axis
        return twin

    def visit(self, node: Node) -> None:
        """Follow what parameters become; see what a node makes of them and of other arrays."""
        inputs = [value for value in node.inputs if value is not None]
        given = all(value.name in self._given for value in inputs)
        origins = tuple(dict.fromkeys(n for v in inputs for n in self._origins.get(v.name, ())))
        if given:
            self._given.update(value.name for value in node.outputs)
        if not origins:
            return
        readers, multiplied = len(self._state.readers), len(self._state.multiplied)
        alone = self._alone(node)
        before = [tuple(map(self._leaves, self._axes_of(value))) for value in alone.inputs]
        own = {space: self._leaves(space) for name in origins for space in self._places(name)}
        outputs = apply(self._state, alone)
        if given:
            for value, axes in zip(node.outputs, outputs, strict=True):
                self._state.axes[value.name] = axes
                self._origins[value.name] = origins
            return
        carried = {space for axes in outputs for axis in axes for space in self._leaves(axis)}
        read = {
            space
            for reader in self._state.readers[readers:]
            for space in self._contracted(before[reader.operand][reader.dim], carried)
        }
        made = {
            space
            for space, leaves in own.items()
            if read.isdisjoint(leaves) and not carried.isdisjoint(self._leaves(space))
        }
        factors = {operand for _, operand in self._state.multiplied[multiplied:]}
        for operand, array in enumerate(node.inputs):
            if array is None or (factors and operand not in factors):
                continue
            for name in self._origins.get(array.name, ()):
                if self._is_matrix(name, multiplied=bool(factors) and array.name == name):
                    kept = made.intersection(self._places(name))
                    self.made.update((space, self._original[space]) for space in kept)

    def _is_matrix(self, name: str, multiplied: bool) -> bool:
        """Whether a parameter is no vector; if it is `multiplied`, one column is enough."""
        axes = self.axes[name]
        return len(axes) > 1 and (multiplied or sum(axis.size > 1 for axis in axes) > 1)

    def _places(self, name: str) -> list[Space]:
        """The spaces of a parameter, one for every place."""
        return [space for axis in self.axes[name] for space in spaces(axis)]

    def _axes_of(self, value: Value | None) -> tuple[Axis, ...]:
        return () if value is None else self._state.type_of(value)

    def _alone(self, node: Node) -> Node:
        """The node with new arrays for those that parameters do not decide."""
        inputs = tuple(
            replace(value, name=f"operand {number} of {node.name}")
            if value is not None and value.name not in self._given
            else value
            for number, value in enumerate(node.inputs)
        )
        return replace(node, inputs=inputs)

    def _leaves(self, axis: Axis) -> tuple[Space, ...]:
        """What an axis is made of, as far as is known by now."""
        return tuple(spaces(self._state.resolve(axis)))

    def _contracted(self, leaves: tuple[Space, ...], carried: set[Space]) -> list[Space]:
        """What a reader of an axis sums over: all of it, but for factors that are carried.

        If all are, as the states of a recurrent layer, they are summed over and made anew.
        """
        several = [space for space in leaves if space.size > 1]  # the others are never unified
        summed = [space for space in several if carried.isdisjoint(self._leaves(space))]
        return summed or several
