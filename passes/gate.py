"""Where do gates act? At the readers, and on the branches.

A reader that contracts gets a mask on the operand it mixes (a parameter wherever there is one, so
the work is weight-sized); a reader that takes statistics is replaced by its masked form; an
addition gets a scalar on each removable operand. Nothing else needs a gate: a closed channel that
is only carried is never seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fxprune.ir import Graph, Value
from fxprune.passes.axes import Axis, Space, spaces
from fxprune.passes.branches import Branch
from fxprune.passes.groups import Group
from fxprune.passes.infer import Reading, Types


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
    """Multiply operand number `operand` of the addition `node` by the gate of `branch`."""

    node: str
    operand: int
    branch: str

    def __str__(self) -> str:
        return f"{self.node}: operand {self.operand} times gate of {self.branch}"


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Every edit that turns a model into a gated one."""

    masks: tuple[MaskOperand, ...]
    forms: tuple[MaskedForm, ...]
    branches: tuple[GateBranch, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.masks, *self.forms, *self.branches)))


def plan_gates(
    graph: Graph, types: Types, groups: Iterable[Group], branches: Iterable[Branch]
) -> GatePlan:
    """Plan the gates.

    Ensures: every reader of a free group is masked, once per axis.
    """
    free: set[Space] = {group.space for group in groups if not group.pin}
    masks: list[MaskOperand] = []
    forms: list[MaskedForm] = []
    seen: set[tuple[str, int, int]] = set()
    for reader in types.readers:
        key = (reader.node, reader.operand, reader.dim)
        if key in seen or not any(space in free for space in spaces(reader.axis)):
            continue
        seen.add(key)
        if reader.reading is Reading.CONTRACT:
            masks.append(MaskOperand(reader.node, reader.operand, reader.dim, reader.axis))
        else:
            forms.append(MaskedForm(reader.node, reader.dim, reader.axis))
    gates = tuple(GateBranch(b.addition, b.operand, b.name) for b in branches)
    return GatePlan(tuple(masks), tuple(forms), gates)


def masked_value(graph: Graph, mask: MaskOperand) -> Value:
    """The array that a mask multiplies."""
    node = next(node for node in graph.nodes if node.name == mask.node)
    value = node.inputs[mask.operand]
    assert value is not None
    return value
