"""How much do positions matter by the weights around them? The same for torch and for ONNX files.

    sums    for every space a number per position: what makes it, makes or reads it, or scales it
    ranks   sums divided within their group, so that groups compare, and numbers of branches

Weights are measured in doubles, a piece at a time, so that this takes little memory beside the
model. What is not finite counts as nothing, for its own position and all others.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from fxprune.errors import InputError
from fxprune.ir import Value
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

_PIECE = 1 << 17
"""How many elements are measured at once: what fits in a cache."""
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
    sizes = np.abs(array)
    if sizes.max(initial=0.0) < _ENDLESS:
        return array
    return np.where(sizes < _ENDLESS, array, 0.0)


def measured(
    weight: Callable[[Part], np.ndarray],
    shape: tuple[int, ...],
    dims: tuple[int, ...],
    measure: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """For each of some axes of a parameter the sums of a measure over all others."""
    totals = [np.zeros(shape[dim]) for dim in dims]
    for part in parts_of(shape):
        piece = measure(finite(weight(part)))
        for dim, total in zip(dims, totals, strict=True):
            total[part[dim] if dim < len(part) else slice(None)] += along(piece, dim)
    return totals


def parts_of(shape: tuple[int, ...]) -> Iterator[Part]:
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
    """Every reader with the array that comes in, and the weights that it contracts.

    Weights are a parameter, or what is computed from parameters alone.
    """
    nodes = {node.name: node for node in analysis.graph.nodes}
    given = {value.name for value in analysis.graph.parameters}
    for node in analysis.graph.nodes:
        if all(value is None or value.name in given for value in node.inputs):
            given.update(value.name for value in node.outputs)
    for reader in analysis.types.readers:
        inputs = nodes[reader.node].inputs
        arrays = [v for v in inputs if v is not None and v.name not in given]
        operand = inputs[reader.operand]
        is_weight = operand is not None and operand.name in given
        yield arrays[0] if arrays else None, operand if is_weight else None, reader


def change(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """The mean square difference of outputs, relative to their mean squares.

    >>> change([np.array([3.0, 4.0])], [np.array([3.0, -1.0])])
    1.0
    """
    total = 0.0
    for old, new in zip(before, after, strict=True):
        if old.shape == new.shape:  # else the data decides on it
            seen = np.isfinite(old) & np.isfinite(new)
            known = old[seen].astype(float)
            square = max(float(np.square(known).sum()), 1e-300)
            total += float(np.square(new[seen] - known).sum()) / square
    return total


# Ranks


@dataclass(frozen=True, slots=True)
class Scores:
    """What a criterion says: numbers for the positions of groups, and one for every branch.

    It may leave out groups and branches.
    """

    groups: Sums
    branches: Mapping[str, float] = field(default_factory=dict)


def ranks(
    analysis: Analysis,
    layout: Layout,
    scores: Scores,
    method: str,
    by_weights: Callable[[], Sums],
    over: Callable[[np.ndarray], np.floating] = np.max,
) -> np.ndarray:
    """What positions rank, in the order of `layout`.

    Scores are divided by what is `over` the magnitudes of their group, those of branches by their
    mean; what is left out is filled in as `completed` does.

    Raises:
        InputError: there are groups, but scores of nothing; `method` is what found them.
    """
    found = {space: np.where(np.isfinite(own), own, 0.0) for space, own in scores.groups.items()}
    known = {g.name: found[g.space] for g in analysis.free_groups if g.space in found}
    ranked = {name: _divided(numbers, over(np.abs(numbers))) for name, numbers in known.items()}
    depth = np.array(list(scores.branches.values()), float)
    mean = depth.mean() if len(depth) else 0.0
    ranked.update((name, _divided(np.array([x]), mean)) for name, x in scores.branches.items())
    if layout.groups and not ranked:
        raise InputError(f"{method} finds nothing to rank by in this model")
    return completed(analysis, layout, ranked, by_weights)


def completed(
    analysis: Analysis,
    layout: Layout,
    ranked: Mapping[str, np.ndarray],
    by_weights: Callable[[], Sums],
) -> np.ndarray:
    """Ranks of all positions, in the order of `layout`, from those of some groups and branches.

    A group that is left out has its positions in the order of `by_weights`, spread evenly over the
    ranks of the others, so that it loses the share that they lose together. Branches of which
    nothing is known close last; so do groups where only branches are known.
    """
    names = layout.names[: layout.groups]
    known = [ranked[name] for name in names if name in ranked]
    depth = [ranked[name] for name in layout.names[layout.groups :] if name in ranked]
    others = np.concatenate([np.zeros(0), *known])
    others = others[np.isfinite(others)]
    last = 1.0 + max((float(own.max()) for own in (*known, *depth)), default=0.0)
    weights = by_weights() if len(known) < len(names) else {}

    def left_out(space: Space) -> np.ndarray:
        numbers = weights.get(space, np.zeros(space.size))
        if len(others):
            return spread_over(others, numbers)
        return last + _divided(numbers, numbers.max())

    spaces_of = {group.name: group.space for group in analysis.free_groups}
    groups = [ranked[n] if n in ranked else left_out(spaces_of[n]) for n in names]
    ends = [ranked.get(name, np.array([last])) for name in layout.names[layout.groups :]]
    return np.concatenate([np.zeros(0), *groups, *ends])


def spread_over(others: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The quantiles of `others`, in the order of some numbers, one for each.

    >>> spread_over(np.array([0.0, 10.0]), np.array([7, 5]))
    array([7.5, 2.5])
    """
    order = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
    quantiles: np.ndarray = np.quantile(others, (order + 0.5) / max(len(numbers), 1))
    return quantiles


def _divided(numbers: np.ndarray, divisor: float | np.floating) -> np.ndarray:
    divided: np.ndarray = numbers / divisor if divisor > 0 else numbers
    return divided
