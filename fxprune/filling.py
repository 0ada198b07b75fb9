"""Which positions stay open, so that limits on costs are met? Rank, and fill.

Positions are closed in the order of their rank until every cost is within its limit; what still
fits afterwards is opened again. Costs are exact, so limits are met to within one position: no gate
could open its best closed unit without breaking a limit.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fxprune.errors import TargetError
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Space, Sum, evaluate
from fxprune.passes.cost import Costs
from fxprune.passes.polynomials import Polynomial

_log = logging.getLogger("fxprune")

ROUNDING = 1e-12
"""By what share a cost may exceed its limit."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the positions of every gate stand in one flat vector.

    The first `groups` names are groups, the others branches (one position each, may close). `held`
    are by gate the places of the groups that close with it, as nothing outside of it reads them.
    `seen` is in how many channels readers meet one of its positions: several readers, or a head of
    several channels; for a branch, those of all that it holds.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    groups: int
    held: tuple[tuple[int, ...], ...]
    seen: tuple[int, ...]

    @property
    def total(self) -> int:
        """The length of the flat vector."""
        return sum(self.sizes)


def layout_of(analysis: Analysis) -> Layout:
    """The positions of all free groups, then those of all branches."""
    free = analysis.free_groups
    names = (*(g.name for g in free), *(b.name for b in analysis.branches))
    sizes = (*(g.size for g in free), *(1 for _ in analysis.branches))
    held, seen = _held(analysis), _seen(analysis)
    inside = (sum(seen[place] * sizes[place] for place in places) for places in held[len(free) :])
    return Layout(names, sizes, len(free), held, (*seen, *(number or 1 for number in inside)))


def _held(analysis: Analysis) -> tuple[tuple[int, ...], ...]:
    """For every branch the groups that have no parameter left without it."""
    branches = frozenset(branch.name for branch in analysis.branches)
    around: dict[str, frozenset[str]] = {}
    parameters = analysis.costs.polynomials["params"]
    assert isinstance(parameters, Polynomial)
    for _, names in parameters.terms:
        for name in names:
            around[name] = around.get(name, branches) & frozenset(names)
    held: dict[str, list[int]] = {branch.name: [] for branch in analysis.branches}
    for place, group in enumerate(analysis.free_groups):
        for branch in around.get(group.name, ()):
            held[branch].append(place)
    return (*(() for _ in analysis.free_groups), *map(tuple, held.values()))


def _seen(analysis: Analysis) -> list[int]:
    """For every group in how many channels readers meet one of its positions."""
    types = analysis.types
    axes = {(reader.node, reader.operand, reader.dim): reader.axis for reader in types.readers}
    seen: Counter[Space] = Counter()
    for axis in axes.values():
        for space, channels in _channels(axis, types.positional):
            seen[space] += channels
    return [seen[group.space] for group in analysis.free_groups]


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


class ArrayCost(Protocol):
    """A cost on vectors of sizes."""

    def __call__(self, sizes: np.ndarray) -> float:
        """The cost."""

    def after(self, sizes: np.ndarray, more: np.ndarray) -> np.ndarray:
        """For every gate the cost if it alone had `more` positions more."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of some polynomials (points) as arrays.

    A row of `factors` says where the variables of a term stand in the sizes; behind these stands a
    1, for terms with fewer variables than others. `points` says whose the terms are.
    """

    factors: np.ndarray
    coefficients: np.ndarray
    points: np.ndarray
    count: int


def terms_of(points: Sequence[Polynomial], index: Mapping[str, int]) -> Terms:
    """The terms of some polynomials, whose variables stand in the sizes where `index` says."""
    terms = [(i, c / p.divisor, names) for i, p in enumerate(points) for c, names in p.terms]
    degree = max((len(names) for _, _, names in terms), default=0)
    rows = [[index[n] for n in names] + [len(index)] * (degree - len(names)) for *_, names in terms]
    return Terms(
        np.array(rows, dtype=np.int64).reshape(len(terms), degree),
        np.array([c for _, c, _ in terms], dtype=float),
        np.array([i for i, _, _ in terms], dtype=np.int64),
        len(points),
    )


