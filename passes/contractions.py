"""What operators that contract arrays with one another do to axes: matmul, einsum, attention, RNNs.

Their arrays broadcast, their letters come with the call, or their parameters come as a list, so
they do not fit in one line of the operator table. A contraction is read at a parameter wherever
there is one, so that masking it is weight-sized work.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fxprune.ir import Node, ValueKind
from fxprune.passes.axes import Axis, concat, product
from fxprune.passes.facts import Inference, Reading
from fxprune.passes.structural import OutputTypes, Rule, broadcast


def matmul(state: Inference, node: Node) -> OutputTypes:
    """`torch.matmul`: vectors, matrices, and stacks of matrices that broadcast.

    Matrices may be transposed first (`transA`, `transB`).
    """
    left, right = _types(state, node)
    if not left or not right:
        return state.opaque(node, f"matmul of a scalar at {node.place}")
    left_dim, right_dim = len(left) - 1, max(len(right) - 2, 0)
    if node.attributes.get("transA") and len(left) > 1:
        left_dim -= 1
    if node.attributes.get("transB") and len(right) > 1:
        right_dim += 1
    inner, other = left[left_dim], right[right_dim]
    (rows, columns) = (
        tuple(axis for dim, axis in enumerate(axes) if dim >= len(axes) - 2 and dim != read)
        for axes, read in ((left, left_dim), (right, right_dim))
    )
    state.unify(inner, other, node)
    output = node.outputs[0].shape
    stacks = [types[:-2] for types in (left, right)]
    stack = broadcast(state, node, stacks, output[: max(map(len, stacks))])
    _read(state, node, ((0, left_dim), (1, right_dim)))
    state.contracted(node, (*stack, *rows, *columns, inner))
    return ((*stack, *rows, *columns),)


def gemm(state: Inference, node: Node) -> OutputTypes:
    """A product of two matrices, each as it is or transposed, plus an array stretched to it."""
    left, right, *added = _types(state, node)
    rows, inner = (1, 0) if node.attributes["transA"] else (0, 1)
    other, columns = (1, 0) if node.attributes["transB"] else (0, 1)
    state.unify(left[inner], right[other], node)
    _read(state, node, ((0, inner), (1, other)))
    state.contracted(node, (left[rows], right[columns], left[inner]))
    result = (left[rows], right[columns])
    return (broadcast(state, node, [result, *added], node.outputs[0].shape),)


def baddbmm(state: Inference, node: Node) -> OutputTypes:
    """A stack of products of matrices, added to an array that is stretched to it."""
    added, left, right = _types(state, node)
    shape = node.outputs[0].shape
    state.unify(left[2], right[1], node)
    (stack,) = broadcast(state, node, [left[:1], right[:1]], shape[:1])
    _read(state, node, ((1, 2), (2, 1)))
    state.contracted(node, (stack, left[1], right[2], left[2]))
    return (broadcast(state, node, [(stack, left[1], right[2]), added], shape),)


def grouped_mm(state: Inference, node: Node) -> OutputTypes:
    """Rows in runs, each run times its own matrix of a stack; the last operand says where runs end.

    So do mixtures of experts: the rows are the tokens that were sent to each expert. The kernel
    takes rows of a multiple of some length, also those of matrices that are kept by rows.
    """
    types = _types(state, node)
    if list(map(len, types)) != [2, 3, 1]:
        return state.opaque(node, f"runs of other than rows at {node.place}")
    (rows, inner), (matrices, other, columns), (ends,) = types
    state.unify(inner, other, node)
    state.unify(matrices, ends, node)
    state.pin(rows, f"put in runs in {node.place}")
    told = node.inputs[2]
    if told is None or told.name not in state.counts:
        state.pin(matrices, f"one for each run in {node.place}")
    for axis in (inner, columns if node.attributes.get("rowwise") else inner):
        state.keep_numbers(axis, f"rows of {node.place}", multiple=_int(node, "multiple"))
    _read(state, node, ((0, 1), (1, 1)))
    state.contracted(node, (rows, columns, inner))
    return ((rows, columns),)


def einsum(state: Inference, node: Node) -> OutputTypes:
    """`terms` holds the letters of every operand, `output` those of the result."""
    terms: Any = node.attributes["terms"]
    output: Any = node.attributes["output"]
    bound: dict[str, Axis] = {}
    places: dict[str, list[tuple[int, int]]] = {}
    operands = list(zip(terms, _types(state, node), strict=True))
    for letters, types in operands:
        for letter, axis in zip(letters, types, strict=True):
            if letter not in bound or bound[letter].size < axis.size:  # the others are stretched
                bound[letter] = axis
    for operand, (letters, types) in enumerate(operands):
        for dim, (letter, axis) in enumerate(zip(letters, types, strict=True)):
            if axis.size == bound[letter].size:
                state.unify(bound[letter], axis, node)
                places.setdefault(letter, []).append((operand, dim))
    for letter, found in places.items():
        if letter not in output:
            _read(state, node, found)
    if len(terms) > 1:
        state.contracted(node, tuple(bound.values()))
    return (tuple(bound[letter] for letter in output),)


def einsum_letters(
    equation: str, ranks: Sequence[int]
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Letters per operand, and those of the result.

    Axes that `...` stands for are numbered from the right.
    """
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = [_letters(term, rank) for term, rank in zip(left.split(","), ranks, strict=True)]
    longest = max((sum(letter.isdigit() for letter in term) for term in terms), default=0)
    if not arrow:
        once = {c for c in left if c.isalpha() and left.count(c) == 1}
        right = "..." + "".join(sorted(once)) if longest else "".join(sorted(once))
    return tuple(terms), _letters(right, longest + len(right.replace("...", "")))


