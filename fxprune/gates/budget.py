"""Which positions stay open, so that the cost target is met? Rank, and fill.

Positions are closed in the order of their rank until every cost is within its limit; what still
fits afterwards is opened again. Costs are exact, so the target is met to within one position.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.errors import TargetError
from fxprune.passes.cost import COSTS, Costs
from fxprune.passes.polynomials import Polynomial

_FILL_TRIES = 32

Target = float | int | Mapping[str, float | int]
"""A share of the MACs, or shares (up to 1) or absolute numbers (above 1) by cost."""


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


def limits(target: Target, costs: Costs) -> dict[str, float]:
    """Absolute limits by cost from what the user asked for.

    Raises:
        TargetError: an unknown cost, or a number out of range.
    """
    wanted = target if isinstance(target, Mapping) else {"macs": target}
    if not wanted:
        raise TargetError("target is empty: give a share of the MACs such as 0.5")
    full = costs.at(costs.full)
    result = {}
    for name, value in wanted.items():
        if name not in COSTS:
            raise TargetError(f"target names {name!r}; known costs are {', '.join(COSTS)}")
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise TargetError(
                f"target of {name} is {value!r}: give a share in (0, 1] to keep, or an absolute "
                "number above 1"
            )
        if value > full[name]:
            raise TargetError(
                f"target of {name} is {value}, the model has {full[name]}: give a share in (0, 1] "
                "to keep, or an absolute number below that"
            )
        result[name] = value * full[name] if value <= 1 else float(value)
    return result


class Budget:
    """Chooses which positions are open under limits on exact costs."""

    def __init__(
        self, costs: Costs, layout: Layout, limit: Mapping[str, float], round_to: int = 1
    ) -> None:
        self.costs = costs
        self.layout = layout
        self.limit = dict(limit)
        self.round_to = round_to
        self._index = {name: i for i, name in enumerate(layout.names)}
        self._tensors = {n: _TensorPolynomial(costs.polynomials[n], self._index) for n in limit}
        self._full = {name: costs.polynomials[name](costs.full) for name in limit}
        self._check_reachable()

    def _check_reachable(self) -> None:
        closed = dict.fromkeys(self.layout.names, 0)
        for name, size in zip(
            self.layout.names[: self.layout.groups], self.layout.sizes, strict=False
        ):
            closed[name] = min(size, self.round_to)
        for name, limit in self.limit.items():
            least = self.costs.polynomials[name](closed)
            if least > limit:
                share = math.ceil(1e4 * least / self._full[name]) / 1e4
                raise TargetError(
                    f"target of {name} is {limit:.12g}, but with every group at its smallest "
                    f"{least} remain of {self._full[name]}: ask for at least {share}, lower "
                    "round_to, or pin less"
                )

    def relative(self, share: float) -> dict[str, float]:
        """The limits on the way: `share` = 0 is the full cost, 1 is the target."""
        return {
            n: self._full[n] + share * (limit - self._full[n]) for n, limit in self.limit.items()
        }

    def prices(self, is_open: Tensor) -> Tensor:
        """What one position of each gate costs at present, relative to the limited costs."""
        counts = self._counts(is_open).double().requires_grad_()
        with torch.enable_grad():
            total = sum(p(counts) / self._full[n] for n, p in self._tensors.items())
        (gradient,) = torch.autograd.grad(total, counts)
        return gradient.clamp(min=0)

    def excess(self, gates: Tensor) -> Tensor:
        """How far the cost of soft gates is from the target, differentiable: 1 if all are open.

        The cost loss of Castells & Yeom (arXiv 2111.09635), summed over the limited costs.
        """
        counts = torch.zeros(len(self.layout.names), dtype=torch.double, device=gates.device)
        counts = counts.index_add(0, self.layout.owners().to(gates.device), gates.double())
        terms = []
        for name, limit in self.limit.items():
            cost = self._tensors[name](counts)
            above = (cost - limit) / max(self._full[name] - limit, 1e-12)
            terms.append(torch.where(cost > limit, above, 1 - cost / limit))
        return torch.stack(terms).sum().to(gates.dtype)

    def per_price(self, importance: Tensor, is_open: Tensor) -> Tensor:
        """Importance divided by what a position costs at present."""
        prices = self.prices(is_open).to(importance)
        return importance / prices[self.layout.owners().to(prices.device)].clamp(min=1e-12)

    def choose(self, rank: Tensor, limit: Mapping[str, float]) -> Tensor:
        """Open positions by descending `rank` within `limit`; a flag per position.

        Positions of one group open in units of `round_to`; its best unit is always open.
        """
        units = self._units(rank)
        order = units.worst_first()
        removable = int((units.rank < math.inf).sum())
        low, high = 0, removable
        while low < high:
            middle = (low + high) // 2
            if self._fits(units.counts_without(order[:middle]), limit):
                high = middle
            else:
                low = middle + 1
        counts = units.counts_without(order[:low])
        reopened: list[int] = []
        passed: set[int] = set()  # gates with a closed unit: their worse units stay closed too
        for unit in order[max(low - _FILL_TRIES, 0) : low].flip(0).tolist():
            more = counts.clone()
            more[units.owner[unit]] += units.size[unit]
            if int(units.owner[unit]) not in passed and self._fits(more, limit):
                counts = more
                reopened.append(unit)
            else:
                passed.add(int(units.owner[unit]))
        return units.open_without(order[:low], reopened)

    def _fits(self, counts: Tensor, limit: Mapping[str, float]) -> bool:
        return all(float(p(counts)) <= limit[n] * (1 + 1e-12) for n, p in self._tensors.items())

    def _counts(self, is_open: Tensor) -> Tensor:
        counts = torch.zeros(len(self.layout.names), dtype=torch.double)
        return counts.index_add(0, self.layout.owners(), is_open.cpu().double())

    def _units(self, rank: Tensor) -> "_Units":
        """Bundle positions that open together: runs of `round_to` in the order of a group."""
        owners = self.layout.owners()
        by_rank = torch.argsort(rank.cpu().double(), descending=True, stable=True)
        by_owner = by_rank[torch.argsort(owners[by_rank], stable=True)]
        starts = torch.tensor([0, *self.layout.sizes]).cumsum(0)[:-1]
        place = torch.arange(self.layout.total) - starts[owners[by_owner]]
        width = torch.where(owners < self.layout.groups, self.round_to, 1)[by_owner]
        first = place % width == 0
        unit = first.cumsum(0) - 1
        count = int(unit[-1]) + 1 if len(unit) else 0
        size = torch.zeros(count).index_add(0, unit, torch.ones(len(unit)))
        mean = torch.zeros(count, dtype=torch.double).index_add(
            0, unit, rank.cpu().double()[by_owner]
        )
        owner = owners[by_owner][first]
        mean = mean / size
        protected = (place[first] == 0) & (owner < self.layout.groups)
        return _Units(
            torch.where(protected, math.inf, mean),
            owner,
            size.double(),
            by_owner,
            unit,
            self.layout,
        )


@dataclass(frozen=True, slots=True)
class _Units:
    """Positions that open together: rank, gate and size per unit; `unit` per sorted position."""

    rank: Tensor
    owner: Tensor
    size: Tensor
    positions: Tensor
    unit: Tensor
    layout: Layout

    def worst_first(self) -> Tensor:
        """Units by ascending rank; of equal ones in a gate, the last comes first."""
        return len(self.rank) - 1 - torch.argsort(self.rank.flip(0), stable=True)

    def counts_without(self, closed: Tensor) -> Tensor:
        """Open positions per gate if the units `closed` are closed."""
        counts = torch.tensor(self.layout.sizes, dtype=torch.double)
        return counts.index_add(0, self.owner[closed], -self.size[closed])

    def open_without(self, closed: Tensor, reopened: list[int]) -> Tensor:
        """A flag per position."""
        flags = torch.ones(len(self.rank), dtype=torch.bool)
        flags[closed] = False
        flags[reopened] = True
        result = torch.empty(self.layout.total, dtype=torch.bool)
        result[self.positions] = flags[self.unit]
        return result


class _TensorPolynomial:
    """A cost polynomial on a vector of sizes."""

    def __init__(self, polynomial: Polynomial, index: Mapping[str, int]) -> None:
        degree = max((len(names) for _, names in polynomial.terms), default=0)
        one = len(index)  # a constant 1 is appended to the sizes
        rows: Sequence[Sequence[int]] = [
            [*(index[name] for name in names), *[one] * (degree - len(names))]
            for _, names in polynomial.terms
        ]
        self._factors = torch.tensor(rows, dtype=torch.long).reshape(len(rows), degree)
        coefficients = [c for c, _ in polynomial.terms]
        self._coefficients = torch.tensor(coefficients, dtype=torch.double) / polynomial.divisor

    def __call__(self, sizes: Tensor) -> Tensor:
        extended = torch.cat([sizes, sizes.new_ones(1)])
        return (self._coefficients * extended[self._factors].prod(dim=1)).sum()
