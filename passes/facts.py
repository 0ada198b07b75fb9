"""What inference finds out: axes, pins, readers, contractions, literals; and the state of one walk.

Rules of operators state these facts through the methods of `Inference`; passes read `Types`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from fxprune.errors import InternalError
from fxprune.ir import Graph, Node, Value
from fxprune.passes.axes import Axis, Space, Unifier, spaces


class Reading(Enum):
    """How a reader sees the positions of an axis."""

    CONTRACT = "contract"  # a weighted sum: a closed position must contribute zero
    NORMALISE = "normalise"  # statistics: a closed position must not be counted
    CHOOSE = "choose"  # the largest are taken: a closed position must not be one of them
    SCATTER = "scatter"  # written into a wider array: a closed position must add zero


@dataclass(frozen=True, slots=True)
class Reader:
    """`node` mixes across axis `dim` of its operand number `operand`."""

    node: str
    operand: int
    dim: int
    axis: Axis
    reading: Reading


@dataclass(frozen=True, slots=True)
class Contraction:
    """`node` does as many multiply-accumulates as the product of the sizes of `axes`."""

    node: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Literal:
    """The literal `slot` of `node` is the size of `axis`; `frozen` literals keep their value.

    A size that the model asks for (`x.size(1)`) is frozen: all arithmetic on sizes goes on in
    the numbers of the original model, and only where a size shapes an array it is rewritten.
    """

    node: str
    slot: tuple[str, int]
    axis: Axis
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Numbers:
    """How many positions of an axis may stay, if not all: `least`, or more in a multiple; why."""

    least: int = 1
    multiple: int = 1
    reason: str = ""

    def allow(self, number: int) -> bool:
        """Whether so many may stay, of more."""
        return number >= self.least and number % self.multiple == 0

    def and_also(self, other: "Numbers") -> "Numbers":
        """What both allow."""
        reasons = dict.fromkeys(reason for reason in (self.reason, other.reason) if reason)
        least, multiple = max(self.least, other.least), math.lcm(self.multiple, other.multiple)
        return Numbers(least, multiple, "; ".join(reasons))


ANY_NUMBER = Numbers()


@dataclass(frozen=True, slots=True)
class Compared:
    """`node` compares positions along axis `dim` of its first operand."""

    node: Node
    dim: int
    axis: Axis


@dataclass(frozen=True, slots=True)
class Types:
    """What inference found. Axes are resolved: equal axes compare equal.

    `positional` are spaces of kernel and image positions, which no report needs to mention.
    `multiplied` are the operands that contractions multiply with one another, by node and number,
    `numbers` those of spaces of which not any number may stay.
    Ensures: every value of the graph has one axis per dimension, of the same size.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    pins: Mapping[Space, str]
    readers: tuple[Reader, ...]
    contractions: tuple[Contraction, ...]
    literals: tuple[Literal, ...]
    positional: frozenset[Space] = frozenset()
    multiplied: tuple[tuple[str, int], ...] = ()
    numbers: Mapping[Space, Numbers] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {' '.join(map(self._show, axes))}" for name, axes in self.axes.items()
        )

    def _show(self, axis: Axis) -> str:
        pinned = all(space in self.pins for space in spaces(axis))
        return f"{axis.size}!" if pinned else str(axis)

    def check(self, graph: Graph) -> None:
        """Raise InternalError unless every value has axes of its own sizes."""
        values = [*graph.inputs, *graph.parameters, *(v for n in graph.nodes for v in n.outputs)]
        for value in values:
            sizes = tuple(axis.size for axis in self.axes.get(value.name, ()))
            if value.name in self.axes and sizes != value.shape:
                raise InternalError(
                    f"inference gave {value.name} axes of sizes {sizes}, its shape is "
                    f"{value.shape}; please report this model"
                )


@dataclass(slots=True)
class Inference:
    """The state of one walk; rules state facts through its methods.

    `scattered` are operands of additions that may lose positions which the sum keeps. `compared` is
    what is pinned if nothing chooses among it, `positions` says by value of which axis its numbers
    are positions, `counts` are the values that count these, and `rows` says of which axis the rows
    are that a part of an array lies in.
    """

    unifier: Unifier = field(default_factory=Unifier)
    axes: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    multiplied: list[tuple[str, int]] = field(default_factory=list)
    literals: list[Literal] = field(default_factory=list)
    positional: list[Axis] = field(default_factory=list)
    scattered: Collection[tuple[str, int]] = ()
    compared: list[Compared] = field(default_factory=list)
    positions: dict[str, Axis] = field(default_factory=dict)
    counts: set[str] = field(default_factory=set)
    rows: dict[str, Axis] = field(default_factory=dict)
    numbers: list[tuple[Axis, Numbers]] = field(default_factory=list)

    def type_of(self, value: Value) -> tuple[Axis, ...]:
        """The axes of a value; a value that nobody computed gets free spaces (a parameter)."""
        if value.name not in self.axes:
            self.axes[value.name] = tuple(map(self.unifier.space, value.shape))
        return self.axes[value.name]

    def fresh(self, size: int, pin: str = "") -> Axis:
        """A new space."""
        return self.unifier.space(size, pin)

    def resolve(self, axis: Axis) -> Axis:
        """What is known about `axis` by now."""
        return self.unifier.resolve(axis)

    def unify(self, left: Axis, right: Axis, node: Node) -> None:
        """`node` makes two axes equal."""
        if left is not right:
            self.unifier.unify(left, right, node.place)

    def split(self, axis: Axis, at: int) -> tuple[Axis, Axis]:
        """Cut an axis in two."""
        return self.unifier.split(axis, at)

    def cut(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """Cut an axis into consecutive pieces."""
        return self.unifier.cut(axis, sizes)

    def pin(self, axis: Axis, reason: str) -> None:
        """Forbid any change of `axis`."""
        self.unifier.pin(axis, reason)

    def may_change(self, axis: Axis) -> bool:
        """Whether some part of `axis` is not pinned by now."""
        return any(not self.unifier.reason(space) for space in spaces(self.resolve(axis)))

    def literal(self, node: Node, slot: tuple[str, int], axis: Axis, frozen: bool = False) -> None:
        """State that a literal of `node` is the size of `axis`."""
        self.literals.append(Literal(node.name, slot, axis, frozen))

    def read(self, node: Node, operand: int, dim: int, reading: Reading) -> None:
        """State that `node` mixes across axis `dim` of an operand."""
        value = node.inputs[operand]
        assert value is not None
        axis = self.type_of(value)[dim]
        self.readers.append(Reader(node.name, operand, dim, axis, reading))

    def keep_numbers(self, axis: Axis, reason: str, least: int = 1, multiple: int = 1) -> None:
        """State how many positions of `axis` may stay if not all do."""
        self.numbers.append((axis, Numbers(least, multiple, reason)))

    def contracted(self, node: Node, axes: tuple[Axis, ...]) -> None:
        """State that `node` does as many multiply-accumulates as the product of the sizes."""
        self.contractions.append(Contraction(node.name, axes))

    def opaque(self, node: Node, reason: str) -> tuple[tuple[Axis, ...], ...]:
        """Pin every axis that goes in; what comes out is pinned as well."""
        for value in node.inputs:
            for axis in self.type_of(value) if value else ():
                self.pin(axis, reason)
        return tuple(tuple(self.fresh(n, pin=reason) for n in out.shape) for out in node.outputs)