def _letters(term: str, rank: int) -> tuple[str, ...]:
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return (*before, *(str(hidden - 1 - i) for i in range(hidden)), *after)


def cosine(state: Inference, node: Node) -> OutputTypes:
    """The cosine of two arrays along `dim`: a scaled contraction that reads both of them."""
    types = _types(state, node)
    dim = _int(node, "dim")
    rank = max(map(len, types))
    shape = list(node.outputs[0].shape)
    shape.insert(dim, max(axes[dim - rank].size for axes in types))
    axes = broadcast(state, node, types, shape)
    if any(own[dim - rank].size != shape[dim] for own in types):
        state.pin(axes[dim], f"stretched to in {node.place}")
    for operand, own in enumerate(types):
        _read(state, node, ((operand, len(own) - rank + dim),))
    return ((*axes[:dim], *axes[dim + 1 :]),)


def embedding_bag(state: Inference, node: Node) -> OutputTypes:
    """Rows of a table (the second operand), summed or averaged by bag."""
    bags, table = _types(state, node)[:2]
    state.pin(table[0], f"indexed by position in {node.place}")
    for axis in bags:
        state.pin(axis, f"put in bags by {node.place}")
    count = state.fresh(node.outputs[0].shape[0], pin=f"bags of {node.place}")
    return ((count, table[1]),)


