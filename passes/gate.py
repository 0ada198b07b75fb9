"""Where do gates act? At the readers, and on the branches.

A reader that contracts gets a mask on the operand it mixes (a parameter wherever there is one, so
the work is weight-sized); a reader that takes statistics is replaced by its masked form; an
addition gets a scalar on each removable operand, and a mask on each that is scattered. Nothing else
needs a gate: a closed channel that is only carried is never seen.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.passes.axes import Axis, Space, spaces
from fxprune.passes.branches import Branch
from fxprune.passes.condition import Condition
from fxprune.passes.facts import Reader, Reading, Types
from fxprune.passes.groups import Group
from fxprune.passes.kinds import HOMOGENEOUS
from fxprune.passes.operators import OPERATORS


@dataclass(frozen=True, slots=True)
class MaskOperand:
    """Multiply operand number `operand` of `node` by the mask of `axis` along `dim`."""

    node: str
    operand: int
    dim: int
    axis: Axis

    def __str__(self) -> str:
        return f"{self.node}: mask operand {self.operand} along {self.dim} by {self.axis}"


@dataclass(frozen=True, slots=True)
class MaskedForm:
    """Let `node` take its statistics over the open positions of `axis` (its `dim`) only."""

    node: str
    dim: int
    axis: Axis

    def __str__(self) -> str:
        return f"{self.node}: statistics along {self.dim} over {self.axis}"


@dataclass(frozen=True, slots=True)
class GateBranch:
    """Multiply operands of `node` by the gate of `branch`.

    The node is the addition itself, or the last operator of the branch where that is linear in
    its parameters, so that the work is weight-sized.
    """

    node: str
    operands: tuple[int, ...]
    branch: str

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.operands))
        return f"{self.node}: operand {numbers} times gate of {self.branch}"


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Every edit that turns a model into a gated one."""

    masks: tuple[MaskOperand, ...]
    forms: tuple[MaskedForm, ...]
    branches: tuple[GateBranch, ...]
    conditions: tuple[Condition, ...] = ()

    @property
    def edits(self) -> "tuple[MaskOperand | MaskedForm | GateBranch, ...]":
        """What changes nodes, conditions aside."""
        return (*self.masks, *self.forms, *self.branches)

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.edits, *self.conditions)))


def plan_gates(
    graph: Graph,
    types: Types,
    groups: Iterable[Group],
    branches: Iterable[Branch],
    conditions: Iterable[Condition] = (),
) -> GatePlan:
    """Plan the gates; those of `conditions` act where these say.

    Ensures: every reader of a free group is masked, once per axis.
    """
    conditions = tuple(conditions)
    conditioned = {condition.name for condition in conditions}
    free: set[Space] = {g.space for g in groups if not g.pin and g.name not in conditioned}
    branches = [branch for branch in branches if branch.name not in conditioned]
    masks: list[MaskOperand] = []
    forms: list[MaskedForm] = []
    scattered: list[Reader] = []
    seen: set[tuple[str, int, int]] = set()
    for reader in types.readers:
        key = (reader.node, reader.operand, reader.dim)
        if key in seen or not any(space in free for space in spaces(reader.axis)):
            continue
        seen.add(key)
        if reader.reading is Reading.CONTRACT:
            masks.append(MaskOperand(reader.node, reader.operand, reader.dim, reader.axis))
        elif reader.reading in (Reading.NORMALISE, Reading.CHOOSE):
            forms.append(MaskedForm(reader.node, reader.dim, reader.axis))
        else:
            scattered.append(reader)
    ends = _Ends(graph, replaced={form.node for form in forms})
    masks.extend(mask for reader in scattered for mask in ends.masked(types, reader))
    scalars = tuple(
        GateBranch(*ends.scaled(addition, operand), branch.name)
        for branch in branches
        for addition, operand in branch.places
    )
    return GatePlan(tuple(masks), tuple(forms), scalars, conditions)


class _Ends:
    """Where the last operator of a branch can be scaled instead of what it returns."""

    def __init__(self, graph: Graph, replaced: Collection[str]) -> None:
        """Nodes that are `replaced` stay as they are."""
        self._nodes = {node.name: node for node in graph.nodes}
        self._producers, self._users = graph.producers(), graph.users()
        self._replaced = replaced

    def scaled(self, addition: str, operand: int) -> tuple[str, tuple[int, ...]]:
        """The node and the operands of it to scale, so that an operand of an addition is."""
        last = self._alone(self._nodes[addition].inputs[operand])
        while last and last.op in HOMOGENEOUS:
            last = self._alone(last.inputs[0])
        scaled = _linear_operands(last) if last else ()
        return (last.name, scaled) if last and scaled else (addition, (operand,))

    def _alone(self, value: Value | None) -> Node | None:
        """What computes a value that has one reader, unless it is replaced."""
        assert value is not None
        last = self._producers.get(value.name)
        alone = len(self._users[value.name]) == 1
        return last if last and alone and last.name not in self._replaced else None

    def masked(self, types: Types, reader: Reader) -> list[MaskOperand]:
        """Where to mask, so that what `reader` sees is masked."""
        name, operands = self.scaled(reader.node, reader.operand)
        inputs = self._nodes[name].inputs
        axes = [types.axes[value.name] for i in operands if (value := inputs[i])]
        if any(own.count(reader.axis) != 1 for own in axes):  # unclear which one it makes
            return [MaskOperand(reader.node, reader.operand, reader.dim, reader.axis)]
        return [
            MaskOperand(name, operand, own.index(reader.axis), reader.axis)
            for operand, own in zip(operands, axes, strict=True)
        ]


def _linear_operands(node: Node) -> tuple[int, ...]:
    """The parameters that scale the whole output; none if the operator has no weight."""
    operator = OPERATORS.get(node.op)
    linear = operator.linear if operator else ()
    present = tuple(i for i in linear if i < len(node.inputs) and node.inputs[i] is not None)
    weights = [value for i in present if (value := node.inputs[i]) is not None]
    scalable = bool(linear) and linear[0] in present
    return present if scalable and all(v.kind is ValueKind.PARAMETER for v in weights) else ()
