"""What is one axis of one tensor made of, and which axes are the same?

    Axis  :=  Space(n)                a leaf: n interchangeable positions
           |  Prod(Axis, Axis, ...)   row-major product: heads x head_dim, C x (H*W)
           |  Sum(Axis, Axis, ...)    concatenation: cat, split, channel padding

`Unifier` solves equations between axes. Binding a space to something refines it, cutting a space
turns it into a Sum. A pin says that a space may not change, and why; pinning is always sound, so
whatever cannot be expressed is pinned. Products drop factors of one position and sums drop empty
parts, so equal axes have equal terms.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Space:
    """A set of `size` interchangeable positions; `id` tells spaces apart."""

    id: int
    size: int

    def __str__(self) -> str:
        return f"s{self.id}:{self.size}"


@dataclass(frozen=True, slots=True)
class Prod:
    """A row-major product. Build it with `product`, which keeps it normal."""

    factors: tuple["Axis", ...]
    size: int

    def __str__(self) -> str:
        return "(" + " x ".join(map(str, self.factors)) + ")"


@dataclass(frozen=True, slots=True)
class Sum:
    """A concatenation. Build it with `concat`, which keeps it normal."""

    parts: tuple["Axis", ...]
    size: int

    def __str__(self) -> str:
        return "(" + " + ".join(map(str, self.parts)) + ")"


Axis = Space | Prod | Sum
ONE = Space(-1, 1)
"""The axis of one position: the unit of products."""
EMPTY = Sum((), 0)
"""The axis of no position: the unit of sums."""


def product(*axes: Axis) -> Axis:
    """The row-major product, flattened, without factors of one position."""
    factors: list[Axis] = []
    for axis in axes:
        factors.extend(axis.factors if isinstance(axis, Prod) else (axis,))
    factors = [factor for factor in factors if factor.size != 1]
    if not factors:
        return next((axis for axis in axes if isinstance(axis, Space)), ONE)
    if len(factors) == 1:
        return factors[0]
    return Prod(tuple(factors), math.prod(factor.size for factor in factors))


def concat(*axes: Axis) -> Axis:
    """The concatenation, flattened, without empty parts."""
    parts: list[Axis] = []
    for axis in axes:
        parts.extend(axis.parts if isinstance(axis, Sum) else (axis,))
    parts = [part for part in parts if part.size != 0]
    if len(parts) == 1:
        return parts[0]
    return Sum(tuple(parts), sum(part.size for part in parts))


def spaces(axis: Axis) -> Iterator[Space]:
    """The leaves of an axis, left to right, with repetitions."""
    if isinstance(axis, Space):
        yield axis
        return
    for child in axis.factors if isinstance(axis, Prod) else axis.parts:
        yield from spaces(child)


class Number(Protocol):
    """What sizes are made of when a cost is evaluated: ints, floats, or scalar tensors."""

    def __add__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...


def evaluate(axis: Axis, size_of: Callable[[Space], Any]) -> Any:
    """The number of positions of `axis` when each space has `size_of(space)` positions."""
    if isinstance(axis, Space):
        return size_of(axis)
    if isinstance(axis, Prod):
        return math.prod(evaluate(factor, size_of) for factor in axis.factors)
    return sum(evaluate(part, size_of) for part in axis.parts)


Kept = Mapping[Space, Sequence[bool]]
"""The kept positions of the spaces that may lose some; absent spaces keep all."""


def kept_flags(axis: Axis, kept: Kept) -> list[bool]:
    """For every position of `axis`, whether it is kept."""
    if isinstance(axis, Space):
        return list(kept.get(axis, ())) or [True] * axis.size
    if isinstance(axis, Sum):
        return [flag for part in axis.parts for flag in kept_flags(part, kept)]
    flags = [True]
    for factor in axis.factors:
        inner = kept_flags(factor, kept)
        flags = [outer and flag for outer in flags for flag in inner]
    return flags


class Unifier:
    """Solves equations between axes: a substitution of spaces, and pins with their reasons."""

    def __init__(self, first: int = 0) -> None:
        """`first` is the largest number of a space that is known already."""
        self._count = first
        self._bound: dict[Space, Axis] = {}
        self._pins: dict[Space, str] = {}

    def space(self, size: int, pin: str = "") -> Axis:
        """A new space of `size` positions, pinned if a reason is given."""
        if size == 0:
            return EMPTY
        self._count += 1
        space = Space(self._count, size)
        if pin:
            self._pins[space] = pin
        return space

    def resolve(self, axis: Axis) -> Axis:
        """`axis` with everything that is known about its spaces put in."""
        if isinstance(axis, Space):
            if axis not in self._bound:
                return axis
            self._bound[axis] = bound = self.resolve(self._chase(axis))
            return bound
        if isinstance(axis, Prod):
            if not any(leaf in self._bound for leaf in spaces(axis)):
                return axis
            return product(*map(self.resolve, axis.factors))
        if not any(leaf in self._bound for leaf in spaces(axis)):
            return axis
        return concat(*map(self.resolve, axis.parts))

    def _chase(self, space: Space) -> Axis:
        """The end of a chain of spaces bound to spaces (cut short: chains grow with depth)."""
        axis: Axis = space
        passed: list[Space] = []
        while isinstance(axis, Space) and axis in self._bound:
            passed.append(axis)
            axis = self._bound[axis]
        self._bound.update(dict.fromkeys(passed, axis))
        return axis

    def pin(self, axis: Axis, reason: str) -> None:
        """Forbid any change of `axis`; the first reason given to a space stays."""
        for space in spaces(self.resolve(axis)):
            self._pins.setdefault(space, reason)

    def reason(self, space: Space) -> str:
        """Why a resolved space is pinned; empty when it is free."""
        return self._pins.get(space, "")

    def unify(self, left: Axis, right: Axis, why: str) -> None:
        """Make two axes of equal size the same axis. `why` becomes the reason of a pin."""
        if left is right or left.size == right.size == 1:
            return
        left, right = self.resolve(left), self.resolve(right)
        if left == right:
            return
        if left.size != right.size:
            self.pin(left, f"{why}: sizes {left.size} and {right.size} differ")
            self.pin(right, f"{why}: sizes {left.size} and {right.size} differ")
        elif isinstance(left, Space):
            self._bind(left, right, why)
        elif isinstance(right, Space):
            self._bind(right, left, why)
        elif isinstance(left, Sum):
            self._unify_parts(left, right, why)
        elif isinstance(right, Sum):
            self._unify_parts(right, left, why)
        else:
            self._unify_factors(left, right, why)

    def split(self, axis: Axis, at: int) -> tuple[Axis, Axis]:
        """Cut an axis into its first `at` positions and the rest; cut spaces become sums.

        A product is cut inside one position of its first factor where the cut falls there.
        """
        axis = self.resolve(axis)
        if at == 0:
            return EMPTY, axis
        if at == axis.size:
            return axis, EMPTY
        if isinstance(axis, Sum):
            return self._split_sum(axis, at)
        if isinstance(axis, Prod):
            return self._split_product(axis, at)
        reason = self.reason(axis)
        left, right = self.space(at, reason), self.space(axis.size - at, reason)
        self._bound[axis] = concat(left, right)
        return left, right

    def _split_sum(self, axis: Sum, at: int) -> tuple[Axis, Axis]:
        before: list[Axis] = []
        for index, part in enumerate(axis.parts):
            if at < part.size:
                left, right = self.split(part, at)
                return concat(*before, left), concat(right, *axis.parts[index + 1 :])
            before.append(part)
            at -= part.size
        return concat(*before), EMPTY

    def _split_product(self, axis: Prod, at: int) -> tuple[Axis, Axis]:
        first, rest = axis.factors[0], product(*axis.factors[1:])
        whole, inside = divmod(at, rest.size)
        head, tail = self.split(first, whole)
        if not inside:
            return product(head, rest) if whole else EMPTY, product(tail, rest)
        one, tail = self.split(tail, 1)
        inner_left, inner_right = self.split(product(one, rest), inside)
        left = concat(product(head, rest), inner_left) if whole else inner_left
        return left, concat(inner_right, product(tail, rest)) if tail.size else inner_right

    def _bind(self, space: Space, axis: Axis, why: str) -> None:
        reason = self.reason(space)
        if space in spaces(axis):
            self.pin(axis, f"{why}: an axis would contain itself")
            return
        if isinstance(axis, Space) and self.reason(axis) and not reason:
            self._bound[space] = axis
            return
        self._bound[space] = axis
        if reason:
            self.pin(axis, reason)

    def _unify_parts(self, left: Sum, right: Axis, why: str) -> None:
        """A sum with anything: cut the other at the sum's boundaries."""
        rest: Axis = right
        for part in left.parts:
            piece, rest = self.split(rest, part.size)
            self.unify(part, piece, why)

    def _unify_factors(self, left: Prod, right: Prod, why: str) -> None:
        """Two products: align from the right, refine the larger of two unequal last factors."""
        lasts = left.factors[-1], right.factors[-1]
        if lasts[0].size < lasts[1].size:
            left, right, lasts = right, left, (lasts[1], lasts[0])
        large, small = lasts
        if large.size % small.size:
            self.pin(left, f"{why}: {left} and {right} do not align")
            self.pin(right, f"{why}: {left} and {right} do not align")
            return
        if large.size > small.size:
            refined = product(self.space(large.size // small.size), small)
            self.unify(large, refined, why)
            large = self.resolve(large)
            if not isinstance(large, Prod):
                # A sum whose boundaries fall inside `small`: expressible only position by position.
                self.pin(left, f"{why}: {left} and {right} do not align")
                self.pin(right, f"{why}: {left} and {right} do not align")
                return
            self.unify(product(*left.factors[:-1], large), right, why)
            return
        self.unify(large, small, why)
        self.unify(product(*left.factors[:-1]), product(*right.factors[:-1]), why)
