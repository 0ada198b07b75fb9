"""The budget on tensors: what positions cost, and which are open, for gates that learn."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fxprune.filling import ArrayCost, Filling, PointArrayCost
from fxprune.layout import Layout
from fxprune.passes.analyse import Analysis
from fxprune.passes.cost import Cost, Costs
from fxprune.passes.polynomials import Maximum, Polynomial
from fxprune.torch.budget.latency import Latency, LatencyOnTensors
from fxprune.torch.budget.point_costs import PointCost


def renewed(costs: Costs, analysis: Analysis) -> Costs:
    """The same costs of what is left of a model."""
    found: dict[str, Cost] = {}
    for key, cost in costs.polynomials.items():
        name, _, path = key.partition(" of ")
        if isinstance(cost, Latency):
            found[key] = cost.renewed(analysis, path)
        else:
            now = analysis.costs_inside(path) if path else analysis.costs
            found[key] = now.polynomials[name]
    return Costs(found, analysis.costs.full)


class TensorCost(Protocol):
    """A cost on vectors of sizes, differentiable."""

    def __call__(self, sizes: Tensor) -> Tensor:
        """The cost."""

    def priced(self, sizes: Tensor, limit: float) -> Tensor:
        """A scalar whose gradient says what a position costs."""


def on_tensors(cost: Cost, index: Mapping[str, int]) -> TensorCost:
    """A cost as a function of a vector of sizes, with its variables at the places of `index`."""
    if isinstance(cost, Latency):
        return cost.on_tensors(index)
    assert isinstance(cost, Polynomial | Maximum)
    return PointCost(cost.points, index)


def on_arrays(cost: Cost, index: Mapping[str, int]) -> ArrayCost:
    """The same on arrays, without gradients."""
    if isinstance(cost, Latency):
        return _LatencyOnArrays(cost.on_tensors(index))
    assert isinstance(cost, Polynomial | Maximum)
    return PointArrayCost(cost.points, index)


@dataclass(frozen=True, slots=True)
class _LatencyOnArrays:
    on_tensors: LatencyOnTensors

    def __call__(self, sizes: np.ndarray) -> float:
        return float(self.on_tensors(torch.from_numpy(sizes)))

    def after(self, sizes: np.ndarray, more: np.ndarray) -> np.ndarray:
        after: np.ndarray = self.on_tensors.after(*map(torch.from_numpy, (sizes, more))).numpy()
        return after


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
        """`limit` is absolute, by the names of `costs`; what keeps `least`, see `Filling`."""
        self.limit = dict(limit)
        self.round_to = round_to
        self._describe(costs, layout, least)
        self._full = {name: costs.polynomials[name](costs.full) for name in limit}
        self._filling.check_reachable(costs, limit)

    def narrowed(self, costs: Costs, layout: Layout, former: Sequence[str]) -> "Budget":
        """The same limits, and the same way there, for what is left of the model.

        `former` are the names that the groups and branches of `layout` had before.
        """
        budget = copy.copy(self)
        names, filling = self.layout.names, self._filling
        least = dict(zip(names, filling.least.tolist(), strict=True))
        sizes = zip(former[: layout.groups], layout.sizes, strict=False)
        of_lists = {names[place]: stay for layers, stay in filling.lists for place in layers}
        kept = [
            *(min(least[name], size) for name, size in sizes),
            *(of_lists.get(former[layers[0]], 0) for layers, _ in layout.lists),
        ]
        budget._describe(costs, layout, kept)
        return budget

    def at(self, limit: Mapping[str, float], multiple: int) -> "Budget":
        """The same costs under other limits, in units that are multiples of the present ones.

        Raises:
            TargetError: a cost exceeds its limit with every group at its smallest.
        """
        budget = copy.copy(self)
        budget.limit, budget.round_to = dict(limit), self.round_to * multiple
        budget._describe(self.costs, self.layout, self.least)
        budget._filling.check_reachable(self.costs, limit)
        return budget

    def _describe(self, costs: Costs, layout: Layout, least: Sequence[int]) -> None:
        self.costs = costs
        self.layout = layout
        index = {name: i for i, name in enumerate(layout.names)}
        self._tensors = {name: on_tensors(costs.polynomials[name], index) for name in self.limit}
        arrays = {name: on_arrays(costs.polynomials[name], index) for name in self.limit}
        self._filling = Filling(arrays, layout, self.round_to, least)
        self._owners = torch.from_numpy(self._filling.owners)
        self._fan_out = torch.tensor(layout.fan_out)[self._owners]

    @property
    def least(self) -> tuple[int, ...]:
        """How many positions each group keeps at least, and layers each list."""
        groups = self._filling.least[: self.layout.groups].tolist()
        return (*groups, *(stay for _, stay in self._filling.lists))

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

    def is_met(self, is_open: Tensor) -> bool:
        """Whether what is open costs no more than the target allows."""
        return self._filling.fits(self._counts(is_open).numpy(), self.limit)

    def per_price(self, importance: Tensor, is_open: Tensor) -> Tensor:
        """Importance divided by what a position costs at present."""
        prices = self.prices(is_open).to(importance)
        return importance / prices[self._owners.to(prices.device)].clamp(min=1e-12)

    def effect_per_price(self, squares: Tensor, is_open: Tensor) -> Tensor:
        """Root of the mean squared gradients of gates, times the terms of each, per price.

        Channels of one layer act alike, so closing many has the effect of the sum of their
        gradients, not of the squares; a gradient that is itself a sum counts for its terms.
        """
        return self.per_price((squares * self._fan_out.to(squares)).sqrt(), is_open)

    def choose(self, rank: Tensor, limit: Mapping[str, float]) -> Tensor:
        """Open positions by descending `rank` within `limit`; a flag per position.

        Positions of one group open in units of `round_to`; its best unit is always open.
        """
        flags = self._filling.choose(rank.detach().cpu().double().numpy(), limit)
        return torch.from_numpy(flags)

    def _counts(self, is_open: Tensor) -> Tensor:
        counts = torch.zeros(len(self.layout.names), dtype=torch.double)
        return counts.index_add(0, self._owners, is_open.cpu().double())
