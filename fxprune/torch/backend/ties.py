"""Which sizes does a model's own code compute from one another?

    reshape(B, N, 3, self.heads, C // self.heads)

Every size in a call is an equation between products of sizes: of the axes that it cuts or makes, of
attributes, of the sizes that code asks for. All of them hold now; what they ask of the shares that
are kept has no constants:

    d = C / heads and heads = h        share(d) = share(C) / share(h)

Attributes are eliminated. What is left asks for equal shares (a tie), or, where more groups meet,
leaves whole what is inside of others, such as the dimensions of a head, until it does. What is
contracted between computed arrays is left whole first: gates for it act in the model's own code.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from fxprune.ir import ValueKind
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Prod, Space, Sum, concat, spaces
from fxprune.passes.facts import Literal, Reading
from fxprune.passes.ties import Tie
from fxprune.torch.backend.attributes import SHAPES, written
from fxprune.torch.frontend.origins import Attribute, Origin
from fxprune.torch.frontend.owners import OWNER
from fxprune.torch.frontend.spellings import bare_name

_Size = Space | Sum | Attribute
_Powers = dict[_Size, int]
"""A product of sizes: how often each is a factor. Of shares it equals one."""


@dataclass(frozen=True, slots=True)
class _Equation:
    powers: _Powers
    place: str


def sizes_in_step(graph: fx.Graph, analysis: Analysis) -> tuple[dict[Space, str], tuple[Tie, ...]]:
    """The spaces that stay whole, with the reason, and the groups that keep equal shares.

    So that the model's own code can compute the sizes of what is left.
    """
    names = {group.space: group.name for group in analysis.free_groups}
    reader = _Reader(graph, analysis.types.literals, names)
    solver = _Solver(_without_attributes(list(reader.equations())), _between_arrays(analysis))
    solver.solve()
    ties = [
        Tie(tuple(names[space] for space in tied), solver.reasons[tied[0]])
        for tied in solver.tied()
    ]
    return {s: text for s, text in solver.whole.items() if s in names}, tuple(ties)


def _between_arrays(analysis: Analysis) -> set[Space]:
    """The spaces that computed arrays are contracted along."""
    nodes = {node.name: node for node in analysis.graph.nodes}
    return {
        space
        for reader in analysis.types.readers
        if reader.reading is Reading.CONTRACT
        and not any(v and v.kind is ValueKind.PARAMETER for v in nodes[reader.node].inputs)
        for space in spaces(reader.axis)
    }


class _Reader:
    """Reads equations from calls."""

    def __init__(
        self, graph: fx.Graph, literals: Iterable[Literal], free: Mapping[Space, str]
    ) -> None:
        self._nodes = {node.name: node for node in graph.nodes}
        self._literals = list(literals)
        self._free = free
        self._asked = {
            (each.node, each.slot[1]): each.axis
            for each in self._literals
            if each.slot[0] == "value" and bare_name(self._nodes[each.node]) == "size"
        }

    def equations(self) -> Iterator[_Equation]:
        """What code says of the sizes that it writes in calls."""
        for literal in self._literals:
            node = self._nodes[literal.node]
            if node.op == "call_module" or literal.slot[0] not in SHAPES:
                continue
            origin = written(node, literal)
            said = None if origin is None else self._of_origin(origin)
            if said is None:
                continue
            if powers := _product(self._of_axis(literal.axis), said, -1):
                yield _Equation(powers, str(node.meta[OWNER]) or "the model")
        yield from self._equal_parts()

    def _equal_parts(self) -> Iterator[_Equation]:
        """Where code asks for a number of parts, they have one size."""
        first: dict[str, Axis] = {}
        for literal in self._literals:
            node = self._nodes[literal.node]
            if literal.slot[0] != "sizes" or not _asks_for_a_number(node):
                continue
            axis = first.setdefault(node.name, literal.axis)
            powers = _product(self._of_axis(axis), self._of_axis(literal.axis), -1)
            if powers and axis.size == literal.axis.size:
                yield _Equation(powers, str(node.meta[OWNER]) or "the model")

    def _of_axis(self, axis: Axis) -> _Powers:
        """An axis as a product of what is free in it; what is joined to itself is a multiple."""
        free = [space for space in spaces(axis) if space in self._free]
        if isinstance(axis, Space):
            return dict.fromkeys(free, 1)
        if isinstance(axis, Prod):
            return _all(map(self._of_axis, axis.factors))
        part = concat(*_repeated(axis.parts))
        return ({part: 1} if isinstance(part, Sum) else self._of_axis(part)) if free else {}

    def _of_origin(self, origin: Origin) -> _Powers | None:
        """What is written for a size, as a product; None for what is none."""
        if isinstance(origin, Attribute):
            return {origin: 1}
        if isinstance(origin, fx.Node):
            axis = self._asked.get((origin.name, int(origin.args[1])))  # type: ignore[arg-type]
            return None if axis is None else self._of_axis(axis)
        if isinstance(origin, int) or origin.op not in _SIGNS:
            return None
        left, right = self._of_origin(origin.left), self._of_origin(origin.right)
        if origin.op == "floordiv" and isinstance(origin.right, int):
            right = {}  # a part follows, where a multiple in plain numbers cannot
        return _combined(left, right, _SIGNS[origin.op])


def _asks_for_a_number(node: fx.Node) -> bool:
    """Whether a call cuts an axis in a number of parts, and does not say where."""
    if bare_name(node) not in ("chunk", "tensor_split"):
        return False
    return not any(isinstance(item, list | tuple) for item in (*node.args, *node.kwargs.values()))


def _repeated(parts: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The shortest run of parts that, once or again and again, are all parts."""
    lengths = (n for n in range(1, len(parts) + 1) if parts == parts[:n] * (len(parts) // n))
    return parts[: next(lengths)]


_SIGNS = {"mul": 1, "floordiv": -1}


def _product(left: _Powers, right: _Powers, sign: int) -> _Powers:
    """One product times another, or divided by it."""
    powers = dict(left)
    for size, power in right.items():
        powers[size] = powers.get(size, 0) + sign * power
    return {size: power for size, power in powers.items() if power}


def _combined(left: _Powers | None, right: _Powers | None, sign: int) -> _Powers | None:
    return None if left is None or right is None else _product(left, right, sign)


def _all(parts: Iterable[_Powers]) -> _Powers:
    total: _Powers = {}
    for part in parts:
        total = _product(total, part, 1)
    return total


def _without_attributes(equations: list[_Equation]) -> list[_Equation]:
    """What equations say of spaces: each attribute is replaced by what one of them says it is."""
    attributes: dict[Attribute, None] = {}
    for equation in equations:
        attributes |= dict.fromkeys(s for s in equation.powers if isinstance(s, Attribute))
    for attribute in attributes:
        told = [each for each in equations if attribute in each.powers]
        if not told:
            continue
        own = min(told, key=lambda each: (abs(each.powers[attribute]), len(each.powers)))
        equations = [each for each in equations if attribute not in each.powers]
        equations += [_eliminated(attribute, each, own) for each in told if each is not own]
    return equations


def _eliminated(attribute: Attribute, equation: _Equation, by: _Equation) -> _Equation:
    """An equation to such a power that a power of another takes an attribute out of it."""
    own, other = equation.powers[attribute], by.powers[attribute]
    powers = _product(_power(equation.powers, other), _power(by.powers, own), -1)
    common = math.gcd(*powers.values())
    return _Equation({size: power // common for size, power in powers.items()}, equation.place)


def _power(powers: _Powers, exponent: int) -> _Powers:
    return {size: power * exponent for size, power in powers.items()}


class _Solver:
    """Ties spaces, and leaves some whole, until every equation holds for what is kept."""

    def __init__(self, equations: list[_Equation], inner: set[Space]) -> None:
        """`inner` are the spaces that are left whole first."""
        self._equations = equations
        self._inner = inner
        self._same: dict[Space, Space] = {}
        self.whole: dict[Space, str] = {}
        self.reasons: dict[Space, str] = {}

    def solve(self) -> None:
        """Take the equation with the fewest sizes until there is none."""
        while self._equations:
            now = [_Equation(self._reduced(each.powers), each.place) for each in self._equations]
            self._equations = [each for each in now if each.powers]
            if self._equations:
                self._satisfy(min(self._equations, key=lambda each: len(each.powers)))

    def tied(self) -> Iterator[list[Space]]:
        """Spaces that keep equal shares."""
        tied: dict[Space, list[Space]] = {}
        for space in self._same:
            tied.setdefault(self._first(space), []).append(space)
        for first, others in tied.items():
            if first not in self.whole:
                yield [first, *others]
            else:
                self.whole |= dict.fromkeys(others, self.whole[first])

    def _satisfy(self, equation: _Equation) -> None:
        """Tie two spaces, or leave whole what is inside, down to one space on each side.

        Parts that are joined have shares of their own, which no code can follow.
        """
        powers = equation.powers
        inner = [s for size in powers for s in _spaces(size) if s in self._inner - set(self.whole)]
        if not inner and any(isinstance(size, Sum) for size in powers):
            self._equations.remove(equation)
            return
        sides = [[size for size in powers if powers[size] == side] for side in (1, -1)]
        outer = [min(side, key=_age) for side in sides] if all(sides) and not inner else []
        if len(powers) == len(outer):
            first, other = (space for size in sorted(outer, key=_age) for space in _spaces(size))
            self._same[other] = first
            text = f"code of {equation.place} computes one size from the other"
            self.reasons.setdefault(first, text)
            return
        text = f"code of {equation.place} computes its size from others; in_kind=False frees it"
        rest = inner or (s for size in powers if size not in outer for s in _spaces(size))
        self.whole |= dict.fromkeys(map(self._first, rest), text)

    def _reduced(self, powers: _Powers) -> _Powers:
        """An equation between sizes that are not whole, each by the first that it is tied to."""
        reduced: _Powers = {}
        for size, power in powers.items():
            first = self._first(size) if isinstance(size, Space) else size
            if not all(self._first(space) in self.whole for space in _spaces(first)):
                reduced = _product(reduced, {first: power}, 1)
        return reduced

    def _first(self, space: Space) -> Space:
        while space in self._same:
            space = self._same[space]
        return space


def _spaces(size: _Size) -> Iterable[Space]:
    assert not isinstance(size, Attribute)
    return spaces(size)


def _age(size: _Size) -> int:
    """What is outside comes before what is inside of it: heads before their dimensions."""
    return max(space.id for space in _spaces(size))
