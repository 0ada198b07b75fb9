"""Costs as polynomials in the numbers of kept positions of groups, and in branches (0 or 1).

A size of an axis is a polynomial because a product of axes multiplies and a concatenation adds.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fxprune.passes.axes import Axis, Space, interpret

Monomials = dict[tuple[str, ...], int]
"""Coefficients by sorted variables."""

ONE: Monomials = {(): 1}


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A sum of `coefficient * variable * variable ...`, divided by `divisor`."""

    terms: tuple[tuple[float, tuple[str, ...]], ...]
    divisor: int = 1

    @property
    def points(self) -> "tuple[Polynomial, ...]":
        """A polynomial is the maximum of itself."""
        return (self,)

    def __call__(self, sizes: Mapping[str, Any]) -> Any:
        """The value for the given sizes by variable name."""
        total = sum(c * math.prod(sizes[name] for name in names) for c, names in self.terms)
        return total // self.divisor if isinstance(total, int) else total / self.divisor

    def __str__(self) -> str:
        return " + ".join("*".join((str(c), *names)) for c, names in self.terms) or "0"


@dataclass(frozen=True, slots=True)
class Maximum:
    """The largest of some polynomials."""

    points: tuple[Polynomial, ...]

    def __call__(self, sizes: Mapping[str, Any]) -> Any:
        """The value for the given sizes by variable name."""
        return max(point(sizes) for point in self.points)

    def __str__(self) -> str:
        return "max(" + ", ".join(map(str, self.points)) + ")"


class Sizes:
    """Expands sizes of axes into monomials; spaces without a name are constants.

    Those in `constants` have the sizes given there, all others their own.
    """

    def __init__(
        self, names: Mapping[Space, str], constants: Mapping[Space, int] | None = None
    ) -> None:
        self._names = names
        self._constants = constants or {}
        self._known: dict[tuple[Axis, ...], Monomials] = {}

    def of(self, *axes: Axis) -> Monomials:
        """The product of the sizes of `axes`, to be read only."""
        if axes not in self._known:
            sizes = [interpret(axis, self._of_space, _product, _total) for axis in axes]
            self._known[axes] = _product(sizes)
        return self._known[axes]

    def _of_space(self, space: Space) -> Monomials:
        if space in self._names:
            return {(self._names[space],): 1}
        return {(): self._constants.get(space, space.size)}


def _product(factors: Iterable[Monomials]) -> Monomials:
    return functools.reduce(times, factors, ONE)


def _total(parts: Iterable[Monomials]) -> Monomials:
    total: Monomials = {}
    for part in parts:
        add_to(total, part)
    return total


def times(left: Monomials, right: Monomials) -> Monomials:
    """The product of two sums."""
    if left == ONE:
        return dict(right)
    result: Monomials = {}
    for names, coefficient in left.items():
        for others, factor in right.items():
            key = tuple(sorted((*names, *others))) if names and others else names or others
            result[key] = result.get(key, 0) + coefficient * factor
    return result


def add_to(total: Monomials, more: Monomials, factor: int = 1) -> None:
    """Add a multiple of a sum to another, in place."""
    for names, coefficient in more.items():
        total[names] = total.get(names, 0) + factor * coefficient


def polynomial(monomials: Monomials, divisor: int = 1) -> Polynomial:
    """Collected monomials as a cost."""
    return Polynomial(tuple((c, names) for names, c in monomials.items() if c), divisor)
