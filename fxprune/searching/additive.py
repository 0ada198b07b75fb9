"""Scores that add up over positions, and their best keep-set under limits, by linear programming.

    loss    what closes loses: every position its own effect, a closed branch the effect of its own
            gate, whatever is inside of it

Costs are products of widths and branches, made linear exactly: a width is one of its values v_k,
chosen by binary variables y_k, and its product with x is the sum over k of v_k * p_k, where p_k is
x if y_k is 1 and else 0, because p_k <= upper bound of x * y_k and the sum of all p_k is x (Glover
1975, with the products of all values at once).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from fxprune.errors import InputError
from fxprune.passes.cost import Cost
from fxprune.passes.polynomials import Maximum, Polynomial
from fxprune.searching.spaces import Picks
from fxprune.searching.widths import KeepSets

_GAP = 1e-4
"""How far from the best a solution may be, as a share of what it loses."""


@dataclass(slots=True)
class _Program:
    """Columns with bounds, rows of constraints, and what is to be small."""

    upper: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def column(self, upper: float, *, whole: bool = False, cost: float = 0.0) -> int:
        """A variable from 0 to `upper`."""
        self.upper.append(upper)
        self.whole.append(int(whole))
        self.cost.append(cost)
        return len(self.upper) - 1

    def row(self, terms: Mapping[int, float], low: float, high: float) -> None:
        """`low` <= sum of terms <= `high`."""
        self.rows.append((dict(terms), low, high))

    def solve(self, seconds: float) -> np.ndarray:
        """The values of all columns.

        Raises:
            InputError: none was found.
        """
        entries = [(r, c, v) for r, (terms, *_) in enumerate(self.rows) for c, v in terms.items()]
        row, column, value = map(np.array, zip(*entries, strict=True))
        matrix = coo_array((value, (row, column)), shape=(len(self.rows), len(self.upper)))
        low, high = np.array([limits for _, *limits in self.rows]).T
        found = milp(
            np.array(self.cost),
            integrality=np.array(self.whole),
            bounds=Bounds(0, np.array(self.upper)),
            constraints=LinearConstraint(matrix.tocsr(), low, high),
            options={"time_limit": seconds, "mip_rel_gap": _GAP},
        )
        if found.x is None:
            raise InputError(
                f'sampler="milp" found no keep-set in {seconds:g} s ({found.message}): take a '
                "larger round_to, so that there are fewer widths, or another sampler"
            )
        values: np.ndarray = found.x
        return values


def best_picks(
    space: KeepSets,
    effects: Mapping[str, np.ndarray],
    costs: Mapping[str, Cost],
    seconds: float = 600.0,
) -> Picks:
    """The point within the limits of a space that loses least, to a gap of 1e-4 of what it loses.

    Args:
        space: keep-sets; what they keep of a group goes in its order of importance.
        effects: what every position loses, by group and branch.
        costs: what is limited, by name.
        seconds: how long is looked.

    Raises:
        InputError: a cost is no polynomial (latency), or nothing was found in time.
    """
    return _Linear(space, effects, costs).solve(seconds)


class _Linear:
    """A space as a linear program."""

    def __init__(
        self, space: KeepSets, effects: Mapping[str, np.ndarray], costs: Mapping[str, Cost]
    ) -> None:
        self._space, self._layout = space, space.layout
        self._program = _Program()
        self._choices = [self._choice(len(each.values)) for each in space.dimensions]
        self._products: dict[tuple[str, ...], tuple[dict[int, float], float]] = {(): ({}, 1.0)}
        self._values = space.values_by_name()
        self._lose(effects)
        for name, most in space.limits.items():
            self._limit(name, costs[name], most)

    def _choice(self, number: int) -> list[int]:
        """One of so many values."""
        columns = [self._program.column(1, whole=True) for _ in range(number)]
        self._program.row(dict.fromkeys(columns, 1.0), 1, 1)
        return columns

    def _lose(self, effects: Mapping[str, np.ndarray]) -> None:
        """What closes, as what is to be small; nothing inside of a closed branch."""
        scale = sum(float(np.abs(effect).sum()) for effect in effects.values()) or 1.0
        around: dict[int, list[str]] = {}
        for branch in range(self._layout.groups, len(self._layout.names)):
            for place in self._layout.inside[branch]:
                around.setdefault(place, []).append(self._layout.names[branch])
        for place, name in enumerate(self._layout.names):
            if name not in self._values:
                continue
            dimension, _ = self._values[name]
            lost = self._space.lost(name, effects[name]) / scale
            most = float(max(lost.max(), 0.0))
            total = self._program.column(most, cost=1.0)
            terms = {total: 1.0}
            for column, loss in zip(self._choices[dimension], lost, strict=True):
                terms[column] = terms.get(column, 0.0) - float(loss)
            slack = 0.0
            for outer in around.get(place, ()):
                if outer in self._values:
                    terms[self._open(outer)] = terms.get(self._open(outer), 0.0) - most
                    slack -= most
            self._program.row(terms, slack, np.inf)

    def _open(self, branch: str) -> int:
        """The column that is 1 where a branch is open."""
        dimension, _ = self._values[branch]
        return self._choices[dimension][1]

    def _limit(self, name: str, cost: Cost, most: float) -> None:
        if not isinstance(cost, Polynomial | Maximum):
            raise InputError(f'sampler="milp" needs costs that are exact: {name} is an estimate')
        for point in cost.points:
            terms: dict[int, float] = {}
            constant, scale = 0.0, 1.0 / (point.divisor * most)
            for coefficient, names in point.terms:
                found, factor = self._product(tuple(sorted(names)))
                if not found:
                    constant += coefficient * factor * scale
                for column, value in found.items():
                    terms[column] = terms.get(column, 0.0) + coefficient * value * scale
            if terms:
                self._program.row(terms, -np.inf, 1.0 - constant)

    def _product(self, names: tuple[str, ...]) -> tuple[dict[int, float], float]:
        """A product of variables as a sum over columns, and its largest value.

        A product without columns is a constant: its value.
        """
        if names in self._products:
            return self._products[names]
        first, rest = names[0], self._product(names[1:])
        if first not in self._values:
            fixed = self._space.fixed(first)
            result = ({c: v * fixed for c, v in rest[0].items()}, rest[1] * fixed)
        else:
            result = self._times(first, *rest)
        self._products[names] = result
        return result

    def _times(
        self, name: str, terms: dict[int, float], most: float
    ) -> tuple[dict[int, float], float]:
        dimension, values = self._values[name]
        columns = self._choices[dimension]
        largest = max(values) * most
        if not terms:
            return {c: v * most for c, v in zip(columns, values, strict=True)}, largest
        parts = [self._program.column(most) for _ in columns]
        for part, column in zip(parts, columns, strict=True):
            self._program.row({part: 1.0, column: -most}, -np.inf, 0)
        whole = dict.fromkeys(parts, 1.0)
        for column, value in terms.items():
            whole[column] = whole.get(column, 0.0) - value
        self._program.row(whole, 0, 0)
        return dict(zip(parts, map(float, values), strict=True)), largest

    def solve(self, seconds: float) -> Picks:
        """The best picks."""
        values = self._program.solve(seconds)
        return tuple(int(np.argmax(values[columns])) for columns in self._choices)
