"""What is multiplied with what: activations with weights, or with one another?

    linear(x[b, i], w[o, i])     sums over i and makes o
    matmul(q[h, n, d], k[h, d, m])     multiplies activations: h stays, d is summed over

Weights are parameters and what is computed from parameters alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from fxprune.ir import Graph, Node, Value
from fxprune.passes.axes import Space, spaces
from fxprune.passes.facts import Types
from fxprune.passes.kinds import CONVOLUTIONS


@dataclass(frozen=True, slots=True)
class Product:
    """One contraction, by the spaces of what it multiplies and of its result.

    `parameters` are those that its weights are computed from; it multiplies activations with one
    another if there are none. `square` are spaces that its weights have twice.
    """

    node: Node
    parameters: tuple[str, ...]
    weights: frozenset[Space]
    data: tuple[frozenset[Space], ...]
    result: frozenset[Space]
    square: frozenset[Space] = frozenset()

    @property
    def summed(self) -> frozenset[Space]:
        """What it sums over with its weights."""
        return self.weights - self.result | self.square

    @property
    def made(self) -> frozenset[Space]:
        """What its weights bring in."""
        return (self.weights & self.result).difference(*self.data) | self.square

    @property
    def is_pointwise(self) -> bool:
        """Whether it looks at one position of an image or of a sequence at a time."""
        kernel = self.node.inputs[1]
        return self.node.op not in CONVOLUTIONS or kernel is None or set(kernel.shape[2:]) <= {1}


def find_products(graph: Graph, types: Types) -> tuple[Product, ...]:
    """The contractions of a graph of which some operand is no weight, in order.

    Requires: `types` inferred from `graph`.
    """
    factors: dict[str, list[int]] = {}
    for name, operand in types.multiplied:
        factors.setdefault(name, []).append(operand)
    origins: dict[str, tuple[str, ...]] = {v.name: (v.name,) for v in graph.parameters}
    found = []
    for node in graph.nodes:
        read = [value for value in node.inputs if value is not None]
        if read and all(value.name in origins for value in read):
            own = tuple(dict.fromkeys(name for value in read for name in origins[value.name]))
            origins.update((value.name, own) for value in node.outputs)
        elif node.name in factors:
            operands = [v for i in factors[node.name] if (v := node.inputs[i]) is not None]
            weights = [value for value in operands if value.name in origins]
            found.append(
                Product(
                    node,
                    tuple(dict.fromkeys(n for value in weights for n in origins[value.name])),
                    spaces_of(types, weights),
                    tuple(spaces_of(types, [v]) for v in operands if v not in weights),
                    spaces_of(types, node.outputs),
                    _twice(types, weights) & spaces_of(types, node.outputs),
                )
            )
    return tuple(found)


def _twice(types: Types, values: Iterable[Value]) -> frozenset[Space]:
    """What several axes of one of some values are made of."""
    found: set[Space] = set()
    for value in values:
        axes = [set(spaces(axis)) for axis in types.axes.get(value.name, ())]
        found.update(*(one & other for one, other in combinations(axes, 2)))
    return frozenset(space for space in found if space.size > 1)


def spaces_of(types: Types, values: Iterable[Value]) -> frozenset[Space]:
    """All that the axes of some values are made of, axes of one position aside."""
    axes = (axis for value in values for axis in types.axes.get(value.name, ()))
    return frozenset(space for axis in axes for space in spaces(axis) if space.size > 1)
