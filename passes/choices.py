"""What does a model choose among by itself, and where do the numbers of what it chose go?

    topk      scores: n e -> values: n k, numbers: n k      numbers are positions of e
    gather    stack: e i o, numbers -> n k i o              so its e is that of the scores
    histc     numbers -> counts: e, cumsum -> ends: e       of runs of equal numbers

A router chooses experts so. A closed position is never chosen, nor is it counted in the softmax
that makes scores. Numbers of positions may go where they are followed; others pin what they number.
"""

from collections.abc import Mapping
from types import MappingProxyType

from fxprune.ir import Node, Value, ValueKind
from fxprune.passes.axes import spaces
from fxprune.passes.facts import Compared, Inference, Reading
from fxprune.passes.kinds import COPIES, SHARING
from fxprune.passes.structural import OutputTypes, Rule, ints, operand_of


def topk(state: Inference, node: Node) -> OutputTypes:
    """The `k` largest along `dim`, and their numbers; all or the smallest ones pin it."""
    (dim,), (k,) = ints(node, "dim"), ints(node, "k")
    axes = state.type_of(operand_of(node))
    if not node.attributes["largest"] or k >= axes[dim].size:
        return ranked(state, node)
    state.read(node, 0, dim, Reading.CHOOSE)
    state.keep_numbers(axes[dim], f"{k} are chosen by {node.place}", least=k)
    state.positions[node.outputs[1].name] = axes[dim]
    new = state.fresh(k, pin=f"put in order by {node.place}")
    return ((*axes[:dim], new, *axes[dim + 1 :]),) * 2


def ranked(state: Inference, node: Node) -> OutputTypes:
    """Positions along `dim` are put in order, all or the first ones (sort, topk)."""
    (dim,) = ints(node, "dim")
    axes, reason = state.type_of(operand_of(node)), f"put in order by {node.place}"
    state.pin(axes[dim], reason)
    new = state.fresh(node.outputs[0].shape[dim], pin=reason)
    return ((*axes[:dim], new, *axes[dim + 1 :]),) * len(node.outputs)


def softmax(state: Inference, node: Node) -> OutputTypes:
    """Positions along `dims` are compared: they are pinned, but where a model chooses among them.

    What that is only the whole graph tells: see `settle_comparisons`.
    """
    axes = state.type_of(operand_of(node))
    state.compared.extend(Compared(node, dim, axes[dim]) for dim in ints(node, "dims"))
    return (axes,)


def settle_comparisons(state: Inference) -> None:
    """Pin what is compared, or read it where it is what a model chooses among."""
    chosen = {
        space
        for reader in state.readers
        if reader.reading is Reading.CHOOSE
        for space in spaces(state.resolve(reader.axis))
    }
    for compared in state.compared:
        if chosen.issuperset(spaces(state.resolve(compared.axis))):
            state.read(compared.node, 0, compared.dim, Reading.NORMALISE)
        else:
            state.pin(compared.axis, f"compared or mixed along in {compared.node.place}")


def gather(state: Inference, node: Node) -> OutputTypes:
    """Consecutive axes `dims` are indexed by arrays: what replaces them is pinned.

    So are they, but for one that is indexed by numbers of its own positions.
    """
    dims = ints(node, "dims")
    axes, output = state.type_of(operand_of(node)), node.outputs[0]
    reason = f"indexed by position in {node.place}"
    indices = [value for value in node.inputs[1:] if value is not None]
    known = state.positions.get(indices[0].name) if len(dims) == 1 else None
    for dim in dims:
        if known is not None and known.size == axes[dim].size:
            state.unify(known, axes[dim], node)
        else:
            state.pin(axes[dim], reason)
            _pin_numbered(state, indices, reason)
    for index in indices:
        for axis in state.type_of(index):
            state.pin(axis, reason)
            if index.kind is ValueKind.PARAMETER:  # a table of positions is no news to anybody
                state.positional.append(axis)
    first, new = dims[0], len(output.shape) - len(axes) + len(dims)
    inserted = tuple(state.fresh(n, pin=reason) for n in output.shape[first : first + new])
    return ((*axes[:first], *inserted, *axes[first + len(dims) :]),)


