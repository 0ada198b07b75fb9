"""The configurations of a builder as a space: ranges of its arguments, and what each costs.

What costs too much is made smaller: all picks of ordered ranges go down in proportion until the
costs are within limits, and then up again one after the other as far as they fit. Costs are taken
to grow along ordered ranges; of others the value stays, or becomes the first one if it never fits.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fxprune.arguments import listed, refusal, shown
from fxprune.errors import InputError, TargetError
from fxprune.filling import ROUNDING
from fxprune.searching.spaces import Dimension, Picks, Point, config_of

CostsOf = Callable[[Mapping[str, Any]], Mapping[str, float]]
"""From a configuration to its costs by name."""


class Configurations:
    """The configurations of a builder."""

    def __init__(
        self,
        ranges: Mapping[str, Any],
        costs_of: CostsOf,
        limits: Mapping[str, float],
        *,
        widen: bool,
    ) -> None:
        """`widen` makes what costs too little larger.

        Raises:
            InputError: a range is none, or empty; TargetError if not even the smallest
                configuration is within limits.
        """
        self.dimensions = dimensions_of(ranges)
        self.limits = dict(limits)
        self._costs_of = costs_of
        self._widen = widen and bool(limits)
        self._known: dict[Picks, Mapping[str, float]] = {}
        self._check_reachable()

    def point(self, picks: Picks) -> Point:
        """The configuration, and its costs."""
        return Point(config_of(self.dimensions, picks), self.costs(picks))

    def costs(self, picks: Picks) -> Mapping[str, float]:
        """What a configuration costs."""
        if picks not in self._known:
            self._known[picks] = self._costs_of(config_of(self.dimensions, picks))
        return self._known[picks]

    def repaired(self, picks: Picks) -> Picks:
        """A configuration within limits."""
        fits = self._fits(picks)
        if fits and not self._widen:
            return picks
        if not fits:
            picks = self._narrowed(picks)
        return self._filled(picks)

    def _narrowed(self, picks: Picks) -> Picks:
        """The same in proportion, as large as fits."""
        if not self._fits(self._scaled(picks, 0.0)):
            picks = tuple(
                pick if each.ordered else 0
                for each, pick in zip(self.dimensions, picks, strict=True)
            )
        shares = sorted(
            {k / pick for each, pick in self._ordered(picks) for k in range(pick)}, reverse=True
        )
        low, high = 0, len(shares) - 1  # the largest share that fits is the first of the shares
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle)
                if self._fits(self._scaled(picks, shares[middle]))
                else (middle + 1, high)
            )
        return self._scaled(picks, shares[low] if shares else 0.0)

    def _ordered(self, picks: Picks) -> list[tuple[Dimension, int]]:
        pairs = zip(self.dimensions, picks, strict=True)
        return [(each, pick) for each, pick in pairs if each.ordered and pick]

    def _scaled(self, picks: Picks, share: float) -> Picks:
        pairs = zip(self.dimensions, picks, strict=True)
        return tuple(int(pick * share + 1e-9) if each.ordered else pick for each, pick in pairs)

    def _filled(self, picks: Picks) -> Picks:
        """As much larger as fits, one dimension after the other."""
        for place, each in enumerate(self.dimensions):
            if not each.ordered:
                continue
            low, high = picks[place], each.last
            while low < high:
                middle = (low + high + 1) // 2
                larger = (*picks[:place], middle, *picks[place + 1 :])
                low, high = (middle, high) if self._fits(larger) else (low, middle - 1)
            picks = (*picks[:place], low, *picks[place + 1 :])
        return picks

    def _fits(self, picks: Picks) -> bool:
        if not self.limits:
            return True
        costs = self.costs(picks)
        return all(costs[name] <= most * (1 + ROUNDING) for name, most in self.limits.items())

    def _check_reachable(self) -> None:
        smallest = tuple(0 for _ in self.dimensions)
        for name, most in self.limits.items():
            costs = self.costs(smallest)
            if name not in costs:
                raise TargetError(f"target names {shown(name)}; known costs are {', '.join(costs)}")
            if costs[name] > most * (1 + ROUNDING):
                config = shown(config_of(self.dimensions, smallest))
                raise TargetError(
                    f"target of {name} is {most:.12g}, but the first configuration, {config}, has "
                    f"{costs[name]:.12g}: ask for more, or begin the ranges lower"
                )


def dimensions_of(ranges: Any) -> tuple[Dimension, ...]:
    """Ranges by the name of the argument as dimensions.

    >>> dimensions_of({"depth": range(1, 4), "act": ["relu"]})[0]
    Dimension(name='depth', values=(1, 2, 3))

    Raises:
        InputError: they are none, or one is empty.
    """
    wanted = 'values by argument, such as {"depth": range(1, 13), "heads": [1, 2, 4]}'
    if not isinstance(ranges, Mapping) or not ranges:
        raise refusal("ranges", ranges, wanted)
    found = []
    for name, values in ranges.items():
        if not isinstance(name, str):
            raise refusal("ranges", ranges, wanted)
        items = listed(f"ranges[{name!r}]", values, wanted)
        if not items:
            raise InputError(f"ranges[{name!r}] is empty: give at least one value")
        found.append(Dimension(name, items))
    return tuple(found)
