"""Where gates stand in one flat vector, and what each of their positions stands for."""

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Space, Sum, evaluate
from fxprune.passes.facts import Numbers
from fxprune.passes.polynomials import Polynomial
from fxprune.passes.ties import steps_of
from fxprune.passes.whole_layers import lists_of_layers


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the positions of every gate stand in one flat vector.

    The first `groups` names are groups, the others branches (one position each, may close).
    `inside` are by gate the places of the groups that close with it, as nothing outside of it reads
    them. `fan_out` is in how many channels readers meet one of its positions: several readers, or a
    head of several channels; for a branch, those of all that is inside. `ties` are the places of
    groups that keep equal shares, in as many `steps`; `numbers` says how many positions of groups
    may stay. `lists` are the places of the layers of every list, and how many of these have to.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    groups: int
    inside: tuple[tuple[int, ...], ...]
    fan_out: tuple[int, ...]
    ties: tuple[tuple[int, ...], ...] = ()
    steps: tuple[int, ...] = ()
    numbers: tuple[Numbers, ...] = ()
    lists: tuple[tuple[tuple[int, ...], int], ...] = ()

    @property
    def total(self) -> int:
        """The length of the flat vector."""
        return sum(self.sizes)


def layout_of(analysis: Analysis) -> Layout:
    """The positions of all free groups, then those of all branches."""
    free = analysis.free_groups
    names = (*(g.name for g in free), *(b.name for b in analysis.branches))
    sizes = (*(g.size for g in free), *(1 for _ in analysis.branches))
    place_of = {name: place for place, name in enumerate(names)}
    closing = closing_with(analysis)
    inside = tuple(tuple(place_of[group] for group in closing.get(name, ())) for name in names)
    fan_out = _fan_out(analysis)
    for places in inside[len(free) :]:
        fan_out.append(sum(fan_out[place] * sizes[place] for place in places) or 1)
    ties = tuple(tuple(place_of[name] for name in tie.groups) for tie in analysis.ties)
    size_of = dict(zip(names, sizes, strict=True))
    steps = tuple(steps_of((size_of[n] for n in tie.groups), tie.steps) for tie in analysis.ties)
    numbers = tuple(group.numbers for group in free)
    of_lists = lists_of_layers(analysis).values()
    lists = tuple((tuple(place_of[n] for n in own.names), own.least) for own in of_lists)
    return Layout(names, sizes, len(free), inside, tuple(fan_out), ties, steps, numbers, lists)


def closing_with(analysis: Analysis) -> dict[str, tuple[str, ...]]:
    """For every branch the free groups that have no parameter left without it."""
    branches = frozenset(branch.name for branch in analysis.branches)
    around: dict[str, frozenset[str]] = {}
    parameters = analysis.costs.polynomials["params"]
    assert isinstance(parameters, Polynomial)
    for _, names in parameters.terms:
        for name in names:
            around[name] = around.get(name, branches) & frozenset(names)
    inside: dict[str, list[str]] = {branch.name: [] for branch in analysis.branches}
    for group in analysis.free_groups:
        for branch in around.get(group.name, ()):
            inside[branch].append(group.name)
    return {branch: tuple(names) for branch, names in inside.items()}


def _fan_out(analysis: Analysis) -> list[int]:
    """For every group in how many channels readers meet one of its positions."""
    types = analysis.types
    axes = {(reader.node, reader.operand, reader.dim): reader.axis for reader in types.readers}
    met: Counter[Space] = Counter()
    for axis in axes.values():
        for space, channels in _channels(axis, types.positional):
            met[space] += channels
    return [met[group.space] for group in analysis.free_groups]


def _channels(axis: Axis, positional: Collection[Space]) -> Iterator[tuple[Space, int]]:
    """For every leaf that is made of channels, how many of `axis` one of its positions is."""
    if isinstance(axis, Space):
        if axis not in positional:
            yield axis, 1
    elif isinstance(axis, Sum):
        for part in axis.parts:
            yield from _channels(part, positional)
    else:
        numbers = [
            evaluate(factor, lambda space: 1 if space in positional else space.size)
            for factor in axis.factors
        ]
        for place, factor in enumerate(axis.factors):
            others = math.prod(numbers[:place] + numbers[place + 1 :])
            yield from ((space, others * one) for space, one in _channels(factor, positional))
