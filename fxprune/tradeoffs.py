"""What is lost where positions close, for what that saves? Channels and ranks on one scale.

What a layer returns has an energy E, its mean square, and every position that it sums over has a
part of it. With some closed, E' is left, and the loss is log E / E': over all layers that is the
logarithm of the product of what is left, which Zhang et al. 2015 (section 2.4) maximise for ranks.
Positions are closed by loss per saving. A pair of layers saves nothing until its rank is so low
that it does less than the one layer: up to there, and as far on as it pays to go at once, all of
its positions have one rank (the lower convex hull of losses over costs).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_LEAST = 1e-12
"""The share of its energy that a layer keeps at least, so that logarithms are finite."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What a layer may be: by rank the cost and the loss, rising and falling; or whole, at `whole`.

    `losses[r - 1]` and `costs[r - 1]` are those of rank r, as a pair; the loss of the whole is 0.
    """

    whole: float
    costs: np.ndarray
    losses: np.ndarray

    def best(self, price: float) -> tuple[float, float, int]:
        """The least of loss plus price times cost, that cost, and the rank; 0 is the whole."""
        sums = self.losses + price * self.costs
        place = int(np.argmin(sums))
        if sums[place] < price * self.whole:
            return float(sums[place]), float(self.costs[place]), place + 1
        return price * self.whole, self.whole, 0

    def rates(self) -> np.ndarray:
        """For every position, the first first, the loss per saving at which it closes."""
        points = [(float(self.whole), 0.0, len(self.costs))]
        points += [
            (float(cost), float(loss), rank)
            for rank, (cost, loss) in enumerate(zip(self.costs, self.losses, strict=True), 1)
            if cost < self.whole
        ][::-1]
        rates = np.zeros(len(self.costs))
        for (left, low, above), (right, high, below) in _hull(points):
            rates[below:above] = (high - low) / (left - right)
        rates[0] = max(rates[0], rates[1:].max(initial=0.0))  # the last one never closes
        return rates


def _hull(
    points: Sequence[tuple[float, float, int]],
) -> list[tuple[tuple[float, float, int], tuple[float, float, int]]]:
    """The sides of the lower convex hull of costs (falling) and losses (rising), in order."""
    kept: list[tuple[float, float, int]] = []
    for point in points:
        while len(kept) > 1 and _rate(kept[-2], kept[-1]) >= _rate(kept[-1], point):
            kept.pop()
        kept.append(point)
    return list(pairwise(kept))


def _rate(left: tuple[float, float, int], right: tuple[float, float, int]) -> float:
    return (right[1] - left[1]) / max(left[0] - right[0], 1e-300)


def losses(energies: np.ndarray) -> np.ndarray:
    """The loss of a layer that keeps its first r positions, for r = 1, 2, ...

    >>> losses(np.array([3.0, 1.0])).round(3).tolist()
    [0.288, 0.0]
    """
    total = energies.sum()
    if not total > 0:
        return np.zeros(len(energies))
    kept = np.maximum(np.cumsum(energies) / total, _LEAST)
    found: np.ndarray = np.maximum(-np.log(np.minimum(kept, 1.0)), 0.0)
    found[-1] = 0.0
    return found


def steps(parts: Sequence[np.ndarray], totals: Sequence[float]) -> np.ndarray:
    """For every position of a group the loss of all its readers as it closes, the least first.

    Args:
        parts: for every reader the energies of the positions.
        totals: for every reader the energy of all that it sums over.
    """
    shares = [part / total for part, total in zip(parts, totals, strict=True) if total > 0]
    if not shares:
        return np.zeros(len(parts[0]) if parts else 0)
    order = np.argsort(np.sum(shares, axis=0), kind="stable")
    result = np.zeros(len(order))
    for share in shares:
        closed = np.cumsum(share[order])
        left = -np.log(np.maximum(1.0 - np.concatenate([[0.0], closed]), _LEAST))
        result[order] += np.diff(left)
    return np.maximum(result, 0.0)


def chosen_forms(curves: Mapping[str, Mapping[str, Curve]], limit: float) -> dict[str, str]:
    """For every layer the form in which it loses least, for a limit on the costs of all together.

    Layers that are better whole are left out. At one price for all of cost, each is at its least of
    loss plus price times cost (Everett 1963); the price is found by bisection.
    """
    low, high = -60.0, 60.0
    for _ in range(80):
        price = (low + high) / 2
        cost = sum(_best(forms, math.exp(price))[1] for forms in curves.values())
        low, high = (price, high) if cost > limit else (low, price)
    best = {layer: _best(forms, math.exp(high)) for layer, forms in curves.items()}
    return {layer: form for layer, (_, _, form) in best.items() if form}


def _best(forms: Mapping[str, Curve], price: float) -> tuple[float, float, str]:
    """The least sum, its cost, and its form: "" for the whole layer."""
    found = []
    for name, curve in forms.items():
        total, cost, rank = curve.best(price)
        found.append((total, cost, name if rank else ""))
    return min(found)
