"""Which axes of a model are the same? One walk over the graph, one rule per node.

The result says, for every value, what its axes are made of; for every node, which operand it
mixes along which axis (so where gates act), and which of its literals are sizes of axes (so what
folding rewrites). Anything a rule cannot express is pinned, with the reason.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.passes import choices, contractions, indexing, structural
from fxprune.passes.axes import Axis, Space, Sum, Unifier, product, spaces
from fxprune.passes.facts import (
    ANY_NUMBER,
    Contraction,
    Inference,
    Literal,
    Numbers,
    Reader,
    Reading,
    Types,
)
from fxprune.passes.operators import OPERATORS, Operand, Operator, Term


def infer(
    graph: Graph,
    ignored: Collection[str] = (),
    scattered: Collection[tuple[str, int]] = (),
    given: Mapping[str, tuple[Axis, ...]] = MappingProxyType({}),
    taken: int = 0,
) -> Types:
    """Infer what the axes of every value are made of.

    The operands `scattered` of additions (node, number) may lose channels that the sum keeps.
    `given` are the axes of inputs and parameters of a part of a larger graph, as found there, and
    `taken` is the last number that a space has there.

    Requires: nodes in execution order.
    Ensures: `Types.check`; the axes of graph inputs and outputs are pinned, and so is what the
    parameters called `ignored` produce (their first axis).
    """
    ids = (space.id for axes in given.values() for axis in axes for space in spaces(axis))
    known = (taken, *ids)
    state = Inference(unifier=Unifier(max(known)), axes=dict(given), scattered=frozenset(scattered))
    for parameter in graph.parameters:
        if parameter.name in ignored and parameter.shape:
            state.pin(state.type_of(parameter)[0], "ignored by the caller")
    for value in graph.inputs:
        pinned = tuple(state.fresh(n, pin="network input") for n in value.shape)
        state.axes.setdefault(value.name, pinned)
    for node in graph.nodes:
        for value, axes in zip(node.outputs, apply(state, node), strict=True):
            state.axes[value.name] = axes
    for value in graph.outputs if not given else ():
        for axis in state.type_of(value):
            state.pin(axis, "network output")
        if value.name in state.positions:
            state.pin(
                state.positions[value.name], "its positions are numbers that the model returns"
            )
    choices.settle_comparisons(state)
    types = _resolved(state)
    types.check(graph)
    return types


RULES = MappingProxyType(
    {**structural.RULES, **indexing.RULES, **choices.RULES, **contractions.RULES}
)
"""Every rule that is a function, by operator name."""


def apply(state: Inference, node: Node) -> tuple[tuple[Axis, ...], ...]:
    """What the rule of a node says: the axes of its outputs; it unifies those of its inputs."""
    outputs = _applied(state, node)
    choices.follow_positions(state, node)
    structural.follow_rows(state, node)
    return outputs


def _applied(state: Inference, node: Node) -> tuple[tuple[Axis, ...], ...]:
    if rule := RULES.get(node.op):
        return rule(state, node)
    if (operator := OPERATORS.get(node.op)) and (bound := _match(state, node, operator)):
        outputs = _apply_operator(state, node, operator, bound)
        if all(_fits(axes, value) for axes, value in zip(outputs, node.outputs, strict=True)):
            return outputs
    return state.opaque(node, f"{_why_not(node)} at {node.place}")


def _why_not(node: Node) -> str:
    """Why the axes of a node cannot be followed; front ends name a `form` that has no rule."""
    if form := node.attributes.get("form"):
        return f"{node.op} with {form}"
    if node.op in OPERATORS:
        return f"operands of an unexpected rank for {node.op}"
    return f"{'no rule for' if ' ' in node.op else 'unknown operator'} {node.op}"


def _fits(axes: tuple[Axis, ...], value: Value) -> bool:
    """Whether axes have the sizes of a value; broadcasting operands may not."""
    return tuple(axis.size for axis in axes) == value.shape


Bindings = dict[str, tuple[Axis, ...]]
"""The axes of each name of a pattern: one, or any number for a run of axes."""


def _match(state: Inference, node: Node, operator: Operator) -> Bindings | None:
    """Bind every name of the pattern to axes, unifying repeated ones; None if ranks differ."""
    if len(node.outputs) > len(operator.outputs):
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
        if len(term.names) == 1 and not term.star:  # as most
            (known,) = bound.setdefault(term.names[0], axes)
            state.unify(axes[0], known, node)
            continue
        if not term.star:
            names = [
                bound.setdefault(n, (_name_axis(state, n, term, axes, sizes),)) for n in term.names
            ]
            state.unify(axes[0], product(*(axis for (axis,) in names)), node)
            continue
        run = bound.setdefault(term.names[0], axes)
        if len(run) != len(axes):
            return None
        for left, right in zip(run, axes, strict=True):
            state.unify(left, right, node)
    for name in operator.pinned:
        for axis in bound.get(name, ()):
            state.pin(axis, f"mixed by {node.place}")
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
        for pattern, value in zip(operator.outputs, node.outputs, strict=False)
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
        (value.kind is ValueKind.PARAMETER, index, dim)
        for index, (operand, value) in enumerate(zip(operator.operands, node.inputs, strict=False))
        if value is not None
        for dim in _dims_of(operand, name, bound)
    ]
    state.multiplied.extend((node.name, index) for _, index, _ in places)
    _, index, dim = max(places)
    if bound[name][0].size > 1:  # over one position nothing is mixed
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
    resolve = cache(state.unifier.resolve)
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
        multiplied=tuple(dict.fromkeys(state.multiplied)),
        numbers=_numbers(state),
    )


def _numbers(state: Inference) -> dict[Space, Numbers]:
    """How many positions of spaces may stay, where not any number may."""
    found: dict[Space, Numbers] = {}
    for axis, numbers in state.numbers:
        for space, own in _numbers_in(state, state.resolve(axis), numbers):
            found[space] = found.get(space, ANY_NUMBER).and_also(own)
    return found


def _numbers_in(state: Inference, axis: Axis, numbers: Numbers) -> Iterator[tuple[Space, Numbers]]:
    """What the numbers of an axis ask of its spaces: of the first free factor of a product."""
    if isinstance(axis, Space):
        yield axis, numbers
    elif isinstance(axis, Sum):
        for part in axis.parts:
            yield from _numbers_in(state, part, numbers)
    else:
        free = [f for f in axis.factors if state.may_change(f)]
        whole = axis.size // math.prod(factor.size for factor in free)
        left = replace(
            numbers,
            least=-(-numbers.least // whole),
            multiple=numbers.multiple // math.gcd(numbers.multiple, whole),
        )
        if free:
            yield from _numbers_in(state, free[0], left)
