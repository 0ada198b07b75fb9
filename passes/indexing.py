"""What operators that pick positions do to axes: slices, selections, windows.

Unit steps cut an axis; whoever picks positions by number or by an array pins it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fxprune.ir import Node
from fxprune.passes.axes import Axis, concat, product
from fxprune.passes.facts import Inference
from fxprune.passes.structural import OutputTypes, Rule, broadcast, ints, operand_of


def unbind(state: Inference, node: Node) -> OutputTypes:
    """One output per position of `dim`, which is pinned."""
    (dim,) = ints(node, "dim")
    axes = state.type_of(operand_of(node))
    state.pin(axes[dim], f"taken apart by position in {node.place}")
    return tuple((*axes[:dim], *axes[dim + 1 :]) for _ in node.outputs)


def slice_(state: Inference, node: Node) -> OutputTypes:
    """Per axis a `(start, stop, step)`; unit steps cut the axis.

    Every `step`-th position of all leaves one factor of the axis; other steps pin it.
    """
    return (_cut(state, node),)


def overwrite(state: Inference, node: Node) -> OutputTypes:
    """`x[ranges] = value`: the value is stretched to the part, and the rest stays.

    Axes `positions` are indexed by a number, so the value lacks them.
    """
    whole = state.type_of(operand_of(node))
    positions: Any = node.attributes.get("positions", ())
    for dim in positions:
        state.pin(whole[dim], f"indexed by position in {node.place}")
    part = tuple(axis for dim, axis in enumerate(_cut(state, node)) if dim not in positions)
    for value in node.inputs[1:]:
        if value is not None:
            sizes = [axis.size for axis in part]
            broadcast(state, node, [part, state.type_of(value)], sizes)
    return (whole,)


def _cut(state: Inference, node: Node) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    ranges: Any = node.attributes["ranges"]
    for dim, (axis, (start, stop, step)) in enumerate(
        zip(state.type_of(operand_of(node)), ranges, strict=True)
    ):
        size = len(range(start, stop, step))
        if step == 1:
            before, rest = state.split(axis, start if size else 0)
            middle, _ = state.split(rest, size)
            state.literal(node, ("size", dim), axis)  # which bounds counted from the end follow
            state.literal(node, ("start", dim), before)
            state.literal(node, ("stop", dim), concat(before, middle))
            axes.append(middle)
        elif size * step == axis.size and start < step and state.may_change(axis):
            every = state.fresh(size)
            between = state.fresh(step, pin=f"strided in {node.place}")
            state.unify(axis, product(every, between), node)
            state.literal(node, ("size", dim), axis)
            state.literal(node, ("stop", dim), axis)
            axes.append(every)
        else:
            state.pin(axis, f"strided in {node.place}")
            axes.append(state.fresh(size, pin=f"strided in {node.place}"))
    return tuple(axes)


def select(state: Inference, node: Node) -> OutputTypes:
    """One position of `dim` is taken; the axis disappears and is pinned."""
    (dim,) = ints(node, "dim")
    axes = state.type_of(operand_of(node))
    state.pin(axes[dim], f"indexed by position in {node.place}")
    return ((*axes[:dim], *axes[dim + 1 :]),)


def windows(state: Inference, node: Node) -> OutputTypes:
    """Axis `dim` becomes the number of windows; their positions are a new last axis."""
    (dim,) = ints(node, "dim")
    axes, shape = state.type_of(operand_of(node)), node.outputs[0].shape
    reason = f"taken in windows by {node.place}"
    state.pin(axes[dim], reason)
    count, inside = (state.fresh(shape[i], pin=reason) for i in (dim, -1))
    return ((*axes[:dim], count, *axes[dim + 1 :], inside),)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "unbind": unbind,
        "slice": slice_,
        "overwrite": overwrite,
        "select": select,
        "windows": windows,
    }
)
"""The rules that pick positions, by operator name."""
