"""What flows through positions where they are read, and what do branches change, on data?

Front ends hand in the arrays of one batch after the other, as they are computed; what is kept of
them are moments by position, in doubles. So memory does not grow with the data, and results do not
depend on how it is cut into batches.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fxprune.errors import InputError
from fxprune.ir import Value, ValueKind
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import spaces
from fxprune.passes.branches import ends_of
from fxprune.passes.facts import Reader
from fxprune.ranking import WeightOf, along, finite, measured, parts_of, readers


class Moments:
    """Means by position of one axis, over all other axes of all arrays so far.

    >>> moments = Moments(2)
    >>> moments.add(np.array([[1.0, -1.0], [3.0, -1.0]]), 1)
    >>> moments.mean.tolist(), moments.variance.tolist(), moments.square.tolist()
    ([2.0, -1.0], [2.0, 0.0], [5.0, 1.0])
    """

    def __init__(self, size: int) -> None:
        self.count = np.zeros(size)
        self.mean = np.zeros(size)
        self.absolute = np.zeros(size)
        self._deviation = np.zeros(size)

    @property
    def square(self) -> np.ndarray:
        """The mean squares."""
        squares: np.ndarray = self._deviation / np.maximum(self.count, 1) + np.square(self.mean)
        return squares

    @property
    def variance(self) -> np.ndarray:
        """The sample variances."""
        variances: np.ndarray = self._deviation / np.maximum(self.count - 1, 1)
        return variances

    def add(self, array: np.ndarray, dim: int) -> None:
        """Count an array, a piece at a time; what is not finite counts as zero."""
        for part in parts_of(array.shape):
            piece = finite(array[part].astype(np.float64))
            if piece.size:
                self._merge(part[dim] if dim < len(part) else slice(None), piece, dim)

    def _merge(self, at: slice, piece: np.ndarray, dim: int) -> None:
        """Join the moments of two sets of numbers (Chan et al. 1979, equation 2.1)."""
        number = piece.size // piece.shape[dim]
        total = self.count[at] + number
        mean = along(piece, dim) / number
        shape = [-1 if axis == dim else 1 for axis in range(piece.ndim)]
        deviation = along(np.square(piece - mean.reshape(shape)), dim)
        apart = mean - self.mean[at]
        self._deviation[at] += deviation + np.square(apart) * self.count[at] * number / total
        self.mean[at] += apart * number / total
        magnitude = along(np.abs(piece), dim) / number
        self.absolute[at] += (magnitude - self.absolute[at]) * number / total
        self.count[at] = total


@dataclass(frozen=True, slots=True)
class Read:
    """A free group is read from axis `dim` of `array`, by `weight` where it is given weights."""

    array: Value
    dim: int
    weight: Value | None
    reader: Reader

    @property
    def computed_weight(self) -> tuple[tuple[Value, int], ...]:
        """The weights that read, and along which axis, where they are no parameter."""
        if self.weight is None or self.weight.kind is ValueKind.PARAMETER:
            return ()
        return ((self.weight, self.reader.dim),)


@dataclass(frozen=True, slots=True)
class _Sum:
    """An addition that a branch ends in: what it returns, what else goes in, the channel axis."""

    branch: str
    whole: Value
    others: tuple[Value, ...]
    dim: int


class Flow:
    """Moments of what free groups are read from, and influences of branches.

    `names` are those of the values that have to be handed in.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.reads = tuple(_reads(analysis))
        self._moments: dict[tuple[str, int], Moments] = {}
        for read in self.reads:
            for value, dim in ((read.array, read.dim), *read.computed_weight):
                self._moments.setdefault((value.name, dim), Moments(value.shape[dim]))
        self._sums: dict[str, list[_Sum]] = {}
        for one in _sums(analysis):
            self._sums.setdefault(one.whole.name, []).append(one)
        self._turns: dict[str, list[float]] = {}
        self._waiting: dict[str, np.ndarray] = {}
        self._uses = Counter(v.name for own in self._sums.values() for s in own for v in s.others)
        self._left: Counter[str] = Counter()
        self._dims: dict[str, list[int]] = {}
        for name, dim in self._moments:
            self._dims.setdefault(name, []).append(dim)
        self.names = frozenset({*self._dims, *self._sums, *self._uses})
        self.batches = 0

    def begin(self) -> None:
        """A batch comes, of arrays that are computed from one another."""
        self.batches += 1
        self._waiting.clear()
        self._left = self._uses.copy()

    def add(self, name: str, array: np.ndarray) -> None:
        """An array of this batch, before those that are computed from it; others may come too."""
        for dim in self._dims.get(name, ()):
            moments = self._moments[name, dim]
            if array.ndim > dim and array.shape[dim] == len(moments.mean):
                moments.add(array, dim)
        for one in self._sums.get(name, ()):
            self._turn(one, array)
        if self._left[name] > 0:
            self._waiting[name] = array

    def end(self) -> None:
        """The batch has been seen."""
        self._waiting.clear()

    def check(self, method: str) -> None:
        """Raise InputError if there was no data."""
        if not self.batches:
            raise InputError(f"{method} got no batch: the data is empty (or used up)")

    def of(self, read: Read) -> Moments:
        """What flows there."""
        return self._moments[read.array.name, read.dim]

    def norms(self, read: Read, weight_of: WeightOf) -> np.ndarray:
        """The square norms of the weights that read every position, all one where none do."""
        if read.weight is None:
            return np.ones(1)
        for value, dim in read.computed_weight:
            moments = self._moments[value.name, dim]
            return moments.square * moments.count / self.batches
        weight, dims = weight_of(read.weight.name), (read.reader.dim,)
        return measured(weight, read.weight.shape, dims, np.square)[0]

    @property
    def influences(self) -> dict[str, float]:
        """By branch 1 minus the mean cosine between what it is added to and the sum.

        The block influence of Men et al. 2024 (equation 1), of every position of every sample.
        """
        return {name: total / count for name, (total, count) in self._turns.items()}

    def _turn(self, one: _Sum, whole: np.ndarray) -> None:
        """How far an addition turns vectors of channels."""
        others = [self._waiting.get(value.name) for value in one.others]
        for value in one.others:
            self._left[value.name] -= 1
            if self._left[value.name] <= 0:
                self._waiting.pop(value.name, None)
        known = [array for array in others if array is not None]
        if len(known) < len(others) or whole.ndim <= one.dim or not whole.size:
            return
        try:
            before = np.broadcast_to(sum(known[1:], known[0]), whole.shape)
        except ValueError:  # the branch is the larger one
            return
        turned = self._turns.setdefault(one.branch, [0.0, 0.0])
        rows = [_rows(array, one.dim) for array in (before, whole)]
        for start in range(0, len(rows[0]), step := max(1, _PIECE // rows[0].shape[1])):
            cosines = _cosines(*(known[start : start + step] for known in rows))
            turned[0] += float((1 - cosines).sum())
            turned[1] += len(cosines)


_PIECE = 1 << 20
"""How many numbers are compared at once."""


def _rows(array: np.ndarray, dim: int) -> np.ndarray:
    """Vectors along an axis, one below the other."""
    return np.moveaxis(array, dim, -1).reshape(-1, array.shape[dim])


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Between rows; 0 where one of two is zero, 1 where both are."""
    left, right = (finite(array.astype(np.float64)) for array in (left, right))
    squares = np.square(left).sum(-1), np.square(right).sum(-1)
    product = np.sqrt(squares[0]) * np.sqrt(squares[1])
    both = (squares[0] == 0) & (squares[1] == 0)
    cosines: np.ndarray = np.where(
        product > 0, (left * right).sum(-1) / np.where(product > 0, product, 1), both
    )
    return cosines


def _reads(analysis: Analysis) -> Iterator[Read]:
    """From which axes of which arrays free groups are read."""
    free = {group.space for group in analysis.free_groups}
    for array, weight, reader in readers(analysis):
        wanted = free.intersection(spaces(reader.axis))
        for dim, axis in enumerate(analysis.types.axes[array.name] if array and wanted else ()):
            if not wanted.isdisjoint(spaces(axis)):
                assert array is not None
                yield Read(array, dim, weight, reader)


def _sums(analysis: Analysis) -> Iterator[_Sum]:
    """Where branches are added to something."""
    nodes = {node.name: node for node in analysis.graph.nodes}
    occurring = Counter(
        space
        for parameter in analysis.graph.parameters
        for axis in analysis.types.axes.get(parameter.name, ())
        for space in spaces(axis)
    )

    def channels(value: Value, dim: int) -> int:
        """In how many axes of parameters an axis is found: most for channels."""
        return max((occurring[s] for s in spaces(analysis.types.axes[value.name][dim])), default=0)

    for branch in analysis.branches:
        for whole, others in ends_of(branch, nodes):
            dims = range(min(1, len(whole.shape) - 1), len(whole.shape))
            if others and dims:
                dim = max(dims, key=lambda dim: channels(whole, dim))
                yield _Sum(branch.name, whole, others, dim)
