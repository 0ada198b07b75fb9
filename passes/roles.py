"""What is a group for? The kinds that people know, told by what multiplies, adds and looks up.

    vocabulary       rows of a table that inputs of the model look up
    experts          matrices of a stack that the model chooses among itself
    kv heads         heads of keys and values, each with all heads of queries that attend to it
    heads            what products of activations that make an attention carry along
    head dimension   what they sum over, or mix
    hidden           what residual additions carry: x + f(x)
    MLP width        what is made from hidden, and read to make hidden, position by position; by way
                     of ranks or not
    rank             what weights make and other weights sum over, with nothing between the two
    branch           an operand of an addition that can be removed whole
    layer            all branches of an entry of a list, which go together
    channel          anything else

No name of a module is looked at, so a kind is the same in every spelling and on both routes. An
attention is one operator, or two products of activations (queries with keys, and the result with
values), whatever stands between them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, reduce
from operator import or_

from fxprune.ir import Graph, Node, ValueKind
from fxprune.passes.axes import Axis, Prod, Space, interpret, spaces
from fxprune.passes.facts import Reading, Types
from fxprune.passes.kinds import HOMOGENEOUS, RESHAPED, SHARING
from fxprune.passes.products import Product, spaces_of


class Kind(StrEnum):
    """What a group or branch is for."""

    HIDDEN = "hidden"
    HEADS = "heads"
    KV_HEADS = "kv heads"
    HEAD_DIMENSION = "head dimension"
    MLP_WIDTH = "MLP width"
    RANK = "rank"
    VOCABULARY = "vocabulary"
    EXPERTS = "experts"
    CHANNEL = "channel"
    BRANCH = "branch"
    LAYER = "layer"


WHOLE = (Kind.BRANCH, Kind.LAYER)
"""What is there or not: it has one position."""


def kinds_of(graph: Graph, types: Types, products: Iterable[Product]) -> Mapping[Space, Kind]:
    """The kinds of spaces by the first rule that names them; what none does is a channel.

    Requires: `types` inferred from `graph`, `products` found with them.
    """
    model = _Model(graph, types, tuple(products))
    found: dict[Space, Kind] = {}
    for kind, rule in _RULES:
        found.update(dict.fromkeys(set(rule(model, found)) - found.keys(), kind))
    return found


@dataclass(frozen=True, slots=True)
class _Attention:
    """Spaces of heads, and those inside of them."""

    heads: frozenset[Space]
    inside: frozenset[Space]


@dataclass(frozen=True)
class _Model:
    """What rules look at."""

    graph: Graph
    types: Types
    products: tuple[Product, ...]

    @cached_property
    def made(self) -> frozenset[Space]:
        """What weights make: no batches, tokens, or positions of images."""
        return frozenset(space for product in self.products for space in product.made)

    @cached_property
    def attentions(self) -> tuple[_Attention, ...]:
        """Every attention, by those of its spaces that weights make."""
        found = (*map(self._operator, self.graph.nodes), *map(_by_hand, self._in_pairs()))
        return tuple(
            _Attention(a.heads & self.made, a.inside & self.made) for a in found if a is not None
        )

    @cached_property
    def between_weights(self) -> tuple[Space, ...]:
        """What weights make and other weights alone sum over; two rules ask."""
        return tuple(_ranks(self))

    def _operator(self, node: Node) -> _Attention | None:
        """The attention that one operator computes."""
        if node.op not in _HEADS_OF or node.inputs[0] is None or node.inputs[2] is None:
            return None
        query, value = (self.types.axes[v.name] for v in (node.inputs[0], node.inputs[2]) if v)
        heads = frozenset(_HEADS_OF[node.op](node, query))
        features = (*spaces(query[-1]), *spaces(value[-1]))
        return _Attention(heads, frozenset(features) - heads)

    def _in_pairs(self) -> Iterator[Product]:
        """Products of activations of which one goes into another, with no weights between them."""
        activations = {p.node.name: p for p in self.products if not p.parameters}
        others = {p.node.name for p in self.products} - activations.keys()
        after: set[str] = set()  # values that such a product has gone into
        for node in self.graph.nodes:
            if node.name in activations or any(v.name in after for v in node.inputs if v):
                after.update(v.name for v in node.outputs if node.name not in others)
        second = {name for name, p in activations.items() if _reads(p.node, after)}
        before: set[str] = set()  # values that will go into one that is second
        for node in reversed(self.graph.nodes):
            goes_on = any(value.name in before for value in node.outputs)
            if node.name in second or (goes_on and node.name not in others):
                before.update(v.name for v in node.inputs if v)
        for name, product in activations.items():
            if name in second or any(v.name in before for v in product.node.outputs):
                yield product


def _reads(node: Node, names: set[str]) -> bool:
    return any(value.name in names for value in node.inputs if value)


def _by_hand(product: Product) -> _Attention:
    """What all have is carried along."""
    heads = product.result.intersection(*product.data)
    return _Attention(heads, product.result.union(*product.data) - heads)


def _heads_of_rows(node: Node, query: tuple[Axis, ...]) -> list[Space]:
    """Heads are axes before the rows."""
    return [space for axis in query[:-2] for space in spaces(axis)]


def _heads_of_products(node: Node, query: tuple[Axis, ...]) -> list[Space]:
    """Heads are the first factor of the last axis."""
    last = query[-1]
    found: list[Space] = []
    left = node.attributes["heads"]
    assert isinstance(left, int)
    for factor in last.factors if isinstance(last, Prod) else ():
        if left > 1:
            found.extend(spaces(factor))
            left //= factor.size
    return found


_HEADS_OF: Mapping[str, Callable[[Node, tuple[Axis, ...]], list[Space]]] = {
    "attention": _heads_of_rows,
    "heads_attention": _heads_of_products,
}
"""Where the heads of queries are, by operator."""


# The rules ------------------------------------------------------------------------------------

_Known = Mapping[Space, Kind]
"""What earlier rules have named."""


def _looked_up(model: _Model, known: _Known) -> Iterator[Space]:
    """Rows of tables that an input of the model is looked up in, as it is or a part of it."""
    given = {value.name for value in model.graph.inputs}
    for node in model.graph.nodes:
        if node.op in SHARING and _reads(node, given):
            given.update(value.name for value in node.outputs)
        if node.op == "embedding":
            index, table = node.inputs[:2]
            if index is not None and table is not None and index.name in given:
                for axis in model.types.axes[table.name][:-1]:
                    yield from spaces(axis)


def _chosen(model: _Model, known: _Known) -> Iterator[Space]:
    """What the largest are taken of, where that says which matrices are taken."""
    readers = (r for r in model.types.readers if r.reading is Reading.CHOOSE)
    chosen = {space for reader in readers for space in spaces(reader.axis)}
    for node in model.graph.nodes:
        place = _STACKS.get(node.op)
        stack = node.inputs[place] if place is not None else None
        if stack is not None and len(stack.shape) > 2:
            yield from chosen.intersection(spaces(model.types.axes[stack.name][0]))


_STACKS: Mapping[str, int] = {"grouped_mm": 1, "gather": 0}
"""Which operand may be a stack of matrices of which some are taken, by operator."""


def _shared_heads(model: _Model, known: _Known) -> Iterator[Space]:
    """Heads that some weights have alone, and others times heads of queries."""
    heads = frozenset(space for attention in model.attentions for space in attention.heads)
    axes = (a for v in model.graph.parameters for a in model.types.axes.get(v.name, ()))
    terms = {term for axis in axes if heads for term in _terms(axis, heads)} - {frozenset()}
    for term in terms:
        if any(term < other for other in terms):
            yield from term


def _terms(axis: Axis, among: frozenset[Space]) -> list[frozenset[Space]]:
    """Which of some spaces are multiplied in each part of an axis, its sums multiplied out."""

    def product(factors: list[list[frozenset[Space]]]) -> list[frozenset[Space]]:
        terms = [frozenset[Space]()]
        for factor in factors:
            terms = list(dict.fromkeys(term | other for term in terms for other in factor))
        return terms

    def concat(parts: list[list[frozenset[Space]]]) -> list[frozenset[Space]]:
        return list(dict.fromkeys(term for part in parts for term in part))

    return interpret(axis, lambda space: [among & {space}], product, concat)


def _heads(model: _Model, known: _Known) -> Iterator[Space]:
    for attention in model.attentions:
        yield from attention.heads


def _inside_heads(model: _Model, known: _Known) -> Iterator[Space]:
    for attention in model.attentions:
        yield from attention.inside


def _streams(model: _Model, known: _Known) -> Iterator[Space]:
    """What weights make of something, and is added to it."""
    sums = [
        (node, [value for place in places(node) if (value := node.inputs[place]) is not None])
        for node in model.graph.nodes
        if (places := _ADDED.get(node.op))
    ]
    origins = _origins(model.graph)
    skips = dict.fromkeys(origins.get(v.name, v.name) for _, values in sums for v in values)
    bits = {name: 1 << number for number, name in enumerate(skips)}
    behind = _weighed(model, bits)
    for node, values in sums:
        shape = node.outputs[0].shape
        for skip in values:
            bit = bits[origins.get(skip.name, skip.name)]
            followed = any(bit & behind.get(v.name, 0) for v in values if v is not skip)
            if followed and skip.kind is not ValueKind.PARAMETER and skip.shape == shape:
                yield from spaces_of(model.types, node.outputs[:1]) & model.made


def _weighed(model: _Model, bits: Mapping[str, int]) -> dict[str, int]:
    """For every value those of some others that weights have made it from, as bits."""
    weighing = {product.node.name for product in model.products if product.parameters}
    behind = dict(bits)
    weighed: dict[str, int] = {}
    for node in model.graph.nodes:
        read = [v.name for v in node.inputs[: 1 if node.op in RESHAPED else None] if v]
        mask, made = (reduce(or_, (d.get(name, 0) for name in read), 0) for d in (behind, weighed))
        made |= mask if node.name in weighing else 0
        behind.update((v.name, mask | bits.get(v.name, 0)) for v in node.outputs)
        weighed.update((v.name, made) for v in node.outputs)
    return weighed


def _origins(graph: Graph) -> dict[str, str]:
    """What is the same array in other shapes or types, by value: where it was computed."""
    origins: dict[str, str] = {}
    for node in graph.nodes:
        if node.op in HOMOGENEOUS and node.inputs[0] is not None:
            name = node.inputs[0].name
            origins.update((v.name, origins.get(name, name)) for v in node.outputs)
    return origins


_ADDED: Mapping[str, Callable[[Node], Iterable[int]]] = {
    "add": lambda node: range(len(node.inputs)),
    "index_add": lambda node: (0, 2),
    "add_layer_norm": lambda node: (0, 1),
    "add_rms_norm": lambda node: (0, 1),
    "conv_add": lambda node: (0, *range(3, len(node.inputs))),
}
"""The operands that are added up, or from which what is added is computed, by operator."""


def _between_weights(model: _Model, known: _Known) -> Iterable[Space]:
    """Made by weights, or looked up in them, and summed over by one product with other weights."""
    return model.between_weights


def _ranks(model: _Model) -> Iterator[Space]:
    weighing = {p.node.name: p for p in model.products if p.parameters}
    users = model.graph.users()
    between: set[Space] = set()
    other: set[Space] = set()
    for node in model.graph.nodes:
        readers = [weighing.get(u.name) for v in node.outputs[:1] for u in users.get(v.name, ())]
        made = weighing[node.name].made if node.name in weighing else _entries(model, node)
        ranks = made & readers[0].summed if len(readers) == 1 and readers[0] else frozenset()
        between |= ranks
        other |= spaces_of(model.types, node.outputs) - ranks
    yield from between - other


def _entries(model: _Model, node: Node) -> frozenset[Space]:
    """What the vectors of a table are made of."""
    table = node.inputs[1] if node.op == "embedding" else None
    return frozenset(spaces(model.types.axes[table.name][-1])) if table else frozenset()


def _between_streams(model: _Model, known: _Known) -> Iterator[Space]:
    """Made by products that sum over a stream alone, read by products that make one.

    Layers that are two sum over a rank that is made of the stream, or make one that makes it.
    """
    hidden = {space for space, kind in known.items() if kind is Kind.HIDDEN}
    ranks = set(_between_weights(model, known))
    of_hidden = [product for product in model.products if product.parameters]
    from_hidden = hidden.union(*(p.made & ranks for p in of_hidden if p.summed & hidden))
    to_hidden = hidden.union(*(p.summed & ranks for p in of_hidden if p.made & hidden))
    made: set[Space] = set()
    read: set[Space] = set()
    other: set[Space] = set()
    for product in model.products:
        summed, brought = product.summed, product.made
        if product.parameters:
            other |= product.weights - summed - brought
            from_stream = product.is_pointwise and not from_hidden.isdisjoint(summed)
            to_stream = product.is_pointwise and not to_hidden.isdisjoint(brought)
            (made if from_stream else other).update(brought)
            (read if to_stream else other).update(summed)
    yield from (made & read) - other


_RULES: tuple[tuple[Kind, Callable[[_Model, _Known], Iterable[Space]]], ...] = (
    (Kind.VOCABULARY, _looked_up),
    (Kind.EXPERTS, _chosen),
    (Kind.KV_HEADS, _shared_heads),
    (Kind.HEADS, _heads),
    (Kind.HEAD_DIMENSION, _inside_heads),
    (Kind.HIDDEN, _streams),
    (Kind.MLP_WIDTH, _between_streams),
    (Kind.RANK, _between_weights),
)
"""In order: the first that names a space decides."""