def take_along(state: Inference, node: Node) -> OutputTypes:
    """Axis `dim` is indexed by an array of the result's shape; the others are the same axes."""
    (dim,) = ints(node, "dim")
    source, numbers = (value for value in node.inputs if value)
    axes, index = state.type_of(source), state.type_of(numbers)
    known, reason = state.positions.get(numbers.name), f"indexed by position in {node.place}"
    if known is not None and known.size == axes[dim].size:
        state.unify(known, axes[dim], node)
        state.read(node, 0, dim, Reading.CONTRACT)  # it is never taken, but a gate learns so
    else:
        state.pin(axes[dim], reason)
        _pin_numbered(state, [numbers], reason)
    for other, (left, right) in enumerate(zip(axes, index, strict=True)):
        if other != dim and left.size == right.size:
            state.unify(left, right, node)
            continue
        if other != dim:
            state.pin(left, f"cut by the index of {node.place}")
        state.pin(right, f"cuts the input of {node.place}")
    return (index,)


def histc(state: Inference, node: Node) -> OutputTypes:
    """How often each number occurs; numbers of positions have one bin for each."""
    numbers, bins = operand_of(node), node.outputs[0].shape[0]
    known = state.positions.get(numbers.name)
    range_of_bins = (node.attributes["first"], node.attributes["last"])
    if known is None or known.size != bins or range_of_bins != (0, bins - 1):
        reason = f"bins of something else than positions in {node.place}"
        _pin_numbered(state, [numbers], reason)
        return state.opaque(node, reason)
    state.literal(node, ("bins", 0), known)
    state.counts.add(node.outputs[0].name)
    return ((known,),)


def cumsum(state: Inference, node: Node) -> OutputTypes:
    """Sums of all positions so far: those of counts stay what they are without empty ones."""
    value = operand_of(node)
    axes = state.type_of(value)
    if value.name in state.counts:
        state.counts.add(node.outputs[0].name)
        return (axes,)
    for dim in ints(node, "dims"):
        state.pin(axes[dim], f"compared or mixed along in {node.place}")
    return (axes,)


_CARRYING = SHARING | {"gather", "ranked"}
"""Operators that hand on numbers that their first operand has; `ranked` as its first result."""
_FOLLOWED: Mapping[str, int] = MappingProxyType({"gather": 1, "take_along": 1, "histc": 0})
"""Operators that look after numbers of positions themselves, and as which operand."""
_HARMLESS = frozenset({"size", "fill"})
"""Operators that look at the shape of an operand only."""


def follow_positions(state: Inference, node: Node) -> None:
    """Let results have numbers of positions where operands have; pin what unknown uses number."""
    first = node.inputs[0] if node.inputs else None
    if first is not None and first.name in state.counts and node.op in COPIES:
        state.counts.add(node.outputs[0].name)
    for operand, value in enumerate(node.inputs):
        if value is None or value.name not in state.positions:
            continue
        if _FOLLOWED.get(node.op) == operand or node.op in _HARMLESS:
            continue
        axis = state.positions[value.name]
        if node.op in _CARRYING and operand == 0:
            results = node.outputs[:1] if node.op == "ranked" else node.outputs
            state.positions.update((result.name, axis) for result in results)
        else:
            state.pin(axis, f"its positions are numbers in {node.place}")


def _pin_numbered(state: Inference, values: list[Value], reason: str) -> None:
    for value in values:
        if value.name in state.positions:
            state.pin(state.positions[value.name], reason)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "topk": topk,
        "ranked": ranked,
        "softmax": softmax,
        "gather": gather,
        "take_along": take_along,
        "histc": histc,
        "cumsum": cumsum,
    }
)
"""The rules for choices, by operator name."""
