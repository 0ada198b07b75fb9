"""How ONNX models are drawn: steps that add nodes to a graph, and the words that steps share.

A step is given an array and returns another. Alternatives are listed with the plainest first,
which is where Hypothesis shrinks to. What moved from attributes to inputs from one version of
ONNX to another is written as the version of the graph has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fxprune.testing.onnx.graphs import GraphBuilder

T = TypeVar("T")
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OpWriter:
    """Draws on `graph` what Hypothesis chooses; `kinds` may nest inside a step, `depth` deep."""

    draw: DrawFn
    graph: GraphBuilder
    kinds: tuple["StepKind", ...] = ()
    depth: int = 0

    def __call__(self, op_type: str, *inputs: str, **settings: Any) -> Any:
        """Add a node, see `GraphBuilder`."""
        return self.graph(op_type, *inputs, **settings)

    def pick(self, *options: T) -> T:
        """One of several options."""
        return self.draw(st.sampled_from(options))

    def shape(self, x: str) -> Shape:
        """The shape of a value."""
        return self.graph.shape(x)

    def weight(self, *shape: int) -> str:
        """A random parameter."""
        return self.graph.weight(*shape)

    def numbers(self, *numbers: int) -> str:
        """A vector of whole numbers."""
        return self.graph.numbers(*numbers)

    def number(self, value: float) -> str:
        """A single fractional number."""
        return self.graph.stored(np.array(value, dtype=np.float32))

    def axis(self, x: str, axis: int) -> int:
        """An axis counted from the front, or from version 11 on maybe from behind."""
        return self.pick(axis, axis - len(self.shape(x))) if self.knows(11) else axis

    def knows(self, version: int) -> bool:
        """Whether the graph has this version of the operators, or a later one."""
        return self.graph.opset >= version


Step = Callable[[OpWriter, str], str]


@dataclass(frozen=True, slots=True)
class StepKind:
    """A kind of step: how it is drawn, where it fits, the version of the operators it needs."""

    build: Step
    fits: Callable[[Shape], bool] = lambda shape: True
    keeps_size: bool = True
    since: int = 1
    nests: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """Models on one sort of data: how they start, their kinds of steps by name, how they end.

    `stem` is told how many inputs there are.
    """

    stem: Callable[[OpWriter, int], str]
    kinds: Mapping[str, StepKind]
    head: Step


def chain(op: OpWriter, x: str, limit: int) -> str:
    """Up to `limit` steps in a row; it ends where no kind fits."""
    for _ in range(limit):
        if not op.draw(st.integers(0, 3)):
            break
        fitting = [kind for kind in op.kinds if _fits(kind, op, x)]
        if not fitting:
            break
        x = op.pick(*fitting).build(op, x)
    return x


def _fits(kind: StepKind, op: OpWriter, x: str) -> bool:
    return kind.fits(op.shape(x)) and op.knows(kind.since) and (op.depth > 0 or not kind.nests)


def inside(op: OpWriter, x: str) -> str:
    """A chain inside a step, that keeps the size of the other axes."""
    kinds = tuple(kind for kind in op.kinds if kind.keeps_size)
    return chain(replace(op, kinds=kinds, depth=op.depth - 1), x, limit=2)


# Settings that are attributes in old versions, and inputs in new ones --------------------------


def numbered(
    op: OpWriter,
    op_type: str,
    x: str,
    name: str,
    numbers: Sequence[int],
    since: int,
    **settings: Any,
) -> Any:
    """A node whose `numbers` are an input from a version on, and an attribute before that."""
    if op.knows(since):
        return op(op_type, x, op.numbers(*numbers), **settings)
    return op(op_type, x, **{name: list(numbers)}, **settings)


def reduced(op: OpWriter, op_type: str, x: str, axes: Sequence[int], keep: bool = True) -> str:
    """A reduction along axes."""
    since = 13 if op_type == "ReduceSum" else 18
    return str(numbered(op, op_type, x, "axes", axes, since, keepdims=int(keep)))


def squeezed(op: OpWriter, x: str, *axes: int) -> str:
    """Without axes of one position."""
    return str(numbered(op, "Squeeze", x, "axes", axes, 13))


def unsqueezed(op: OpWriter, x: str, *axes: int) -> str:
    """With axes of one position."""
    return str(numbered(op, "Unsqueeze", x, "axes", axes, 13))


def split(op: OpWriter, x: str, axis: int, *sizes: int) -> list[str]:
    """Parts of an axis; equal ones may go without saying."""
    settings = {"axis": axis, "outputs": len(sizes)}
    if len(set(sizes)) == 1 and op.pick(False, True):
        number = {"num_outputs": len(sizes)} if op.knows(18) else {}
        return list(op("Split", x, **settings, **number))
    return list(numbered(op, "Split", x, "split", sizes, 13, **settings))


def cut(op: OpWriter, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
    """Positions of an axis; steps other than one need version 10."""
    if not op.knows(10):
        return str(op("Slice", x, axes=[axis], starts=[start], ends=[end]))
    bounds = [op.numbers(number) for number in (start, end, axis)]
    return str(op("Slice", x, *bounds, *([op.numbers(step)] if step != 1 else [])))


def padded(
    op: OpWriter, x: str, before: Sequence[int], after: Sequence[int], mode: str, value: float
) -> str:
    """Positions before and after those of every axis."""
    widths = [*before, *after]
    if not op.knows(11):
        return str(op("Pad", x, pads=widths, mode=mode, value=value))
    constant = [op.number(value)] if mode == "constant" and value else []
    return str(op("Pad", x, op.numbers(*widths), *constant, mode=mode))


def clipped(op: OpWriter, x: str, least: float, most: float | None = None) -> str:
    """Values between bounds, or above one."""
    if not op.knows(11):
        return str(op("Clip", x, min=least, **({} if most is None else {"max": most})))
    return str(op("Clip", x, op.number(least), *([] if most is None else [op.number(most)])))


def reshaped(op: OpWriter, x: str, *sizes: int) -> str:
    """Sizes as ONNX takes them: 0 is the size that the array has there, -1 what is left.

    They are stored, or computed from the shape of the array, as exporters write them.
    """
    batch = op.graph.batch
    how = op.pick("stored", "gathered", "sliced")
    if how == "stored" and isinstance(batch, int) and op.pick(False, True):
        known = [size or op.shape(x)[axis] for axis, size in enumerate(sizes)]
        return str(op("Reshape", x, op.numbers(*known)))
    if how == "stored" or 0 not in sizes:
        return str(op("Reshape", x, op.numbers(*sizes)))
    shape = op("Shape", x)
    parts = [
        op.numbers(size) if size else _size(op, shape, axis, how) for axis, size in enumerate(sizes)
    ]
    return str(op("Reshape", x, op("Concat", *parts, axis=0)))


def _size(op: OpWriter, shape: str, axis: int, how: str) -> str:
    """One number of a shape, as a vector."""
    if how == "sliced":
        return cut(op, shape, 0, axis, axis + 1)
    return unsqueezed(op, op("Gather", shape, op.graph.index(axis), axis=0), 0)


def joined(op: OpWriter, op_type: str, x: str, other: str) -> str:
    """Two operands in either order."""
    return str(op(op_type, *op.pick((x, other), (other, x))))


def divisors(number: int) -> list[int]:
    """The numbers of equal groups, the whole excluded."""
    return [n for n in range(2, number + 1) if number % n == 0]
