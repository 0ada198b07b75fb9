"""Which axes of a model are the same? One walk over the graph, one rule per node.

The result says, for every value, what its axes are made of; for every node, which operand it
mixes along which axis (so where gates act), and which of its literals are sizes of axes (so what
folding rewrites). Anything a rule cannot express is pinned, with the reason.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from fxprune.errors import InternalError
from fxprune.ir import Graph, Kind, Node, Value
from fxprune.passes import contractions, structural
from fxprune.passes.axes import Axis, Space, Unifier, product, spaces
from fxprune.passes.operators import OPERATORS, Operand, Operator, Term


class Reading(Enum):
    """How a reader sees the positions of an axis."""

    CONTRACT = "contract"  # a weighted sum: a closed position must contribute zero
    NORMALISE = "normalise"  # statistics: a closed position must not be counted
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
class Types:
    """What inference found. Axes are resolved: equal axes compare equal.

    `positional` are spaces of kernel and image positions, which no report needs to mention.
    Ensures: every value of the graph has one axis per dimension, of the same size.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    pins: Mapping[Space, str]
    readers: tuple[Reader, ...]
    contractions: tuple[Contraction, ...]
    literals: tuple[Literal, ...]
    positional: frozenset[Space] = frozenset()

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

    `scattered` are operands of additions that may lose positions which the sum keeps.
    """

    unifier: Unifier = field(default_factory=Unifier)
    axes: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    literals: list[Literal] = field(default_factory=list)
    positional: list[Axis] = field(default_factory=list)
    scattered: Collection[tuple[str, int]] = ()

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
        self.unifier.unify(left, right, node.place)

    def split(self, axis: Axis, at: int) -> tuple[Axis, Axis]:
        """Cut an axis in two."""
        return self.unifier.split(axis, at)

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

    def contracted(self, node: Node, axes: tuple[Axis, ...]) -> None:
        """State that `node` does as many multiply-accumulates as the product of the sizes."""
        self.contractions.append(Contraction(node.name, axes))

    def opaque(self, node: Node, reason: str) -> tuple[tuple[Axis, ...], ...]:
        """Pin every axis that goes in; what comes out is pinned as well."""
        for value in node.inputs:
            for axis in self.type_of(value) if value else ():
                self.pin(axis, reason)
        return tuple(tuple(self.fresh(n, pin=reason) for n in out.shape) for out in node.outputs)


def infer(
    graph: Graph, ignored: Collection[str] = (), scattered: Collection[tuple[str, int]] = ()
) -> Types:
    """Infer what the axes of every value are made of.

    The operands `scattered` of additions (node, number) may lose channels that the sum keeps.

    Requires: nodes in execution order.
    Ensures: `Types.check`; the axes of graph inputs and outputs are pinned, and so is what the
    parameters called `ignored` produce (their first axis).
    """
    state = Inference(scattered=frozenset(scattered))
    for parameter in graph.parameters:
        if parameter.name in ignored and parameter.shape:
            state.pin(state.type_of(parameter)[0], "ignored by the caller")
    for value in graph.inputs:
        state.axes[value.name] = tuple(state.fresh(n, pin="network input") for n in value.shape)
    for node in graph.nodes:
        for value, axes in zip(node.outputs, _apply(state, node), strict=True):
            state.axes[value.name] = axes
    for value in graph.outputs:
        for axis in state.type_of(value):
            state.pin(axis, "network output")
    types = _resolved(state)
    types.check(graph)
    return types


RULES = MappingProxyType({**structural.RULES, **contractions.RULES})
"""Every rule that is a function, by operator name."""


def _apply(state: Inference, node: Node) -> tuple[tuple[Axis, ...], ...]:
    if rule := RULES.get(node.op):
        return rule(state, node)
    if (operator := OPERATORS.get(node.op)) and (bound := _match(state, node, operator)):
        outputs = _apply_operator(state, node, operator, bound)
        if all(_fits(axes, value) for axes, value in zip(outputs, node.outputs, strict=True)):
            return outputs
    known = "operands of an unexpected rank for" if node.op in OPERATORS else "unknown operator"
    return state.opaque(node, f"{known} {node.op} at {node.place}")


def _fits(axes: tuple[Axis, ...], value: Value) -> bool:
    """Whether axes have the sizes of a value; broadcasting operands may not."""
    return tuple(axis.size for axis in axes) == value.shape


Bindings = dict[str, tuple[Axis, ...]]
"""The axes of each name of a pattern: one, or any number for a run of axes."""


def _match(state: Inference, node: Node, operator: Operator) -> Bindings | None:
    """Bind every name of the pattern to axes, unifying repeated ones; None if ranks differ."""
    if len(node.outputs) != len(operator.outputs):
        return None
    pairs = list(zip(operator.operands, node.inputs, strict=False))
    sizes = dict(_attribute(node, "sizes"))
    dims: list[tuple[Term, tuple[Axis, ...]]] = []
    for operand, value in pairs:
        if value is None:
            continue
        terms = _align(operand, state.type_of(value), sizes)
        if terms is None:
            return None
        dims.extend(terms)
    if not _solve_sizes(dims, sizes):
        return None
    bound: Bindings = {}
    for term, axes in dims:
        if not term.star:
            names = [
                bound.setdefault(n, (_name_axis(state, n, term, axes, sizes),)) for n in term.names
            ]
            state.unify(axes[0], product(*(axis for (axis,) in names)), node)
            continue
        known = bound.setdefault(term.names[0], axes)
        if len(known) != len(axes):
            return None
        for left, right in zip(known, axes, strict=True):
            state.unify(left, right, node)
    for name in operator.pinned:
        state.pin(bound[name][0], f"mixed by {node.place}")
    return bound


def _name_axis(
    state: Inference, name: str, term: Term, axes: tuple[Axis, ...], sizes: Mapping[str, int]
) -> Axis:
    return axes[0] if term.names == (name,) else state.fresh(sizes[name])


def _align(
    operand: Operand, axes: tuple[Axis, ...], sizes: dict[str, int]
) -> list[tuple[Term, tuple[Axis, ...]]] | None:
    """Pair the terms of an operand with runs of its axes; a star takes what is left over."""
    stars = [term for term in operand.terms if term.star]
    spare = len(axes) - (len(operand.terms) - len(stars))
    pairs: list[tuple[Term, tuple[Axis, ...]]] = []
    position = 0
    for term in operand.terms:
        if not term.star:
            width = 1
        elif "*" + term.names[0] in sizes:
            width = sizes["*" + term.names[0]]
        else:
            width = spare - sum(sizes.get("*" + other.names[0], 0) for other in stars)
        if width < 0 or position + width > len(axes):
            return None
        pairs.append((term, axes[position : position + width]))
        position += width
    return pairs if position == len(axes) else None


def _solve_sizes(dims: list[tuple[Term, tuple[Axis, ...]]], sizes: dict[str, int]) -> bool:
    """Find the size of every name from the sizes of the axes that contain it."""
    pending = [(term.names, axes[0].size) for term, axes in dims if not term.star]
    while pending:
        rest = []
        for names, size in pending:
            unknown = [name for name in names if name not in sizes]
            for name in names:
                if name in sizes and (sizes[name] == 0 or size % sizes[name]):
                    return False
                size //= sizes.get(name, 1)
            if len(unknown) == 1:
                sizes[unknown[0]] = size
            elif unknown:
                rest.append((names, size * _known(names, sizes)))
            elif size != 1:
                return False
        if len(rest) == len(pending):
            return False
        pending = rest
    return True


def _known(names: tuple[str, ...], sizes: Mapping[str, int]) -> int:
    result = 1
    for name in names:
        result *= sizes.get(name, 1)
    return result


def _attribute(node: Node, name: str) -> Mapping[str, int]:
    value = node.attributes.get(name, {})
    assert isinstance(value, Mapping)
    return value


def _apply_operator(
    state: Inference, node: Node, operator: Operator, bound: Bindings
) -> tuple[tuple[Axis, ...], ...]:
    outputs = tuple(
        _output_type(state, node, pattern, value, bound)
        for pattern, value in zip(operator.outputs, node.outputs, strict=True)
    )
    carried = {name for output in operator.outputs for name in output.names}
    for operand in operator.operands:
        for term in operand.terms:
            if term.star and term.names[0] not in carried:
                for axis in bound.get(term.names[0], ()):
                    state.pin(axis, f"mixed or indexed by position in {node.place}")
                    state.positional.append(axis)
    written = " ".join(map(str, _attribute(node, "slots").values())).split()
    for name in _attribute(node, "sizes"):
        for axis in bound[name] if name in bound and name not in written else ():
            state.pin(axis, f"a constant of {node.place}")
    for name in operator.contracted:
        if name in bound:  # or else it is of operands that are not given
            _read_contracted(state, node, operator, name, bound)
    for name in sorted(operator.normalised):
        _read_normalised(state, node, operator, name, bound)
    if operator.macs:
        axes = tuple(axis for name in operator.macs for axis in bound.get(name, ()))
        state.contracted(node, axes)
    for slot, names in node.attributes.get("slots", {}).items():  # type: ignore[attr-defined]
        for index, axis in enumerate(_slot_axes(names, bound)):
            state.literal(node, (slot, index), axis)
    return outputs


def _slot_axes(names: str, bound: Bindings) -> tuple[Axis, ...]:
    if names.startswith("*"):
        return bound[names[1:]]
    return (product(*(bound[name][0] for name in names.split())),)


def _output_type(
    state: Inference, node: Node, pattern: Operand, value: Value, bound: Bindings
) -> tuple[Axis, ...]:
    """Known names keep their axes; runs that only the output has are new and pinned."""
    width = len(value.shape) - sum(
        len(bound.get(t.names[0], ())) if t.star else 1 for t in pattern.terms
    )
    axes: list[Axis] = []
    for name in pattern.names:
        if name not in bound and name in _attribute(node, "sizes"):
            bound[name] = (state.fresh(_attribute(node, "sizes")[name]),)
    for term in pattern.terms:
        if not term.star:
            axes.append(product(*(bound[name][0] for name in term.names)))
        elif term.names[0] in bound:
            axes.extend(bound[term.names[0]])
        else:
            sizes = value.shape[len(axes) : len(axes) + width]
            new = tuple(state.fresh(n, pin=f"positions of {node.place}") for n in sizes)
            state.positional.extend(new)
            bound[term.names[0]] = new
            axes.extend(new)
    return tuple(axes)


def _read_contracted(
    state: Inference, node: Node, operator: Operator, name: str, bound: Bindings
) -> None:
    """A contraction masks one of its operands: a parameter if it can, else the last one."""
    places = [
        (value.kind is Kind.PARAMETER, index, dim)
        for index, (operand, value) in enumerate(zip(operator.operands, node.inputs, strict=False))
        if value is not None
        for dim in _dims_of(operand, name, bound)
    ]
    _, index, dim = max(places)
    state.read(node, index, dim, Reading.CONTRACT)


def _read_normalised(
    state: Inference, node: Node, operator: Operator, name: str, bound: Bindings
) -> None:
    for dim in _dims_of(operator.operands[0], name, bound):
        state.read(node, 0, dim, Reading.NORMALISE)


def _dims_of(operand: Operand, name: str, bound: Bindings) -> list[int]:
    """The dimensions of an operand that hold `name`."""
    dims: list[int] = []
    position = 0
    for term in operand.terms:
        width = len(bound[term.names[0]]) if term.star else 1
        dims.extend(range(position, position + width) if name in term.names else ())
        position += width
    return dims


def _resolved(state: Inference) -> Types:
    resolve = state.unifier.resolve
    axes = {name: tuple(map(resolve, axes)) for name, axes in state.axes.items()}
    leaves = dict.fromkeys(s for value in axes.values() for axis in value for s in spaces(axis))
    return Types(
        axes=axes,
        pins={space: reason for space in leaves if (reason := state.unifier.reason(space))},
        readers=tuple(
            Reader(r.node, r.operand, r.dim, resolve(r.axis), r.reading) for r in state.readers
        ),
        contractions=tuple(
            Contraction(c.node, tuple(map(resolve, c.axes))) for c in state.contractions
        ),
        literals=tuple(
            Literal(item.node, item.slot, resolve(item.axis), item.frozen)
            for item in state.literals
        ),
        positional=frozenset(s for axis in state.positional for s in spaces(resolve(axis))),
    )
