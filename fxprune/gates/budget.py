"""Which positions stay open, so that the cost target is met? Rank, and fill.

Positions are closed in the order of their rank until every cost is within its limit; what still
fits afterwards is opened again. Costs are exact, so the target is met to within one position: no
gate could open its best closed unit without breaking a limit.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fxprune.errors import TargetError
from fxprune.gates.latency import Latency
from fxprune.gates.point_costs import PointCost
from fxprune.passes.cost import Cost, Costs
from fxprune.passes.polynomials import Maximum, Polynomial


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the positions of every gate stand in one flat vector.

    The first `groups` names are groups, the others branches (one position each, may close).
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    groups: int

    @property
    def total(self) -> int:
        """The length of the flat vector."""
        return sum(self.sizes)

    def owners(self) -> Tensor:
        """For every position the index of its gate."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))


class TensorCost(Protocol):
    """A cost on vectors of sizes, differentiable."""

    def __call__(self, sizes: Tensor) -> Tensor:
        """The cost."""

    def priced(self, sizes: Tensor, limit: float) -> Tensor:
        """A scalar whose gradient says what a position costs."""

    def after(self, sizes: Tensor, more: Tensor) -> Tensor:
        """For every gate the cost if it alone had `more` positions more."""


def on_tensors(cost: Cost, index: Mapping[str, int]) -> TensorCost:
    """A cost as a function of a vector of sizes, with its variables at the places of `index`."""
    if isinstance(cost, Latency):
        return cost.on_tensors(index)
    assert isinstance(cost, Polynomial | Maximum)
    return PointCost(cost.points, index)


