"""Which positions stay open, so that limits on costs are met? Rank, and fill.

Positions are closed in the order of their rank until every cost is within its limit; what still
fits afterwards is opened again. Costs are exact, so limits are met to within one position: no gate
could open its best closed unit without breaking a limit.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fxprune.errors import TargetError
from fxprune.layout import Layout
from fxprune.passes.cost import Costs
from fxprune.passes.polynomials import Polynomial

_log = logging.getLogger("fxprune")

ROUNDING = 1e-12
"""By what share a cost may exceed its limit."""


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


def kept_first(rank: np.ndarray, kept: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Ranks by which what is kept already comes before all else.

    >>> kept_first(np.array([3.0, 2.0, 1.0]), [False, True, False]).tolist()
    [3.0, 1e+200, 1.0]
    """
    first: np.ndarray = np.where(kept, _FIRST, np.clip(rank, -_FIRST / 2, _FIRST / 2))
    return first


class Filling:
    """Chooses which positions are open under limits on costs.

    Tied groups open together, in steps: each is a position of every group, or as many as make equal
    shares. What is tied to nothing opens position by position; so do branches. Of every list of
    layers the best stay.
    """

    def __init__(
        self,
        costs: Mapping[str, ArrayCost],
        layout: Layout,
        round_to: int = 1,
        least: Sequence[int] = (),
    ) -> None:
        """Groups keep `least` positions or more (by default one), in units of `round_to`.

        Behind those of groups stands how many layers every list keeps. What the layout says of
        their numbers holds as well.
        """
        self.layout = layout
        self._costs = dict(costs)
        self.owners = np.repeat(np.arange(len(layout.sizes)), layout.sizes)
        self._sizes = np.array(layout.sizes, dtype=float)
        self._starts = np.cumsum([0, *layout.sizes])[:-1]
        self.least = np.zeros(len(layout.sizes), dtype=np.int64)
        self.least[: layout.groups] = least[: layout.groups] or 1
        for place, numbers in enumerate(layout.numbers):
            self.least[place] = min(max(self.least[place], numbers.least), layout.sizes[place])
        of_lists = least[layout.groups :] or [0] * len(layout.lists)
        self.lists = tuple(
            (layers, max(own, stay))
            for (layers, stay), own in zip(layout.lists, of_lists, strict=True)
        )
        self.steps = Steps(layout, self.least, round_to)
        for layers, stay in self.lists:
            self.steps.smallest[self.steps.owner[list(layers[:stay])]] = 1

    def check_reachable(self, costs: Costs, limit: Mapping[str, float]) -> None:
        """Raise TargetError if the costs exceed a limit with every group at its smallest."""
        smallest = self.steps.on_gates(self.steps.smallest)
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
        everything = self.steps.numbers

        def within(kept: int) -> bool:
            return self._fit(units.counts(everything, order[: removable - kept], -1), limit)

        closed = order[: removable - _largest(within, removable)]
        is_open = np.ones(len(order), dtype=bool)
        is_open[closed] = False
        self._open_more(units, is_open, order, limit)
        branches = closed[self.steps.first[units.owner[closed]] >= self.layout.groups]
        for branch in branches[::-1]:
            if not is_open[branch] and self._open_thin(units, branch, is_open, order, limit):
                self._open_more(units, is_open, order, limit)
        return units.flags(is_open)

    def _open_more(
        self, units: "_Units", is_open: np.ndarray, among: np.ndarray, limit: Mapping[str, float]
    ) -> None:
        """Open what fits of the closed units `among` some, which come worst first."""
        waiting = among[~is_open[among]][::-1]
        nothing = np.zeros(len(self.steps.numbers))
        counts = units.counts(nothing, np.flatnonzero(is_open), 1)
        is_open[self._fill(units, waiting, counts, limit)] = True

    def _open_thin(
        self,
        units: "_Units",
        branch: int,
        is_open: np.ndarray,
        order: np.ndarray,
        limit: Mapping[str, float],
    ) -> bool:
        """Open the closed `branch` with as much inside as fits; False if it does not fit at all.

        While a branch is closed all inside of it is free, so it may be too wide to be opened whole.
        """
        places = self.layout.inside[self.steps.first[units.owner[branch]]]
        inside = np.isin(units.owner, self.steps.all_in(places)) & (units.rank < math.inf)
        thin = is_open & ~inside
        thin[branch] = True
        counts = units.counts(np.zeros(len(self.steps.numbers)), np.flatnonzero(thin), 1)
        if not self._fit(counts, limit):
            return False
        within = is_open & inside
        is_open[:] = thin
        self._open_more(units, is_open, order[within[order]], limit)
        return True

    def _fill(
        self, units: "_Units", waiting: np.ndarray, counts: np.ndarray, limit: Mapping[str, float]
    ) -> np.ndarray:
        """What can be opened of the closed units `waiting`, best first.

        Costs grow with every position, so an owner whose best unit does not fit is done.
        """
        opened = [waiting[:0]]
        while len(waiting):
            best = units.first_of_each(waiting, len(counts))
            more = np.where(best < len(waiting), units.size[waiting[best % len(waiting)]], 0.0)
            fits = np.ones(len(counts), dtype=bool)
            for name, cost in self._costs.items():
                fits &= self.steps.after(cost, counts, more) <= limit[name] * (1 + ROUNDING)
            waiting = waiting[fits[units.owner[waiting]]]

            def within(number: int) -> bool:
                return self._fit(units.counts(counts, waiting[:number], 1), limit)  # noqa: B023

            number = _largest(within, len(waiting))
            opened.append(waiting[:number])
            counts = units.counts(counts, waiting[:number], 1)
            waiting = waiting[number:] if number else waiting[1:]
        return np.concatenate(opened)

    def fits(self, counts: np.ndarray, limit: Mapping[str, float]) -> bool:
        """Whether so many open positions per gate cost no more than the limits."""
        return all(cost(counts) <= limit[n] * (1 + ROUNDING) for n, cost in self._costs.items())

    def _fit(self, counts: np.ndarray, limit: Mapping[str, float]) -> bool:
        return self.fits(self.steps.on_gates(counts), limit)

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
        """Bundle positions that open together, in the order of their groups.

        The rank of a unit is the mean over its groups of the mean of what is in it.
        """
        steps = self.steps
        positions = np.lexsort((-rank, self.owners))
        place = np.arange(len(positions)) - self._starts[self.owners]  # owners are sorted
        part = place // (steps.width * steps.positions)[self.owners]
        starts = np.cumsum([0, *np.ceil(steps.numbers / steps.widths).astype(np.int64)])
        unit = starts[steps.owner[self.owners]] + part
        owner = np.repeat(np.arange(len(steps.numbers)), np.diff(starts))
        done = (np.arange(len(owner)) - starts[owner]) * steps.widths[owner]
        size = np.minimum(steps.widths[owner], steps.numbers[owner] - done)
        pieces, piece = np.unique(self.owners * len(owner) + unit, return_inverse=True)
        mean = _means(_means(rank[positions], piece), pieces % len(owner))
        protected = done < steps.least[owner]
        for layers, stay in self.lists:
            units = np.flatnonzero(np.isin(owner, steps.owner[list(layers)]))
            best = np.argsort(-mean[units], kind="stable")[:stay]
            protected[units[best]] = True
        left = done / steps.numbers[owner]
        return _Units(np.where(protected, math.inf, mean), left, owner, size, positions, unit)


