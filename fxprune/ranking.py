"""How much do positions matter by the weights around them? The same for torch and for ONNX files.

    sums    for every space a number per position: what makes it, makes or reads it, or scales it
    ranks   sums divided within their group, so that groups compare; branches rank above all

Weights are measured in doubles, a piece at a time, so that this takes little memory beside the
model. What is not finite counts as nothing, for its own position and all others.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from fxprune.errors import InputError
from fxprune.ir import Value, ValueKind
from fxprune.layout import Layout
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Prod, Space, spaces
from fxprune.passes.facts import Reader
from fxprune.passes.makers import find_makers
from fxprune.passes.operators import factor_of

Sums = dict[Space, np.ndarray]
"""A number for every position of a space."""

Part = tuple[slice, ...]
WeightOf = Callable[[str], Callable[[Part], np.ndarray]]
"""From the name of a parameter to what gives parts of it, as doubles."""

_PIECE = 1 << 20
"""How many elements are measured at once."""
_ENDLESS = 1e30
"""What is larger stands for infinity, as in masks."""


# Sums


def spread(axis: Axis, numbers: np.ndarray, sums: Sums) -> None:
    """Add what belongs to positions of an axis to the spaces that it is made of."""
    if isinstance(axis, Space):
        sums[axis] = sums.get(axis, 0.0) + numbers
    elif isinstance(axis, Prod):
        grid = numbers.reshape([factor.size for factor in axis.factors])
        for dim, factor in enumerate(axis.factors):
            spread(factor, along(grid, dim), sums)
    else:
        start = 0
        for part in axis.parts:
            spread(part, numbers[start : start + part.size], sums)
            start += part.size


def along(array: np.ndarray, dim: int) -> np.ndarray:
    """Sums over all other axes."""
    sums: np.ndarray = array.sum(tuple(other for other in range(array.ndim) if other != dim))
    return sums


def finite(array: np.ndarray) -> np.ndarray:
    """An array with zeros for what is no number, or endless."""
    return np.where(np.abs(array) < _ENDLESS, array, 0.0)


def measured(
    weight: Callable[[Part], np.ndarray],
    shape: tuple[int, ...],
    dims: tuple[int, ...],
    measure: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """For each of some axes of a parameter the sums of a measure over all others."""
    totals = [np.zeros(shape[dim]) for dim in dims]
    for part in _parts(shape):
        piece = measure(finite(weight(part)))
        for dim, total in zip(dims, totals, strict=True):
            total[part[dim] if dim < len(part) else slice(None)] += along(piece, dim)
    return totals


def _parts(shape: tuple[int, ...]) -> Iterator[Part]:
    """Parts of an array that are no larger than a piece, if cuts along one axis can do that."""
    longest = max(range(len(shape)), key=shape.__getitem__)
    step = max(_PIECE * shape[longest] // max(math.prod(shape), 1), 1)
    before = (slice(None),) * longest
    for start in range(0, shape[longest], step):
        yield (*before, slice(start, start + step))


# Norms of weights


def magnitude(analysis: Analysis, weight_of: WeightOf) -> Sums:
    """The L1 norms of the weights that make positions."""
    makers = find_makers(analysis.graph, analysis.types)
    free = {group.space for group in analysis.free_groups}
    wanted = {twin: space for twin, space in makers.made.items() if space in free}
    return _norms(analysis, weight_of, np.abs, makers.axes, wanted)


def group_norm(analysis: Analysis, weight_of: WeightOf) -> Sums:
    """The squared L2 norms of all weights that make, shift, scale or read positions."""
    wanted = {group.space: group.space for group in analysis.free_groups}
    return _norms(analysis, weight_of, np.square, analysis.types.axes, wanted)


def norm_scale(analysis: Analysis, weight_of: WeightOf) -> Sums:
    """The absolute factors of normalisations."""
    factors = {
        value.name
        for node in analysis.graph.nodes
        if (place := factor_of(node.op)) is not None and place < len(node.inputs)
        if (value := node.inputs[place]) is not None
    }
    axes = {name: own for name, own in analysis.types.axes.items() if name in factors}
    wanted = {group.space: group.space for group in analysis.free_groups}
    return _norms(analysis, weight_of, np.abs, axes, wanted)


NORMS: Mapping[str, Callable[[Analysis, WeightOf], Sums]] = MappingProxyType(
    {"magnitude": magnitude, "group_norm": group_norm, "bn_scale": norm_scale}
)
"""What weights alone say, by the name of the method."""


def _norms(
    analysis: Analysis,
    weight_of: WeightOf,
    measure: Callable[[np.ndarray], np.ndarray],
    axes: Mapping[str, tuple[Axis, ...]],
    wanted: Mapping[Space, Space],
) -> Sums:
    """Sums over trained parameters, for the `wanted` spaces of their axes, by what these are."""
    sums: Sums = {}
    for parameter in analysis.graph.parameters:
        own = axes.get(parameter.name, ()) if parameter.trained else ()
        dims = tuple(d for d, axis in enumerate(own) if not wanted.keys().isdisjoint(spaces(axis)))
        if not dims:
            continue
        found: Sums = {}
        totals = measured(weight_of(parameter.name), parameter.shape, dims, measure)
        for dim, total in zip(dims, totals, strict=True):
            spread(own[dim], total, found)
        for space, numbers in found.items():
            if space in wanted:
                sums[wanted[space]] = sums.get(wanted[space], 0.0) + numbers
    return sums


def readers(analysis: Analysis) -> Iterator[tuple[Value | None, Value | None, Reader]]:
    """Every reader with the array that comes in, and the parameter that it contracts."""
    nodes = {node.name: node for node in analysis.graph.nodes}
    for reader in analysis.types.readers:
        inputs = nodes[reader.node].inputs
        arrays = [v for v in inputs if v is not None and v.kind is not ValueKind.PARAMETER]
        operand = inputs[reader.operand]
        parameter = operand is not None and operand.kind is ValueKind.PARAMETER
        yield arrays[0] if arrays else None, operand if parameter else None, reader


# Ranks


def ranks(
    analysis: Analysis,
    layout: Layout,
    sums: Sums,
    method: str,
    over: Callable[[np.ndarray], np.floating] = np.max,
) -> np.ndarray:
    """What positions rank, in the order of `layout`: sums divided by what is `over` their group.

    Groups of which nothing is known rank zero. Nothing is known of branches; they close last.

    Raises:
        InputError: there are groups, but sums of none; `method` is what found them.
    """
    groups = [group.space for group in analysis.free_groups]
    if groups and not any(space in sums for space in groups):
        raise InputError(f'method="{method}" finds nothing to rank by in this model')
    known = [_divided(sums.get(space, np.zeros(space.size)), over) for space in groups]
    found = np.concatenate([np.zeros(0), *known])
    branches = np.full(layout.total - len(found), 1.0 + found.max(initial=0.0))
    return np.concatenate([found, branches])


def _divided(numbers: np.ndarray, over: Callable[[np.ndarray], np.floating]) -> np.ndarray:
    known = np.where(np.isfinite(numbers), numbers, 0.0)
    divisor = float(over(known))
    divided: np.ndarray = known / divisor if divisor > 0 else known
    return divided