class Budget:
    """Chooses which positions are open under limits on costs."""

    def __init__(
        self,
        costs: Costs,
        layout: Layout,
        limit: Mapping[str, float],
        round_to: int = 1,
        least: Sequence[int] = (),
    ) -> None:
        """`limit` is absolute, by the names of `costs`; groups keep `least` positions or more."""
        self.limit = dict(limit)
        self.round_to = round_to
        self._describe(costs, layout, least or (1,) * layout.groups)
        self._full = {name: costs.polynomials[name](costs.full) for name in limit}
        self._check_reachable()

    def narrowed(self, costs: Costs, layout: Layout, former: Sequence[str]) -> "Budget":
        """The same limits, and the same way there, for what is left of the model.

        `former` are the names that the groups of `layout` had before.
        """
        budget = copy.copy(self)
        least = dict(zip(self.layout.names, self._least.tolist(), strict=True))
        sizes = zip(former, layout.sizes, strict=False)
        budget._describe(costs, layout, [min(least[name], size) for name, size in sizes])
        return budget

    def _describe(self, costs: Costs, layout: Layout, least: Sequence[int]) -> None:
        self.costs = costs
        self.layout = layout
        index = {name: i for i, name in enumerate(layout.names)}
        self._tensors = {name: on_tensors(costs.polynomials[name], index) for name in self.limit}
        self._owners = layout.owners()
        self._sizes = torch.tensor(layout.sizes, dtype=torch.double)
        self._starts = torch.tensor([0, *layout.sizes]).cumsum(0)[:-1]
        is_group = torch.arange(len(layout.sizes)) < layout.groups
        self._least = torch.zeros(len(layout.sizes), dtype=torch.long)
        self._least[: layout.groups] = torch.tensor(least, dtype=torch.long)
        self._width = torch.where(is_group, self.round_to, 1)

    def _check_reachable(self) -> None:
        units = torch.ceil(self._least / self._width) * self._width
        smallest = torch.minimum(units.double(), self._sizes)
        closed = {n: int(v) for n, v in zip(self.layout.names, smallest.tolist(), strict=True)}
        for name, limit in self.limit.items():
            least = self.costs.polynomials[name](closed)
            if least > limit * (1 + _ROUNDING):
                share = math.ceil(1e4 * least / self._full[name]) / 1e4
                raise TargetError(
                    f"target of {name} is {limit:.12g}, but with every group at its smallest "
                    f"{least:.12g} remain of {self._full[name]:.12g}: ask for at least {share}, "
                    "lower round_to or least, or pin less"
                )

    def relative(self, share: float) -> dict[str, float]:
        """The limits on the way: `share` = 0 is the full cost, 1 is the target."""
        return {
            n: self._full[n] + share * (limit - self._full[n]) for n, limit in self.limit.items()
        }

    def prices(self, is_open: Tensor) -> Tensor:
        """What one position of each gate costs at present, relative to the limited costs."""
        counts = self._counts(is_open).requires_grad_()
        with torch.enable_grad():
            total = sum(
                cost.priced(counts, self.limit[name]) / self._full[name]
                for name, cost in self._tensors.items()
            )
        (gradient,) = torch.autograd.grad(total, counts)
        return gradient.clamp(min=0)

    def excess(self, gates: Tensor) -> Tensor:
        """How far the cost of soft gates is from the target, differentiable: 1 if all are open.

        The cost loss of Castells & Yeom (arXiv 2111.09635), summed over the limited costs.
        """
        counts = self._counts(gates)
        terms = []
        for name, limit in self.limit.items():
            cost = self._tensors[name](counts)
            above = (cost - limit) / max(self._full[name] - limit, 1e-12)
            terms.append(torch.where(cost > limit, above, 1 - cost / limit))
        return torch.stack(terms).sum().to(gates)

    def exceeds(self, gates: Tensor, limit: Mapping[str, float]) -> bool:
        """Whether soft gates cost more than the limits."""
        counts = self._counts(gates)
        return any(float(p(counts)) > limit[name] for name, p in self._tensors.items())

    def per_price(self, importance: Tensor, is_open: Tensor) -> Tensor:
        """Importance divided by what a position costs at present."""
        prices = self.prices(is_open).to(importance)
        return importance / prices[self._owners.to(prices.device)].clamp(min=1e-12)

    def choose(self, rank: Tensor, limit: Mapping[str, float]) -> Tensor:
        """Open positions by descending `rank` within `limit`; a flag per position.

        Positions of one group open in units of `round_to`; its best unit is always open.
        """
        units = self._units(rank)
        order = units.worst_first()
        removable = int((units.rank < math.inf).sum())

        def within(kept: int) -> bool:
            return self._fits(units.counts(self._sizes, order[: removable - kept], -1), limit)

        closed = order[: removable - _largest(within, removable)]
        counts = units.counts(self._sizes, closed, -1)
        return units.open_without(closed, self._fill(units, closed.flip(0), counts, limit))

    def _fill(
        self, units: "_Units", waiting: Tensor, counts: Tensor, limit: Mapping[str, float]
    ) -> Tensor:
        """What can be opened of the closed units `waiting`, best first.

        Costs grow with every position, so a gate whose best unit does not fit is done.
        """
        opened = [waiting[:0]]
        while len(waiting):
            best = units.first_of_each(waiting, len(counts))
            more = torch.where(best < len(waiting), units.size[waiting[best % len(waiting)]], 0.0)
            fits = torch.ones(len(counts), dtype=torch.bool)
            for name, cost in self._tensors.items():
                fits &= cost.after(counts, more) <= limit[name] * (1 + _ROUNDING)
            waiting = waiting[fits[units.owner[waiting]]]

            def within(number: int) -> bool:
                return self._fits(units.counts(counts, waiting[:number], 1), limit)  # noqa: B023

            number = _largest(within, len(waiting))
            opened.append(waiting[:number])
            counts = units.counts(counts, waiting[:number], 1)
            waiting = waiting[number:] if number else waiting[1:]
        return torch.cat(opened)

    def _fits(self, counts: Tensor, limit: Mapping[str, float]) -> bool:
        return all(float(p(counts)) <= limit[n] * (1 + _ROUNDING) for n, p in self._tensors.items())

    def _counts(self, is_open: Tensor) -> Tensor:
        counts = torch.zeros(len(self.layout.names), dtype=torch.double)
        return counts.index_add(0, self._owners, is_open.cpu().double())

    def _units(self, rank: Tensor) -> "_Units":
        """Bundle positions that open together: runs of `round_to` in the order of a group."""
        rank = rank.detach().cpu().double().clamp(-_HIGHEST, _HIGHEST)
        by_rank = torch.argsort(rank, descending=True, stable=True)
        positions = by_rank[torch.argsort(self._owners[by_rank], stable=True)]
        place = torch.arange(len(positions)) - self._starts[self._owners]  # owners are sorted
        first = place % self._width[self._owners] == 0
        unit = first.cumsum(0) - 1
        owner = self._owners[first]
        size = torch.zeros(len(owner), dtype=torch.double).index_add(
            0, unit, torch.ones(len(unit), dtype=torch.double)
        )
        mean = torch.zeros_like(size).index_add(0, unit, rank[positions]) / size
        protected = place[first] < self._least[owner]
        return _Units(torch.where(protected, math.inf, mean), owner, size, positions, unit)


@dataclass(frozen=True, slots=True)
class _Units:
    """Positions that open together: rank, gate and size per unit; `unit` per sorted position."""

    rank: Tensor
    owner: Tensor
    size: Tensor
    positions: Tensor
    unit: Tensor

    def worst_first(self) -> Tensor:
        """Units by ascending rank; of equal ones in a gate, the last comes first."""
        return len(self.rank) - 1 - torch.argsort(self.rank.flip(0), stable=True)

    def counts(self, counts: Tensor, changed: Tensor, sign: int) -> Tensor:
        """Open positions per gate if the units `changed` open or close."""
        return counts.index_add(0, self.owner[changed], self.size[changed], alpha=sign)

    def first_of_each(self, waiting: Tensor, gates: int) -> Tensor:
        """For every gate the place of its first unit in `waiting`, or the length of that."""
        none = torch.full((gates,), len(waiting))
        places = torch.arange(len(waiting))
        return none.scatter_reduce(0, self.owner[waiting], places, "amin")

    def open_without(self, closed: Tensor, opened: Tensor) -> Tensor:
        """A flag per position."""
        flags = torch.ones(len(self.rank), dtype=torch.bool)
        flags[closed] = False
        flags[opened] = True
        result = torch.empty(len(self.positions), dtype=torch.bool)
        result[self.positions] = flags[self.unit]
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


_ROUNDING = 1e-12
_HIGHEST = 1e300
