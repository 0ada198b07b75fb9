"""What is every layer before and after pruning: how wide is it, what does it cost, is it removed?

A layer is a node that multiplies (a contraction) or that is the first to read trained parameters.
The sums over layers are the costs of `cost.py`, to the unit.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import ONE, Axis, Space, evaluate, spaces
from fxprune.passes.cost import homes_of
from fxprune.passes.kinds import CONVOLUTIONS
from fxprune.passes.outline import Stop, outline
from fxprune.passes.samples import one_sample

UNREAD = "unread"
"""Stands for the operator of parameters that nothing reads."""


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """One layer; its width is the number of channels that it makes.

    A `removed` layer went with a branch; parameters that another layer shares stay.
    """

    name: str
    op: str
    width_before: int
    width_after: int
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    removed: bool = False

    def __str__(self) -> str:
        after = "removed" if self.removed else str(self.width_after)
        return (
            f"{self.name} ({self.op}): width {self.width_before} -> {after}, macs "
            f"{self.macs_before} -> {self.macs_after}, params {self.params_before} -> "
            f"{self.params_after}"
        )


def layers_of(analysis: Analysis, sizes: Mapping[str, int]) -> tuple[LayerSizes, ...]:
    """The layers of a model in graph order, under the numbers of positions that are kept.

    Requires: `sizes` names groups and branches (0 or 1) of `analysis`; what is left out is open.
    Ensures: macs and params add up to the costs of `analysis`, full and at `sizes`.
    """
    homes = homes_of(analysis.graph)
    full, pruned = _Figures(analysis, {}), _Figures(analysis, sizes)
    owned = _owned(analysis.graph)
    nodes = _nodes(analysis, owned)
    read = [
        LayerSizes(
            homes[node.name] or node.name,
            node.op,
            full.width(node),
            pruned.width(node),
            before,
            after,
            full.params(owned.get(node.name, ())),
            pruned.params(owned.get(node.name, ())),
            node.name in pruned.removed,
        )
        for node, before, after in zip(nodes, full.macs(nodes), pruned.macs(nodes), strict=True)
    ]
    unread = [
        LayerSizes(value.name, UNREAD, 0, 0, 0, 0, full.params([value]), pruned.params([value]))
        for value in owned.get("", ())
    ]
    return (*read, *unread)


def outline_of(analysis: Analysis, sizes: Mapping[str, int]) -> tuple[Stop, ...]:
    """The layers, in the order of `layers_of`, where their results join, and what feeds what."""
    nodes = _nodes(analysis, _owned(analysis.graph))
    return outline(analysis.graph, [node.name for node in nodes], _Figures(analysis, sizes).removed)


def _nodes(analysis: Analysis, owned: Collection[str]) -> list[Node]:
    """The nodes that are layers, in graph order."""
    graph = analysis.graph
    contracting = {contraction.node for contraction in analysis.types.contractions}
    layers = set(owned) | (contracting & graph.evaluated())
    first = {node.name: node for node in reversed(graph.nodes)}  # one call may be several nodes
    return [first[name] for name in dict.fromkeys(n.name for n in graph.nodes) if name in layers]


def _owned(graph: Graph) -> dict[str, list[Value]]:
    """Trained parameters by the first node that reads them, in evaluation if any does, or ""."""
    evaluated, users = graph.evaluated(), graph.users()
    owned: dict[str, list[Value]] = {}
    for parameter in graph.parameters:
        if parameter.trained:
            names = [node.name for node in users.get(parameter.name, ())]
            first = next((name for name in names if name in evaluated), names[0] if names else "")
            owned.setdefault(first, []).append(parameter)
    return owned


class _Figures:
    """What nodes and parameters are under the numbers of positions that are kept."""

    def __init__(self, analysis: Analysis, sizes: Mapping[str, int]) -> None:
        closed = (branch for branch in analysis.branches if not sizes.get(branch.name, 1))
        self.removed = {name for branch in closed for name in branch.nodes}
        self._kept = {g.space: sizes[g.name] for g in analysis.groups if g.name in sizes}
        self._axes = analysis.types.axes
        self._positional = analysis.types.positional
        self._single = one_sample(analysis.graph, analysis.types)
        self._users = analysis.graph.users()
        self._products: dict[str, int] = {}
        running = analysis.graph.evaluated() - self.removed
        for contraction in analysis.types.contractions:
            if contraction.node in running:
                number = math.prod(int(evaluate(a, self._size_alone)) for a in contraction.axes)
                self._products[contraction.node] = self._products.get(contraction.node, 0) + number

    def macs(self, nodes: Iterable[Node]) -> Iterator[int]:
        """Multiply-accumulates per sample, rounded so that their sum is that of the model."""
        totals = accumulate((self._products.get(node.name, 0) for node in nodes), initial=0)
        divisor = self._single.divisor
        return (high - low for low, high in pairwise(total // divisor for total in totals))

    def params(self, parameters: Iterable[Value]) -> int:
        """The elements of those parameters that something reads, or that nothing ever read."""
        return sum(math.prod(self._shape(v)) for v in parameters if not self._is_removed(v))

    def width(self, node: Node) -> int:
        """The size of the last axis of the result that parameters make, else of its last axis.

        What `node` computes decides, not what surrounds it: after folding that may be gone.
        """
        if node.name in self.removed:
            return 0
        read = [v for v in node.inputs if v is not None and v.kind is ValueKind.PARAMETER]
        own = {s for v in read for axis in self._axes.get(v.name, ()) for s in spaces(axis)} - {ONE}
        made = self._axes[node.outputs[0].name]
        channels = [axis for axis in made if not own.isdisjoint(spaces(axis))]
        if not channels and node.op in CONVOLUTIONS:
            channels = [a for a in made if not self._positional.issuperset(spaces(a))]
        return self._size((ONE, *made, *channels)[-1])

    def _is_removed(self, parameter: Value) -> bool:
        readers = [node.name for node in self._users.get(parameter.name, ())]
        return bool(readers) and self.removed.issuperset(readers)

    def _shape(self, parameter: Value) -> tuple[int, ...]:
        axes = self._axes.get(parameter.name)
        return parameter.shape if axes is None else tuple(map(self._size, axes))

    def _size(self, axis: Axis) -> int:
        return int(evaluate(axis, self._size_of))

    def _size_alone(self, space: Space) -> int:
        return self._single.sizes.get(space, self._size_of(space))

    def _size_of(self, space: Space) -> int:
        return self._kept.get(space, space.size)
