"""The keep-sets of a gated model as a space: how wide is every group, which branches are there?

A dimension says how many units of a group stay (of groups that are tied, of all of them); which
ones, importance says. A proposal that costs more than the limits is narrowed in proportion: the
unit at place u of a group of which k are proposed ranks k / u, and what ranks highest is filled in
until nothing more fits (`filling.py`). One that costs less is widened in the same order.
"""

from collections.abc import Mapping

import numpy as np

from fxprune.errors import InputError
from fxprune.filling import Filling
from fxprune.layout import Layout
from fxprune.passes.cost import Costs
from fxprune.searching.spaces import Dimension, Picks, Point

_OPEN, _CLOSED = 1e6, 1e-6
"""The ranks of branches: those that a proposal has close last, the others open last."""


class KeepSets:
    """The keep-sets of a gated model."""

    def __init__(
        self,
        layout: Layout,
        filling: Filling,
        costs: Costs,
        limits: Mapping[str, float],
        importance: np.ndarray,
        *,
        widen: bool,
    ) -> None:
        """`importance` orders the positions of each gate; `widen` fills up what costs too little.

        Raises:
            InputError: no group has a choice.
        """
        self.limits = dict(limits)
        self.layout, self._filling, self.costs = layout, filling, costs
        self._widen = widen and bool(limits)
        steps = filling.steps
        self._least = -(-steps.smallest.astype(int) // steps.widths)
        self._most = -(-steps.numbers.astype(int) // steps.widths)
        branch = steps.first >= layout.groups
        self._least[branch] = 0
        self._searched = np.flatnonzero(self._most > self._least)
        if not len(self._searched):
            raise InputError("there is nothing to search: every group keeps all that it has")
        self._unit = self._units(importance)

    def _units(self, importance: np.ndarray) -> np.ndarray:
        """For every position the place of its unit in its gate, from 0 on, best first."""
        owners, steps = self._filling.owners, self._filling.steps
        order = np.lexsort((-importance, owners))
        starts = np.cumsum([0, *self.layout.sizes])[:-1]
        unit = np.empty(len(owners), dtype=int)
        place = np.arange(len(owners)) - starts[owners]
        unit[order] = place // (steps.width * steps.positions)[owners]
        return unit

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """How many positions the first gate of every owner keeps."""
        firsts = self._filling.steps.first[self._searched]
        return tuple(Dimension(self.layout.names[place], self._kept(place)) for place in firsts)

    def values_by_name(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """By gate that has a choice its dimension, and how many positions it keeps by pick."""
        steps, found = self._filling.steps, {}
        for place, name in enumerate(self.layout.names):
            for dimension in np.flatnonzero(self._searched == steps.owner[place]):
                found[name] = int(dimension), self._kept(place)
        return found

    def _kept(self, place: int) -> tuple[int, ...]:
        """How many positions of a gate each of its numbers of units are."""
        steps = self._filling.steps
        owner = steps.owner[place]
        units = np.arange(self._least[owner], self._most[owner] + 1)
        kept = np.minimum(units * steps.widths[owner], steps.numbers[owner])
        return tuple((kept * steps.positions[place]).astype(int).tolist())

    def fixed(self, name: str) -> int:
        """How many positions a gate keeps that has no choice."""
        return self._kept(self.layout.names.index(name))[-1]

    def lost(self, name: str, effects: np.ndarray) -> np.ndarray:
        """By pick the sum of the effects of the positions of a gate that close."""
        place = self.layout.names.index(name)
        unit = self._unit[self._filling.owners == place]
        order = np.argsort(unit, kind="stable")
        kept = np.cumsum([0.0, *effects[order]])
        lost: np.ndarray = kept[-1] - kept[list(self._kept(place))]
        return lost

    def repaired(self, picks: Picks) -> Picks:
        """As a proposal says where that fits; else narrowed in proportion, and filled."""
        units = self._units_of(picks)
        if not self.limits:
            return picks
        if not self._widen and self._filling.fits(self._counts(units), self.limits):
            return picks
        return self._picks_of(self._filling.choose(self._rank(units), self.limits))

    def _rank(self, units: np.ndarray) -> np.ndarray:
        gates = units[self._filling.steps.owner]
        owners = self._filling.owners
        rank: np.ndarray = gates[owners] / (self._unit + 1)
        branch = owners >= self.layout.groups
        rank[branch] = np.where(gates[owners][branch] > 0, _OPEN, _CLOSED)
        return rank

    def point(self, picks: Picks) -> Point:
        """The keep-set, and its exact costs."""
        units = self._units_of(picks)
        names, owner = self.layout.names, self._filling.steps.owner
        flags = self._unit < units[owner][self._filling.owners]
        parts = np.split(flags, np.cumsum(self.layout.sizes)[:-1])
        keep = {name: tuple(part.tolist()) for name, part in zip(names, parts, strict=True)}
        sizes = {name: sum(part) for name, part in keep.items()}
        costs = self.costs.at({**self.costs.full, **sizes})
        return Point(sizes, costs, keep)

    def _units_of(self, picks: Picks) -> np.ndarray:
        """Units per owner."""
        units = self._most.copy()
        units[self._searched] = self._least[self._searched] + np.array(picks, dtype=int)
        return units

    def _picks_of(self, flags: np.ndarray) -> Picks:
        steps = self._filling.steps
        counts = np.bincount(self._filling.owners[flags], minlength=len(self.layout.sizes))
        units = -(-counts[steps.first] // (steps.widths * steps.positions[steps.first]))
        return tuple(map(int, (units - self._least)[self._searched]))

    def _counts(self, units: np.ndarray) -> np.ndarray:
        """Open positions per gate."""
        steps = self._filling.steps
        return steps.on_gates(np.minimum(units * steps.widths, steps.numbers))