def attention(state: Inference, node: Node) -> OutputTypes:
    """softmax(q k^T) v over the last two axes; the others are stacked, or grouped heads (`gqa`).

    What is attended to is compared with one another, so it is pinned. The scale stays that of the
    original model.
    """
    query, key, value, *masks = _types(state, node)
    if node.attributes.get("gqa"):
        repeats = state.fresh(query[-3].size // key[-3].size)
        state.unify(query[-3], product(key[-3], repeats), node)
        state.unify(key[-3], value[-3], node)
        key = (*key[:-3], query[-3], *key[-2:])
        value = (*value[:-3], query[-3], *value[-2:])
    rows, attended, features = query[-2], key[-2], value[-1]
    state.unify(attended, value[-2], node)
    state.unify(query[-1], key[-1], node)
    shape = node.outputs[0].shape[:-2]
    stack = broadcast(state, node, [query[:-2], key[:-2], value[:-2]], shape)
    for mask in masks:
        whole = (*shape, rows.size, attended.size)
        broadcast(state, node, [mask, (*stack, rows, attended)], whole)
    state.pin(attended, f"compared in {node.place}")
    if node.attributes.get("causal"):
        state.pin(rows, f"compared in {node.place}")
    _read(state, node, ((0, len(query) - 1),))
    state.literal(node, ("scale", 0), query[-1], frozen=True)
    state.contracted(node, (*stack, rows, attended, query[-1]))
    state.contracted(node, (*stack, rows, attended, features))
    return ((*stack, rows, features),)


def heads_attention(state: Inference, node: Node) -> OutputTypes:
    """Attention whose heads and their features are one last axis of queries, keys and values."""
    (batch, rows, query), (_, attended, key), (_, _, value) = types = _types(state, node)
    heads = state.fresh(_int(node, "heads"))
    inner, features = (state.fresh(axis.size // heads.size) for axis in (query, value))
    for axis, own in ((query, inner), (key, inner), (value, features)):
        state.unify(axis, product(heads, own), node)
    for axes in types[1:]:
        state.unify(batch, axes[0], node)
    state.unify(attended, types[2][1], node)
    state.pin(attended, f"compared in {node.place}")
    _read(state, node, ((0, 2),))
    state.literal(node, ("num_heads", 0), heads)
    state.literal(node, ("scale", 0), inner, frozen=True)
    state.contracted(node, (batch, rows, attended, heads, inner))
    state.contracted(node, (batch, rows, attended, heads, features))
    return ((batch, rows, value),)


def recurrent(state: Inference, node: Node) -> OutputTypes:
    """LSTM, GRU and RNN: input, `states` initial states, then the weights layer by layer.

    All layers share their hidden units, because their states are stacked in one array. `gates` is
    the number of arrays that one weight stacks.
    """
    states, biases, directions, time = (
        _int(node, name) for name in ("states", "biases", "directions", "time")
    )
    sequence, *rest = _types(state, node)
    hidden = rest[0][-1]
    per_cell = 4 if biases else 2
    weights = rest[states:]
    if len(weights) % (per_cell * directions):
        return state.opaque(node, f"projected states of {node.place}")
    layer_input = sequence[-1]
    state.pin(sequence[time], f"walked through by {node.place}")
    for start in range(0, len(weights), per_cell * directions):
        for cell in range(start, start + per_cell * directions, per_cell):
            _cell(state, node, (*sequence[:-1], layer_input), hidden, 1 + states + cell, per_cell)
        layer_input = concat(*(hidden,) * directions)
    for initial in rest[:states]:
        state.unify(initial[-1], hidden, node)
        if len(sequence) == 3:  # else no batch
            state.unify(initial[1], sequence[1 - time], node)
        state.pin(initial[0], f"layers of {node.place}")
    return ((*sequence[:-1], layer_input), *((*initial,) for initial in rest[:states]))


def recurrent_layer(state: Inference, node: Node) -> OutputTypes:
    """One recurrent layer, its directions stacked: sequence, weights of input and state, biases,
    lengths, initial states, peepholes. A weight stacks `gates` arrays; a bias those of both.
    """
    values = [*node.inputs, *(None,) * (8 - len(node.inputs))]
    types = [None if value is None else state.type_of(value) for value in values]
    sequence, rows, recurrent_rows, bias, lengths, *states, peepholes = types
    assert sequence is not None and rows is not None and recurrent_rows is not None
    time, batch, features = sequence
    directions, hidden, gates = rows[0], recurrent_rows[2], _int(node, "gates")

    for axes, count in ((rows, gates), (recurrent_rows, gates), (bias, 2 * gates), (peepholes, 3)):
        if axes is not None:
            stacked = product(state.fresh(count, pin=f"gates of {node.place}"), hidden)
            state.unify(axes[1], stacked, node)
            state.unify(axes[0], directions, node)
    state.unify(rows[2], features, node)
    for axes in filter(None, states):
        for axis, other in zip(axes, (directions, batch, hidden), strict=True):
            state.unify(axis, other, node)
    if lengths:
        state.unify(lengths[0], batch, node)
    state.pin(time, f"walked through by {node.place}")
    state.pin(directions, f"directions of {node.place}")
    state.literal(node, ("hidden_size", 0), hidden)
    for operand, axis in ((1, features), (2, hidden)):
        _read(state, node, ((operand, 2),))
        state.contracted(node, (time, batch, directions, rows[1], axis))
    final = (directions, batch, hidden)
    return ((time, *final), final, final)[: len(node.outputs)]


def recurrent_cell(state: Inference, node: Node) -> OutputTypes:
    """One step of an RNN: input, `states` states, the weights of both, then their biases."""
    states = _int(node, "states")
    step, *rest = _types(state, node)
    hidden = rest[0][-1]
    _cell(state, node, step, hidden, 1 + states, len(rest) - states)
    for initial in rest[:states]:
        for axis, other in zip(initial, (*step[:-1], hidden), strict=True):
            state.unify(axis, other, node)
    return ((*step[:-1], hidden),) * len(node.outputs)


def _cell(
    state: Inference,
    node: Node,
    step: tuple[Axis, ...],
    hidden: Axis,
    first: int,
    count: int,
) -> None:
    """The `count` operands from `first` on: the weights of input and state, then their biases."""
    own = _types(state, node)[first : first + count]
    for rows, *_ in own:
        stacked = state.fresh(_int(node, "gates"), pin=f"gates of {node.place}")
        state.unify(rows, product(stacked, hidden), node)
    for offset, read in enumerate((step[-1], hidden)):
        state.unify(own[offset][1], read, node)
        _read(state, node, ((first + offset, 1),))
        state.contracted(node, (*step[:-1], own[offset][0], read))


def weight_norm(state: Inference, node: Node) -> OutputTypes:
    """Every slice along `dim` is scaled to a length, so the other axes are contracted."""
    dim = _int(node, "dim")
    weight, length = _types(state, node)
    if length:
        state.unify(weight[dim], length[dim], node)
    for other in range(len(weight)):
        if other != dim or not length:
            _read(state, node, ((0, other),))
    return (weight,)


def _read(state: Inference, node: Node, places: Sequence[tuple[int, int]]) -> None:
    """A contraction is read at one place: at a parameter if there is one, else at the last."""

    def rank(place: tuple[int, int]) -> tuple[bool, int]:
        value = node.inputs[place[0]]
        return value is not None and value.kind is ValueKind.PARAMETER, place[0]

    state.multiplied.extend((node.name, operand) for operand, _ in places)
    operand, dim = max(places, key=rank)
    value = node.inputs[operand]
    if value is not None and value.shape[dim] > 1:
        state.read(node, operand, dim, Reading.CONTRACT)


def _types(state: Inference, node: Node) -> list[tuple[Axis, ...]]:
    return [state.type_of(value) for value in node.inputs if value is not None]


def _int(node: Node, name: str) -> int:
    value = node.attributes[name]
    assert isinstance(value, int)
    return value


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "matmul": matmul,
        "gemm": gemm,
        "baddbmm": baddbmm,
        "grouped_mm": grouped_mm,
        "einsum": einsum,
        "cosine": cosine,
        "embedding_bag": embedding_bag,
        "attention": attention,
        "heads_attention": heads_attention,
        "recurrent": recurrent,
        "recurrent_layer": recurrent_layer,
        "recurrent_cell": recurrent_cell,
        "weight_norm": weight_norm,
    }
)
"""The rules for contractions, by operator name."""