class Steps:
    """In what steps gates open: those that are tied to each other in steps of one owner.

    By owner: the `first` gate, how many steps there are (`numbers`), how many of these open
    together (`widths`), and the `least` that stay. By gate: its `owner`, the `width` of that, and
    how many `positions` a step has.
    """

    def __init__(self, layout: Layout, least: np.ndarray, round_to: int) -> None:
        tied = {place: tie for tie in layout.ties for place in tie}
        self._gates = list(dict.fromkeys(tied.get(p, (p,)) for p in range(len(layout.sizes))))
        sizes = np.array(layout.sizes, dtype=np.int64)
        self.first = np.array([gates[0] for gates in self._gates], dtype=np.int64)
        steps = dict(zip(layout.ties, layout.steps, strict=True))
        numbers = [steps.get(gates) or layout.sizes[gates[0]] for gates in self._gates]
        self.numbers = np.array(numbers, dtype=float)
        self.owner = np.zeros(len(sizes), dtype=np.int64)
        for owner, gates in enumerate(self._gates):
            self.owner[list(gates)] = owner
        self.positions = sizes // np.array(numbers, dtype=np.int64)[self.owner]
        rounding = np.where(np.arange(len(sizes)) < layout.groups, round_to, 1)
        for place, one in enumerate(layout.numbers):
            rounding[place] = math.lcm(round_to, one.multiple)
        widths = rounding // np.gcd(rounding, self.positions)
        self.widths = np.ones(len(numbers), dtype=np.int64)
        np.lcm.at(self.widths, self.owner, widths)
        self.width = self.widths[self.owner]
        self.least = np.zeros(len(numbers), dtype=np.int64)
        np.maximum.at(self.least, self.owner, -(-least // self.positions))
        rounded = -(-self.least // self.widths) * self.widths
        self.smallest = np.minimum(rounded, self.numbers)

    def on_gates(self, counts: np.ndarray) -> np.ndarray:
        """Positions per gate for numbers of steps."""
        result: np.ndarray = counts[self.owner] * self.positions
        return result

    def after(self, cost: ArrayCost, counts: np.ndarray, more: np.ndarray) -> np.ndarray:
        """For every owner the cost if it alone had `more` steps more."""
        gates, grown = self.on_gates(counts), self.on_gates(more)
        result: np.ndarray = cost.after(gates, grown)[self.first]
        for owner, places in enumerate(self._gates):
            if len(places) > 1:
                result[owner] = cost(np.where(self.owner == owner, gates + grown, gates))
        return result

    def all_in(self, places: Collection[int]) -> list[int]:
        """The owners all of whose gates are among `places`."""
        return [
            owner
            for owner, gates in enumerate(self._gates)
            if all(place in places for place in gates)
        ]


@dataclass(frozen=True, slots=True)
class _Units:
    """What opens together: rank, owner and size (in steps) per unit; `unit` per sorted position.

    `left` is what share of its owner is open once a unit and all that rank lower are closed.
    """

    rank: np.ndarray
    left: np.ndarray
    owner: np.ndarray
    size: np.ndarray
    positions: np.ndarray
    unit: np.ndarray

    def worst_first(self) -> np.ndarray:
        """Units by ascending rank; of equal ones that which leaves most of its owner, the last."""
        order: np.ndarray = np.lexsort((-np.arange(len(self.rank)), -self.left, self.rank))
        return order

    def counts(self, counts: np.ndarray, changed: np.ndarray, sign: int) -> np.ndarray:
        """Open steps per owner if the units `changed` open or close."""
        change = np.bincount(self.owner[changed], self.size[changed], minlength=len(counts))
        result: np.ndarray = counts + sign * change
        return result

    def first_of_each(self, waiting: np.ndarray, owners: int) -> np.ndarray:
        """For every owner the place of its first unit in `waiting`, or the length of that."""
        first = np.full(owners, len(waiting))
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
_FIRST = 1e200
_DIGITS = 2.0**36
