"""Given a keep-set, which edits make the model physically smaller?

Slices of parameters, new values of literals, additions that lose operands or get narrow ones. The
plan is computed from the types alone, so it serves every front end.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fxprune.errors import KeepSetError
from fxprune.ir import Graph
from fxprune.passes.axes import Axis, Kept, Prod, Space, evaluate, kept_flags, spaces
from fxprune.passes.branches import Branch
from fxprune.passes.facts import Types
from fxprune.passes.groups import Group
from fxprune.passes.kinds import ADDITIONS

KeepSet = Mapping[str, Sequence[bool]]
"""By name: for a group a flag per position, for a branch a single flag."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Keep positions `kept` of axis `dim` of `parameter`."""

    parameter: str
    dim: int
    kept: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.parameter}: keep {len(self.kept)} of axis {self.dim}"


@dataclass(frozen=True, slots=True)
class SetLiteral:
    """Write `value` into literal `slot` of `node`.

    Where it was `old` because it is a multiple of something that may differ from run to run (batch
    times heads), a literal that is computed is scaled by `value / old` instead; 0 means never. A
    size that the model asks for is always scaled: `value` is what it is told for ever.
    """

    node: str
    slot: tuple[str, int]
    value: int
    old: int = 0

    def __str__(self) -> str:
        name, index = self.slot
        return f"{self.node}: {name}[{index}] = {self.value}"


@dataclass(frozen=True, slots=True)
class DropOperand:
    """Let addition `node` go on without operand number `operand`."""

    node: str
    operand: int

    def __str__(self) -> str:
        return f"{self.node}: drop operand {self.operand}"


@dataclass(frozen=True, slots=True)
class ScatterOperand:
    """Let addition `node` add operand number `operand` to positions `kept` of axis `dim` only."""

    node: str
    operand: int
    dim: int
    kept: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.node}: add operand {self.operand} to {len(self.kept)} of axis {self.dim}"


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """Every edit that turns a model into a folded one; `removed` nodes are not needed any more."""

    slices: tuple[Slice, ...]
    literals: tuple[SetLiteral, ...]
    drops: tuple[DropOperand, ...]
    removed: tuple[str, ...]
    scatters: tuple[ScatterOperand, ...] = ()

    @property
    def edits(self) -> tuple[SetLiteral | DropOperand | ScatterOperand, ...]:
        """What changes nodes."""
        return (*self.literals, *self.drops, *self.scatters)

    def __str__(self) -> str:
        lines = map(str, (*self.slices, *self.edits))
        return "\n".join((*lines, *(f"{name}: remove" for name in self.removed)))


def check_keep_set(keep: KeepSet, groups: Iterable[Group], branches: Iterable[Branch]) -> None:
    """Raise KeepSetError unless every name is known, every size fits and no group is empty."""
    sizes = {g.name: g.size for g in groups if not g.pin} | {b.name: 1 for b in branches}
    pinned = {g.name: g.pin for g in groups if g.pin}
    channels = {g.name: g.numbers for g in groups}
    for name, flags in keep.items():
        if name in pinned:
            raise KeepSetError(f"group {name} is pinned ({pinned[name]}): leave it out")
        if name not in sizes:
            raise KeepSetError(f"no group or branch is called {name!r}; see fxprune.groups(gated)")
        if len(flags) != sizes[name]:
            raise KeepSetError(f"{name} has {sizes[name]} positions, the keep-set {len(flags)}")
        if name in channels and not any(flags):
            raise KeepSetError(
                f"{name} keeps nothing: keep at least one of {sizes[name]} positions"
            )
        numbers, kept = channels.get(name), sum(map(bool, flags))
        if numbers is not None and kept < len(flags) and not numbers.allow(kept):
            multiple = f", in a multiple of {numbers.multiple}" * (numbers.multiple > 1)
            raise KeepSetError(
                f"{name} keeps {kept} of {sizes[name]}: keep all, or at least {numbers.least}"
                f"{multiple} ({numbers.reason})"
            )


def plan_fold(
    graph: Graph,
    types: Types,
    groups: Iterable[Group],
    branches: Iterable[Branch],
    keep: KeepSet,
) -> FoldPlan:
    """Plan a fold.

    Requires: `types`, `groups` and `branches` found on `graph`.
    Ensures: an all-open keep-set gives an empty plan.

    Raises:
        KeepSetError: see `check_keep_set`.
    """
    groups, branches = tuple(groups), tuple(branches)
    check_keep_set(keep, groups, branches)
    kept: Kept = {
        g.space: tuple(keep[g.name]) for g in groups if g.name in keep and not all(keep[g.name])
    }
    closed = [b for b in branches if b.name in keep and not keep[b.name][0]]
    removed = dict.fromkeys(name for branch in closed for name in branch.nodes)
    drops = tuple(
        DropOperand(*place) for b in closed for place in b.places if place[0] not in removed
    )
    gone = {*removed, *(drop.node for drop in drops)}
    return FoldPlan(
        slices=_slices(graph, types, kept),
        literals=_literals(types, kept, removed),
        drops=drops,
        removed=tuple(removed),
        scatters=_scatters(graph, types, kept, gone),
    )


def _changes(axis: Axis, kept: Kept) -> bool:
    return any(space in kept for space in spaces(axis))


def _partly(axis: Axis, kept: Kept) -> bool:
    """Whether a product has a factor that changes and one that does not."""
    return isinstance(axis, Prod) and not all(_changes(factor, kept) for factor in axis.factors)


def _size(space: Space, kept: Kept) -> int:
    return sum(kept[space]) if space in kept else space.size


def _scatters(
    graph: Graph, types: Types, kept: Kept, gone: Collection[str]
) -> tuple[ScatterOperand, ...]:
    """Additions that get an operand narrower than they are."""
    additions = {n.name for n in graph.nodes if n.op in ADDITIONS} - set(gone)
    return tuple(
        ScatterOperand(reader.node, reader.operand, reader.dim, _indices(reader.axis, kept))
        for reader in types.readers
        if reader.node in additions and _changes(reader.axis, kept)
    )


def _indices(axis: Axis, kept: Kept) -> tuple[int, ...]:
    return tuple(i for i, flag in enumerate(kept_flags(axis, kept)) if flag)


def _slices(graph: Graph, types: Types, kept: Kept) -> tuple[Slice, ...]:
    indices: dict[Axis, tuple[int, ...]] = {}
    slices = []
    for parameter in graph.parameters:
        for dim, axis in enumerate(types.axes.get(parameter.name, ())):
            if not _changes(axis, kept):
                continue
            if axis not in indices:
                indices[axis] = _indices(axis, kept)
            slices.append(Slice(parameter.name, dim, indices[axis]))
    return tuple(slices)


def _literals(types: Types, kept: Kept, removed: Mapping[str, None]) -> tuple[SetLiteral, ...]:
    literals = []
    for literal in types.literals:
        if literal.node in removed or not _changes(literal.axis, kept):
            continue
        size = evaluate(literal.axis, lambda space: _size(space, kept))
        full = literal.axis.size
        if literal.frozen:
            literals.append(SetLiteral(literal.node, literal.slot, full, size))
        else:
            old = full if _partly(literal.axis, kept) else 0
            literals.append(SetLiteral(literal.node, literal.slot, size, old))
    return tuple(literals)
