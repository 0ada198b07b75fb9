"""Which masks of a plan stand on parameters of one module, whatever its own code does with them?

`F.linear(x, self.weight)`, or a stack of experts that is transposed first, is masked in the
parameter, so that the module keeps its code, which sees what is masked already.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.passes.cost import lies_in
from fxprune.passes.gate import MaskOperand
from fxprune.torch.frontend.owners import OWNER
from fxprune.torch.frontend.program import Program

OwnMasks = Mapping[str, Sequence[MaskOperand]]
"""By parameter of a module what masks it, along which axes of the parameter itself."""

_TURNED = frozenset({"permute", "identity"})
"""What gives a parameter other axes in order, or another type, at most."""


def masks_of_parameters(
    program: Program, edits: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, OwnMasks]]:
    """The modules all of whose edits are masks of own parameters, alike wherever these are read.

    `edits` are those of a gate plan, by node. The model itself is none of these modules, nor is
    one that keeps arrays in attributes: its code runs on a twin, which would keep them.
    """
    owners = {node.name: str(node.meta[OWNER]) for node in program.graph.nodes}
    calls = {node.name for node in program.graph.nodes if node.op == "call_module"}
    readings = _Readings(program.ir)
    by_owner: dict[str, list[str]] = {}
    for name in edits:
        if name not in calls:
            by_owner.setdefault(owners[name], []).append(name)
    keeping = {path for path, _ in program.kept}
    for path, names in by_owner.items():
        if path and path not in keeping:
            found = _of_module(path, [e for name in names for e in edits[name]], readings)
            wholly = all(len(program.aliases[f"{path}.{name}"]) == 1 for name in found or ())
            if found and wholly:
                yield path, found


def _of_module(path: str, edits: Sequence[Any], readings: "_Readings") -> OwnMasks | None:
    masks: dict[str, dict[tuple[str, int], list[MaskOperand]]] = {}
    for edit in edits:
        own = readings.parameter_of(edit) if isinstance(edit, MaskOperand) else None
        if own is None or own[0].rpartition(".")[0] != path:
            return None
        name, dim = own
        of_reader = masks.setdefault(name, {}).setdefault((edit.node, edit.operand), [])
        of_reader.append(replace(edit, node="", operand=0, dim=dim))
    for name, by_reader in masks.items():
        alike = {frozenset(several) for several in by_reader.values()}
        if len(alike) > 1 or readings.of(name) != by_reader.keys():
            return None
    return {n.rpartition(".")[2]: next(iter(found.values())) for n, found in masks.items()}


class _Readings:
    """Who reads the parameters of a graph, past what only turns them."""

    def __init__(self, graph: Graph) -> None:
        self._nodes = {node.name: node for node in graph.nodes}
        self._producers, self._users = graph.producers(), graph.users()

    def parameter_of(self, mask: MaskOperand) -> tuple[str, int] | None:
        """The parameter that an operand is, and which of its axes is masked."""
        value, dim = self._nodes[mask.node].inputs[mask.operand], mask.dim
        while value is not None and value.kind is ValueKind.COMPUTED:
            node = self._producers[value.name]
            if node.op not in _TURNED:
                return None
            dim = _order(node, value)[dim]
            value = node.inputs[0]
        if value is None or value.kind is not ValueKind.PARAMETER:
            return None
        return value.name, dim

    def of(self, name: str) -> set[tuple[str, int]]:
        """The nodes that read a parameter, and as which operand."""
        found: set[tuple[str, int]] = set()
        for node in self._users.get(name, ()):
            if node.op in _TURNED:
                for value in node.outputs:
                    found |= self.of(value.name)
            elif node.op != "size":
                places = enumerate(node.inputs)
                found |= {(node.name, i) for i, value in places if value and value.name == name}
        return found


def _order(node: Node, value: Value) -> Sequence[int]:
    """Which axis of its operand each axis of a result is."""
    order: Any = node.attributes.get("order", range(len(value.shape)))
    return order  # type: ignore[no-any-return]


def runs_inside(graph: fx.Graph, path: str) -> bool:
    """Whether a graph has the code of the module at `path`, and does not call it as it is."""
    return any(lies_in(str(node.meta.get(OWNER, "")), path) for node in graph.nodes)
