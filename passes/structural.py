"""What operators that only move, combine or reduce positions do to axes: one short rule each.

These depend on shapes and literals, so they do not fit in one line of the operator table. A rule
gets the inference state and a node and returns the axes of its outputs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fxprune.ir import Node, Value, ValueKind
from fxprune.passes.axes import Axis, concat, product
from fxprune.passes.facts import Inference, Reading
from fxprune.passes.kinds import SHARING, VIEWS

OutputTypes = tuple[tuple[Axis, ...], ...]
Rule = Callable[[Inference, Node], OutputTypes]


def elementwise(state: Inference, node: Node) -> OutputTypes:
    """Operands broadcast from the right; axes that are not stretched are equal."""
    types = [state.type_of(value) for value in node.inputs if value]
    return (broadcast(state, node, types, node.outputs[0].shape),)


def add(state: Inference, node: Node) -> OutputTypes:
    """As element-wise; an operand that is scattered has channels of its own.

    Then the sum keeps all of its own, and reads that operand along them.
    """
    operands = [value for value in node.inputs if value]
    scattered = [i for i in range(len(operands)) if (node.name, i) in state.scattered]
    whole = [state.type_of(v) for i, v in enumerate(operands) if i not in scattered]
    axes = broadcast(state, node, whole, node.outputs[0].shape)
    for operand in scattered:
        own = state.type_of(operands[operand])
        free = [dim for dim, axis in enumerate(own) if axis.size > 1 and state.may_change(axis)]
        scatter(state, node, operand, axes, free[0] if len(free) == 1 else None)
    return (axes,)


def scatter(
    state: Inference, node: Node, operand: int, axes: tuple[Axis, ...], along: int | None
) -> None:
    """Axes of an operand are those that it is added to, but `along` one those may be wider."""
    value = node.inputs[operand]
    assert value is not None
    for dim, (own, axis) in enumerate(zip(state.type_of(value), axes, strict=True)):
        if dim != along:
            state.unify(axis, own, node)
            continue
        state.pin(axis, f"written in part by {node.place}")
        state.read(node, operand, dim, Reading.SCATTER)


def index_add(state: Inference, node: Node) -> OutputTypes:
    """Operand 2 is added where operand 1 says along `dim`; an index the model owns is sliced."""
    (dim,) = ints(node, "dim")
    whole, index, part = node.inputs
    assert whole is not None and index is not None and part is not None
    axes, own = state.type_of(whole), state.type_of(part)
    state.unify(state.type_of(index)[0], own[dim], node)
    if index.kind is not ValueKind.PARAMETER:
        state.pin(own[dim], f"written where {node.place} computes")
    scatter(state, node, 2, axes, dim)
    return (axes,)


def broadcast(
    state: Inference, node: Node, operands: Sequence[tuple[Axis, ...]], shape: Sequence[int]
) -> tuple[Axis, ...]:
    """The axes of operands stretched to `shape`, aligned from the right."""
    axes: list[Axis | None] = [None] * len(shape)
    for types in operands:
        for offset, axis in enumerate(reversed(types), start=1):
            if axis.size != shape[-offset]:
                continue
            known = axes[-offset]
            if known is None:
                axes[-offset] = axis
            else:
                state.unify(known, axis, node)
    return tuple(axis or state.fresh(1) for axis in axes)


def broadcast_all(state: Inference, node: Node) -> OutputTypes:
    """Every operand is stretched to the shape that an element-wise operator would return."""
    return elementwise(state, node) * len(node.outputs)


def reshape(state: Inference, node: Node) -> OutputTypes:
    """Input and output axes are grouped by equal cumulative size; groups are equal products."""
    value, output = operand_of(node), node.outputs[0]
    if 0 in output.shape:
        return state.opaque(node, f"no elements in {node.place}")
    axes: list[Axis] = []
    for left, sizes in _regroup(state.type_of(value), output.shape):
        if len(sizes) == 1:
            axes.append(product(*left))
            continue
        right = [state.fresh(size) for size in sizes]
        state.unify(product(*left), product(*right), node)
        axes.extend(right)
    for dim, axis in enumerate(axes):
        state.literal(node, ("shape", dim), axis)
    _follow_shape(state, node, axes)
    return (tuple(axes),)


def _follow_shape(state: Inference, node: Node, axes: Sequence[Axis]) -> None:
    """Where a second operand says which shape the result has, both have the same axes."""
    for other in filter(None, node.inputs[1:]):
        for left, right in zip(axes, state.type_of(other), strict=True):
            state.unify(left, right, node)


def _regroup(
    axes: Sequence[Axis], shape: Sequence[int]
) -> list[tuple[tuple[Axis, ...], tuple[int, ...]]]:
    """Cut two shapes of equal size into the shortest runs of equal size.

    Axes of one position carry nothing: on the left they are dropped, on the right they stand
    alone.
    """
    if 0 in shape or any(axis.size == 0 for axis in axes):
        return [(tuple(axes), tuple(shape))]
    left = [axis for axis in axes if axis.size != 1]
    groups: list[tuple[tuple[Axis, ...], tuple[int, ...]]] = []
    right: list[int] = []
    taken = 0
    for size in shape:
        if size == 1 and not right:
            groups.append(((), (1,)))
            continue
        right.append(size)
        total = math.prod(right)
        run, count = 1, taken
        while count < len(left) and run < total:
            run *= left[count].size
            count += 1
        if run == total:
            groups.append((tuple(left[taken:count]), tuple(right)))
            taken, right = count, []
    return groups


def permute(state: Inference, node: Node) -> OutputTypes:
    """Output axis `i` is input axis `order[i]`."""
    axes = state.type_of(operand_of(node))
    return (tuple(axes[dim] for dim in ints(node, "order")),)


def identity(state: Inference, node: Node) -> OutputTypes:
    """The output is the input: clone, contiguous, dropout, type casts."""
    return (state.type_of(operand_of(node)),)


def cat(state: Inference, node: Node) -> OutputTypes:
    """Along `dim` the operands are concatenated; other axes are equal."""
    (dim,) = ints(node, "dim")
    types = [state.type_of(value) for value in node.inputs if value and math.prod(value.shape)]
    first, *others = types
    for other in others:
        for index, (left, right) in enumerate(zip(first, other, strict=True)):
            if index != dim:
                state.unify(left, right, node)
    joined = concat(*(axes[dim] for axes in types))
    return ((*first[:dim], joined, *first[dim + 1 :]),)


def stack(state: Inference, node: Node) -> OutputTypes:
    """All axes are equal; a new one, pinned, counts the operands."""
    (dim,) = ints(node, "dim")
    first, *others = [state.type_of(value) for value in node.inputs if value]
    for other in others:
        for left, right in zip(first, other, strict=True):
            state.unify(left, right, node)
    new = state.fresh(len(others) + 1, pin=f"counts operands of {node.place}")
    return ((*first[:dim], new, *first[dim:]),)


def split(state: Inference, node: Node) -> OutputTypes:
    """Consecutive pieces along `dim`; their sizes are literals."""
    (dim,) = ints(node, "dim")
    axes = state.type_of(operand_of(node))
    pieces = state.cut(axes[dim], [output.shape[dim] for output in node.outputs])
    outputs = []
    for index, piece in enumerate(pieces):
        state.literal(node, ("sizes", index), piece)
        outputs.append((*axes[:dim], piece, *axes[dim + 1 :]))
    return tuple(outputs)


def follow_rows(state: Inference, node: Node) -> None:
    """What is cut out of an array lies in the rows of that one, which other views stay in."""
    source = node.inputs[0] if node.inputs else None
    if source is None or not source.shape or node.op not in SHARING:
        return
    rows = state.rows.get(source.name)
    if rows is None and node.op not in VIEWS:
        rows = state.type_of(source)[-1]
    if rows is not None:
        state.rows.update((output.name, rows) for output in node.outputs)


def complex_pairs(state: Inference, node: Node) -> OutputTypes:
    """Pairs of neighbours are seen as complex numbers, so that rows in memory are of pairs."""
    rows = state.rows.get(operand_of(node).name)
    if rows is not None:
        state.keep_numbers(rows, f"rows of pairs in {node.place}", multiple=2)
    return state.opaque(node, f"seen as complex numbers by {node.place}")


def glu(state: Inference, node: Node) -> OutputTypes:
    """Along `dim` the second half gates the first: both halves are one axis."""
    (dim,) = ints(node, "dim")
    axes = state.type_of(operand_of(node))
    left, right = state.split(axes[dim], axes[dim].size // 2)
    state.unify(left, right, node)
    return ((*axes[:dim], left, *axes[dim + 1 :]),)


def prelu(state: Inference, node: Node) -> OutputTypes:
    """One slope for everything, or one per position of the second axis."""
    value, slope = node.inputs
    assert value is not None and slope is not None, node
    axes, (slopes,) = state.type_of(value), state.type_of(slope)
    if slopes.size > 1 and len(axes) > 1:
        state.unify(axes[1], slopes, node)
        state.literal(node, ("num_parameters", 0), slopes)
    return (axes,)


def quantise(state: Inference, node: Node) -> OutputTypes:
    """One scale and zero point for everything, or one per position of `dim`."""
    (dim,) = ints(node, "dim")
    axes, *scales = (state.type_of(value) for value in node.inputs if value)
    for scale in scales:
        if len(scale) > 1:
            return state.opaque(node, f"scaled in blocks by {node.place}")
        if scale and scale[0].size > 1:
            state.unify(axes[dim], scale[0], node)
    return (axes,)


def pad(state: Inference, node: Node) -> OutputTypes:
    """`widths[dim] = (before, after)`; constant padding adds positions, other modes pin."""
    axes: list[Axis] = []
    widths: Any = node.attributes["widths"]
    for dim, (axis, (before, after)) in enumerate(
        zip(state.type_of(operand_of(node)), widths, strict=True)
    ):
        if not before and not after:
            axes.append(axis)
            continue
        if before < 0 or after < 0 or not node.attributes.get("constant", False):
            reason = f"padded from its own positions in {node.place}"
            state.pin(axis, reason)
            axes.append(state.fresh(axis.size + before + after, pin=reason))
            continue
        ends = state.fresh(before), state.fresh(after)
        state.literal(node, ("before", dim), ends[0])
        state.literal(node, ("after", dim), ends[1])
        axes.append(concat(ends[0], axis, ends[1]))
    return (tuple(axes),)


def expand(state: Inference, node: Node) -> OutputTypes:
    """Axes of one position are repeated; the others are kept."""
    axes, output = state.type_of(operand_of(node)), node.outputs[0]
    missing = len(output.shape) - len(axes)
    result: list[Axis] = []
    for dim, size in enumerate(output.shape):
        axis = axes[dim - missing] if dim >= missing else None
        result.append(axis if axis and axis.size == size else state.fresh(size))
        state.literal(node, ("shape", dim), result[-1])
    _follow_shape(state, node, result)
    return (tuple(result),)


def tile(state: Inference, node: Node) -> OutputTypes:
    """Axis `dim` is repeated `repeats[dim]` times as a whole."""
    axes, output = state.type_of(operand_of(node)), node.outputs[0]
    missing = len(output.shape) - len(axes)
    result: list[Axis] = []
    for dim, repeats in enumerate(ints(node, "repeats")):
        new = state.fresh(repeats, pin=f"repeats of {node.place}")
        result.append(product(new, axes[dim - missing]) if dim >= missing else new)
    return (tuple(result),)


def repeat_interleave(state: Inference, node: Node) -> OutputTypes:
    """Every position of axis `dim` is repeated `repeats` times in a row."""
    if "dim" not in node.attributes:
        return state.opaque(node, f"repeated by number in {node.place}")
    (dim,), (repeats,) = ints(node, "dim"), ints(node, "repeats")
    axes = state.type_of(operand_of(node))
    new = state.fresh(repeats, pin=f"repeats of {node.place}")
    return ((*axes[:dim], product(axes[dim], new), *axes[dim + 1 :]),)


def reduce(state: Inference, node: Node) -> OutputTypes:
    """Axes `dims` are reduced. `reading` says how; without it they are pinned."""
    axes, dims = state.type_of(operand_of(node)), ints(node, "dims")
    reading = node.attributes.get("reading")
    for dim in dims:
        if reading is None:
            state.pin(axes[dim], f"reduced by {node.place}")
        elif axes[dim].size > 1:
            state.read(node, 0, dim, Reading(reading))
    kept = tuple(
        state.fresh(1) if dim in dims else axis
        for dim, axis in enumerate(axes)
        if dim not in dims or node.attributes.get("keepdim")
    )
    return (kept,) * len(node.outputs)


def along(state: Inference, node: Node) -> OutputTypes:
    """Positions of `dims` are compared or mixed (softmax, cumsum, roll): these are pinned."""
    axes = state.type_of(operand_of(node))
    for dim in ints(node, "dims"):
        state.pin(axes[dim], f"compared or mixed along in {node.place}")
    return tuple(axes for _ in node.outputs)


def size(state: Inference, node: Node) -> OutputTypes:
    """The model asks for a size: it is told the original one for ever."""
    for dim, axis in enumerate(state.type_of(operand_of(node))):
        state.literal(node, ("value", dim), axis, frozen=True)
    return ()


def fill(state: Inference, node: Node) -> OutputTypes:
    """An array of one value: its sizes are whatever its readers need."""
    axes = tuple(map(state.fresh, node.outputs[0].shape))
    for dim, axis in enumerate(axes):
        state.literal(node, ("shape", dim), axis)
    return (axes,)


def constant(state: Inference, node: Node) -> OutputTypes:
    """An array made from literals: pinned."""
    return tuple(
        tuple(state.fresh(n, pin=f"made by {node.place}") for n in output.shape)
        for output in node.outputs
    )


def operand_of(node: Node) -> Value:
    """The first operand."""
    value = node.inputs[0]
    assert value is not None, node
    return value


def ints(node: Node, name: str) -> tuple[int, ...]:
    """An attribute as a tuple of non-negative dimensions."""
    value = node.attributes[name]
    return (value,) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type]


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "add": add,
        "index_add": index_add,
        "elementwise": elementwise,
        "broadcast_all": broadcast_all,
        "reshape": reshape,
        "permute": permute,
        "identity": identity,
        "cat": cat,
        "stack": stack,
        "split": split,
        "complex_pairs": complex_pairs,
        "glu": glu,
        "prelu": prelu,
        "quantise": quantise,
        "pad": pad,
        "expand": expand,
        "tile": tile,
        "repeat_interleave": repeat_interleave,
        "reduce": reduce,
        "along": along,
        "size": size,
        "fill": fill,
        "constant": constant,
    }
)
"""The structural rules, by operator name."""
