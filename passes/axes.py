"""What is one axis of one tensor made of, and which axes are the same?

    Axis  :=  Space(n)                a leaf: n interchangeable positions
           |  Prod(Axis, Axis, ...)   row-major product: heads x head_dim, C x (H*W)
           |  Sum(Axis, Axis, ...)    concatenation: cat, split, channel padding

`Unifier` solves equations between axes. Binding a space to something refines it, cutting a space
turns it into a Sum. A pin says that a space may not change, and why; pinning is always sound, so
whatever cannot be expressed is pinned. Products drop factors of one position and sums drop empty
parts, so axes that differ in those alone have equal terms.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Space:
    """A set of `size` interchangeable positions; `id` tells spaces apart."""

    id: int
    size: int

    def __hash__(self) -> int:
        return self.id

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


T = TypeVar("T")


def interpret(
    axis: Axis,
    leaf: Callable[[Space], T],
    product: Callable[[list[T]], T],
    concat: Callable[[list[T]], T],
) -> T:
    """What an axis means, when its spaces, products and sums mean what the functions say.

    Nested as deep as the axis is, which is at most twice the logarithm of its size: products and
    sums are flat, and a factor has at most half of the positions of its product.

    >>> pair = product(Space(1, 3), concat(Space(2, 4), Space(3, 1)))
    >>> interpret(pair, str, " times ".join, " and ".join)
    's1:3 times s2:4 and s3:1'
    """
    if isinstance(axis, Space):
        return leaf(axis)
    if isinstance(axis, Prod):
        return product([interpret(factor, leaf, product, concat) for factor in axis.factors])
    return concat([interpret(part, leaf, product, concat) for part in axis.parts])


def spaces(axis: Axis) -> Sequence[Space]:
    """The leaves of an axis, left to right, with repetitions."""
    if isinstance(axis, Space):  # as most
        return [axis]
    found: list[Space] = []
    for part in axis.factors if isinstance(axis, Prod) else axis.parts:
        found.extend(spaces(part))
    return found


def _joined(lists: list[list[T]]) -> list[T]:
    return list(chain.from_iterable(lists))


def gated_part(axis: Axis, is_gated: Callable[[Space], bool]) -> tuple[int, Axis, int]:
    """What of an axis has gates: how often that is repeated, the part, how often each position.

    The sizes of the factors around it are those of the example: pictures and batches may have
    others in another run.

    >>> channels = Space(1, 8)
    >>> gated_part(product(channels, Space(2, 6), Space(3, 5)), lambda space: space is channels)[2]
    30
    """
    factors = axis.factors if isinstance(axis, Prod) else (axis,)
    gated = [i for i, factor in enumerate(factors) if any(map(is_gated, spaces(factor)))]
    first, last = (gated[0], gated[-1] + 1) if gated else (0, len(factors))
    before, after = (math.prod(f.size for f in part) for part in (factors[:first], factors[last:]))
    return before, product(*factors[first:last]), after


class Number(Protocol):
    """What sizes are made of when a cost is evaluated: ints, floats, or scalar tensors."""

    def __add__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...


def evaluate(axis: Axis, size_of: Callable[[Space], Any]) -> Any:
    """The number of positions of `axis` when each space has `size_of(space)` positions."""
    return interpret(axis, size_of, math.prod, sum)


Kept = Mapping[Space, Sequence[bool]]
"""The kept positions of the spaces that may lose some; absent spaces keep all."""


def kept_flags(axis: Axis, kept: Kept) -> list[bool]:
    """For every position of `axis`, whether it is kept."""
    return interpret(axis, lambda s: list(kept.get(s, ())) or [True] * s.size, _outer, _joined)


def _outer(factors: list[list[bool]]) -> list[bool]:
    """A position of a product is kept where all of its factors keep theirs."""
    flags = [True]
    for inner in factors:
        flags = [outer and flag for outer in flags for flag in inner]
    return flags


Equation = tuple[Axis, Axis]
"""Two axes that are to be the same."""


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
        """`axis` with everything that is known about its spaces put in.

        What bound spaces stand for is put into one another from the last one on; chains of them
        are as long as the model is deep, and short from then on.
        """
        if isinstance(axis, Space) and axis not in self._bound:
            return axis
        pending = self._bound_leaves(axis)
        if not pending:
            return axis
        while pending:
            bound = self._bound[pending[-1]]
            inner = self._bound_leaves(bound)
            open_ = [leaf for leaf in inner if self._bound_leaves(self._bound[leaf])]
            pending.extend(open_)
            if open_:
                continue
            space = pending.pop()
            if inner:
                self._bound[space] = self._put_in(bound)
        return self._put_in(axis)

    def _bound_leaves(self, axis: Axis) -> list[Space]:
        if isinstance(axis, Space):
            return [axis] if axis in self._bound else []
        return [leaf for leaf in spaces(axis) if leaf in self._bound]

    def _put_in(self, axis: Axis) -> Axis:
        if isinstance(axis, Space):
            return self._bound.get(axis, axis)
        return interpret(
            axis,
            lambda space: self._bound.get(space, space),
            lambda factors: product(*factors),
            lambda parts: concat(*parts),
        )

    def pin(self, axis: Axis, reason: str) -> None:
        """Forbid any change of `axis`; the first reason given to a space stays."""
        for space in spaces(self.resolve(axis)):
            self._pins.setdefault(space, reason)

    def reason(self, space: Space) -> str:
        """Why a resolved space is pinned; empty when it is free."""
        return self._pins.get(space, "")

    def unify(self, left: Axis, right: Axis, why: str) -> None:
        """Make two axes of equal size the same axis. `why` becomes the reason of a pin."""
        pending = [(left, right)]
        while pending:
            pending.extend(reversed(self._equate(*pending.pop(), why)))

    def _equate(self, left: Axis, right: Axis, why: str) -> list[Equation]:
        """One step of unification; the equations between parts or factors that are left."""
        if left is right or left.size == right.size == 1:
            return []
        left, right = self.resolve(left), self.resolve(right)
        if left == right:
            return []
        if left.size != right.size:
            self.pin(left, f"{why}: sizes {left.size} and {right.size} differ")
            self.pin(right, f"{why}: sizes {left.size} and {right.size} differ")
            return []
        if isinstance(left, Space):
            return self._bind(left, right, why)
        if isinstance(right, Space):
            return self._bind(right, left, why)
        if isinstance(left, Sum):
            return self._equate_parts(left, right)
        if isinstance(right, Sum):
            return self._equate_parts(right, left)
        return self._equate_factors(left, right, why)

    def split(self, axis: Axis, at: int) -> tuple[Axis, Axis]:
        """Cut an axis into its first `at` positions and the rest."""
        left, right = self.cut(axis, (at, axis.size - at))
        return left, right

    def cut(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """Cut an axis into consecutive pieces of these sizes; cut spaces become sums.

        A product is cut inside one position of its first factor where a cut falls there.
        """
        ends = list(accumulate(sizes))
        pieces = iter(
            self._pieces(axis, [end for end in dict.fromkeys(ends) if 0 < end < axis.size])
        )
        return [next(pieces) if size else EMPTY for size in sizes]

    def _pieces(self, axis: Axis, points: list[int]) -> list[Axis]:
        """What lies between points inside of an axis, which increase."""
        axis = self.resolve(axis)
        if not points:
            return [axis]
        if isinstance(axis, Sum):
            return self._pieces_of_sum(axis, points)
        if isinstance(axis, Prod):
            return self._pieces_of_product(axis, points)
        reason = self.reason(axis)
        pieces = [
            self.space(end - start, reason) for start, end in pairwise((0, *points, axis.size))
        ]
        self._bound[axis] = concat(*pieces)
        return pieces

    def _pieces_of_sum(self, axis: Sum, points: list[int]) -> list[Axis]:
        parts: list[Axis] = []
        start = 0
        for part in axis.parts:
            first, last = bisect_right(points, start), bisect_left(points, start + part.size)
            parts.extend(self._pieces(part, [point - start for point in points[first:last]]))
            start += part.size
        return _between(parts, points)

    def _pieces_of_product(self, axis: Prod, points: list[int]) -> list[Axis]:
        """Positions of the first factor stay whole, but for those with a point inside."""
        first, rest = axis.factors[0], product(*axis.factors[1:])
        inside: dict[int, list[int]] = {}
        for whole, within in (divmod(point, rest.size) for point in points):
            inside.setdefault(whole, []).extend([within] if within else [])
        edges = {edge for whole, at in inside.items() for edge in (whole, whole + bool(at))}
        parts: list[Axis] = []
        start = 0
        for rows in self._pieces(first, sorted(edges - {0, first.size})):
            parts.extend(self._pieces(product(rows, rest), inside.get(start, [])))
            start += rows.size
        return _between(parts, points)

    def _bind(self, space: Space, axis: Axis, why: str) -> list[Equation]:
        reason = self.reason(space)
        if space in spaces(axis):
            self.pin(axis, f"{why}: an axis would contain itself")
            return []
        self._bound[space] = axis
        if reason:
            self.pin(axis, reason)
        return []

    def _equate_parts(self, left: Sum, right: Axis) -> list[Equation]:
        """A sum with anything: cut the other at the sum's boundaries."""
        pieces = self.cut(right, [part.size for part in left.parts])
        return list(zip(left.parts, pieces, strict=True))

    def _equate_factors(self, left: Prod, right: Prod, why: str) -> list[Equation]:
        """Two products: align from the right, refine the larger of two unequal last factors."""
        lasts = left.factors[-1], right.factors[-1]
        if lasts[0].size < lasts[1].size:
            left, right, lasts = right, left, (lasts[1], lasts[0])
        large, small = lasts
        if large.size == small.size:
            return [(large, small), (product(*left.factors[:-1]), product(*right.factors[:-1]))]
        if large.size % small.size == 0:
            self.unify(large, product(self.space(large.size // small.size), small), why)
            large = self.resolve(large)
            if isinstance(large, Prod):
                return [(product(*left.factors[:-1], large), right)]
        # Of other sizes, or a sum whose boundaries fall inside `small`: expressible only position
        # by position.
        self.pin(left, f"{why}: {left} and {right} do not align")
        self.pin(right, f"{why}: {left} and {right} do not align")
        return []


def _between(parts: Iterable[Axis], points: Iterable[int]) -> list[Axis]:
    """Consecutive parts, joined to one piece between every two points."""
    edges = {0, *points}
    pieces: list[list[Axis]] = []
    start = 0
    for part in parts:
        if start in edges:
            pieces.append([])
        pieces[-1].append(part)
        start += part.size
    return [concat(*piece) for piece in pieces]