class PointArrayCost:
    """The largest of some polynomials, on vectors of sizes."""

    def __init__(self, points: Sequence[Polynomial], index: Mapping[str, int]) -> None:
        """`index` says where each variable stands in the sizes."""
        terms, one = terms_of(points, index), len(index)
        self._count, self._factors = terms.count, terms.factors
        self._coefficients, self._points = terms.coefficients, terms.points
        # Every variable of every term, and for each the pair of its point and itself.
        rows = terms.factors.tolist()
        found = [(t, v) for t, row in enumerate(rows) for v in dict.fromkeys(row) if v != one]
        self._term, self._variable = np.array(found, dtype=np.int64).reshape(-1, 2).T
        keys = self._points[self._term] * one + self._variable
        pairs, self._pair = np.unique(keys, return_inverse=True)
        self._pair_point, self._pair_variable = pairs // max(one, 1), pairs % max(one, 1)

    def __call__(self, sizes: np.ndarray) -> float:
        """The cost."""
        return float(self._at(self._values(sizes)).max())

    def _values(self, sizes: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.append(sizes, 1.0)[self._factors]
        return values

    def _at(self, values: np.ndarray) -> np.ndarray:
        products = values.prod(axis=-1) * self._coefficients
        return np.bincount(self._points, products, minlength=self._count)

    def after(self, sizes: np.ndarray, more: np.ndarray) -> np.ndarray:
        """For every variable the cost if it alone grew by `more`."""
        values = self._values(sizes)
        points, products = self._at(values), values.prod(axis=-1) * self._coefficients
        grows = self._factors[self._term] == self._variable[:, None]
        grown = values[self._term] + grows * more[self._variable][:, None]
        change = grown.prod(axis=-1) * self._coefficients[self._term] - products[self._term]
        pairs = points[self._pair_point]
        pairs += np.bincount(self._pair, change, minlength=len(pairs))
        result = np.full(len(sizes), points.max())
        np.maximum.at(result, self._pair_variable, pairs)
        return result


class Filling:
    """Chooses which positions are open under limits on costs."""

    def __init__(
        self,
        costs: Mapping[str, ArrayCost],
        layout: Layout,
        round_to: int = 1,
        least: Sequence[int] = (),
    ) -> None:
        """Groups keep `least` positions or more (by default one), in units of `round_to`."""
        self.layout = layout
        self._costs = dict(costs)
        self.owners = np.repeat(np.arange(len(layout.sizes)), layout.sizes)
        self._sizes = np.array(layout.sizes, dtype=float)
        self._starts = np.cumsum([0, *layout.sizes])[:-1]
        self.least = np.zeros(len(layout.sizes), dtype=np.int64)
        self.least[: layout.groups] = least or 1
        self._width = np.where(np.arange(len(layout.sizes)) < layout.groups, round_to, 1)

    def check_reachable(self, costs: Costs, limit: Mapping[str, float]) -> None:
        """Raise TargetError if the costs exceed a limit with every group at its smallest."""
        smallest = np.minimum(np.ceil(self.least / self._width) * self._width, self._sizes)
        closed = dict(zip(self.layout.names, map(int, smallest), strict=True))
        for name, most in limit.items():
            least, full = costs.polynomials[name](closed), costs.polynomials[name](costs.full)
            if least > most * (1 + ROUNDING):
                share = math.ceil(1e4 * least / full) / 1e4
                raise TargetError(
                    f"target of {name} is {most:.12g}, but with every group at its smallest "
                    f"{least:.12g} remain of {full:.12g}: ask for at least {share}, lower "
                    "round_to or least, or pin less"
                )

    def choose(self, rank: np.ndarray, limit: Mapping[str, float]) -> np.ndarray:
        """Open positions by descending `rank` within `limit`; a flag per position.

        Positions of one group open in units of `round_to`; its best unit is always open. Where
        ranks are equal, groups lose alike: that of which the larger share is open is next. So does
        a group whose ranks are all zero, since nothing is known of it.
        """
        units = self._units(self._levelled(rank.astype(float)))
        order = units.worst_first()
        removable = int((units.rank < math.inf).sum())

        def within(kept: int) -> bool:
            return self.fits(units.counts(self._sizes, order[: removable - kept], -1), limit)

        closed = order[: removable - _largest(within, removable)]
        counts = units.counts(self._sizes, closed, -1)
        is_open = np.ones(len(order), dtype=bool)
        is_open[closed] = False
        is_open[self._fill(units, closed[::-1], counts, limit)] = True
        branches = closed[units.owner[closed] >= self.layout.groups]
        for branch in branches[::-1]:
            if not is_open[branch]:
                is_open = self._opened_thin(units, branch, is_open, limit)
        return units.flags(is_open)

    def _opened_thin(
        self, units: "_Units", branch: int, is_open: np.ndarray, limit: Mapping[str, float]
    ) -> np.ndarray:
        """What is open once the closed `branch` is, with as much inside as fits; if it fits at all.

        While a branch is closed all inside of it is free, so it may be too wide to be opened whole.
        """
        inside = np.isin(units.owner, self.layout.held[units.owner[branch]])
        inside &= is_open & (units.rank < math.inf)
        thin = is_open & ~inside
        thin[branch] = True
        counts = units.counts(np.zeros(len(self._sizes)), np.flatnonzero(thin), 1)
        if not self.fits(counts, limit):
            return is_open
        waiting = units.worst_first()[::-1]
        thin[self._fill(units, waiting[inside[waiting]], counts, limit)] = True
        return thin

    def _fill(
        self, units: "_Units", waiting: np.ndarray, counts: np.ndarray, limit: Mapping[str, float]
    ) -> np.ndarray:
        """What can be opened of the closed units `waiting`, best first.

        Costs grow with every position, so a gate whose best unit does not fit is done.
        """
        opened = [waiting[:0]]
        while len(waiting):
            best = units.first_of_each(waiting, len(counts))
            more = np.where(best < len(waiting), units.size[waiting[best % len(waiting)]], 0.0)
            fits = np.ones(len(counts), dtype=bool)
            for name, cost in self._costs.items():
                fits &= cost.after(counts, more) <= limit[name] * (1 + ROUNDING)
            waiting = waiting[fits[units.owner[waiting]]]

            def within(number: int) -> bool:
                return self.fits(units.counts(counts, waiting[:number], 1), limit)  # noqa: B023

            number = _largest(within, len(waiting))
            opened.append(waiting[:number])
            counts = units.counts(counts, waiting[:number], 1)
            waiting = waiting[number:] if number else waiting[1:]
        return np.concatenate(opened)

    def fits(self, counts: np.ndarray, limit: Mapping[str, float]) -> bool:
        """Whether so many open positions per gate cost no more than the limits."""
        return all(cost(counts) <= limit[n] * (1 + ROUNDING) for n, cost in self._costs.items())

    def _levelled(self, rank: np.ndarray) -> np.ndarray:
        """Ranks, with those of all other groups, spread alike, for a group that has none."""
        rank = np.nan_to_num(np.clip(rank, -_HIGHEST, _HIGHEST), nan=0.0)
        ranked = np.bincount(self.owners, rank != 0.0, minlength=len(self._sizes)) > 0
        in_groups = self.owners < self.layout.groups
        known = in_groups & ranked[self.owners] & (np.abs(rank) < _HIGHEST)
        others = np.sort(rank[known])
        if not len(others) or others[0] < 0.0:
            return rank
        for gate in np.flatnonzero(~ranked[: self.layout.groups]):
            size = self.layout.sizes[gate]
            shares = 1.0 - (np.arange(size) + 0.5) / size
            start = self._starts[gate]
            rank[start : start + size] = others[(shares * len(others)).astype(int)]
            _log.debug("%s ranks zero: it loses what others lose", self.layout.names[gate])
        return rank

    def _units(self, rank: np.ndarray) -> "_Units":
        """Bundle positions that open together: runs of `round_to` in the order of a group."""
        positions = np.lexsort((-rank, self.owners))
        place = np.arange(len(positions)) - self._starts[self.owners]  # owners are sorted
        first = place % self._width[self.owners] == 0
        unit = first.cumsum() - 1
        owner = self.owners[first]
        size = np.bincount(unit, minlength=len(owner)).astype(float)
        mean = _means(rank[positions], unit)
        left = place[first] / self._sizes[owner]
        protected = place[first] < self.least[owner]
        return _Units(np.where(protected, math.inf, mean), left, owner, size, positions, unit)


@dataclass(frozen=True, slots=True)
class _Units:
    """Positions that open together: rank, gate and size per unit; `unit` per sorted position.

    `left` is what share of its gate is open once a unit and all that rank lower are closed.
    """

    rank: np.ndarray
    left: np.ndarray
    owner: np.ndarray
    size: np.ndarray
    positions: np.ndarray
    unit: np.ndarray

    def worst_first(self) -> np.ndarray:
        """Units by ascending rank; of equal ones that which leaves most of its gate, the last."""
        order: np.ndarray = np.lexsort((-np.arange(len(self.rank)), -self.left, self.rank))
        return order

    def counts(self, counts: np.ndarray, changed: np.ndarray, sign: int) -> np.ndarray:
        """Open positions per gate if the units `changed` open or close."""
        change = np.bincount(self.owner[changed], self.size[changed], minlength=len(counts))
        result: np.ndarray = counts + sign * change
        return result

    def first_of_each(self, waiting: np.ndarray, gates: int) -> np.ndarray:
        """For every gate the place of its first unit in `waiting`, or the length of that."""
        first = np.full(gates, len(waiting))
        np.minimum.at(first, self.owner[waiting], np.arange(len(waiting)))
        return first

    def flags(self, is_open: np.ndarray) -> np.ndarray:
        """A flag per position, from those of units."""
        result = np.empty(len(self.positions), dtype=bool)
        result[self.positions] = is_open[self.unit]
        return result


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` for which something holds that gets harder; else 0."""
    low, step = 0, 1
    while low + step <= most and holds(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _means(rank: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The mean rank of every unit, of what is finite in it; what differs by rounding is equal."""
    known = np.abs(rank) < _HIGHEST
    counts = np.bincount(unit, known)
    sums = np.bincount(unit, np.where(known, rank, 0.0))
    endless = np.bincount(unit, np.where(known, 0.0, rank)) / np.bincount(unit)
    mantissa, exponent = np.frexp(np.where(counts > 0, sums / np.maximum(counts, 1), endless))
    rounded: np.ndarray = np.ldexp(np.round(mantissa * _DIGITS) / _DIGITS, exponent)
    return rounded


_HIGHEST = 1e300
_DIGITS = 2.0**36
