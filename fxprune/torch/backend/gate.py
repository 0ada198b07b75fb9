"""Gate plans and fold plans carried out on a copy of a torch model."""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from fxprune.passes.axes import Axis, Space, gated_part
from fxprune.passes.condition import Condition
from fxprune.passes.gate import GateBranch, GatePlan, MaskedForm, MaskOperand
from fxprune.torch.backend import masked_forms
from fxprune.torch.backend.masked_calls import form_of, masked_function
from fxprune.torch.backend.module import TracedModule, copy_graph
from fxprune.torch.backend.operands import argument, parameter_names, replace_argument
from fxprune.torch.frontend.program import Program
from fxprune.torch.frontend.spellings import NAMES, bare_name
from fxprune.torch.gates.module import PREFIX, Gates

# Gating ---------------------------------------------------------------------------------------


def mask_axes(plan: GatePlan) -> tuple[Axis, ...]:
    """The distinct axes that a plan masks, in order."""
    edits: tuple[MaskOperand | MaskedForm, ...] = (*plan.masks, *plan.forms)
    return tuple(dict.fromkeys(edit.axis for edit in edits))


def mask_branches(plan: GatePlan) -> tuple[str, ...]:
    """The distinct branches that a plan scales, in order."""
    return tuple(dict.fromkeys(gate.branch for gate in plan.branches))


def insert_gates(model: nn.Module, program: Program, plan: GatePlan, gates: Gates) -> TracedModule:
    """Carry out a gate plan: `model` (our own copy) becomes a gated module that runs a graph.

    Ensures: with every gate open the result computes the bits that the model computes.
    """
    keys = (*mask_axes(plan), *mask_branches(plan))

    def masks(graph: fx.Graph) -> dict[Axis | str, fx.Node]:
        every = graph.call_module(PREFIX)
        return {
            key: graph.call_function(operator.getitem, (every, index))
            for index, key in enumerate(keys)
        }

    graph = gated_graph(model, program, plan, gates.holds, masks)
    model.add_module(PREFIX, gates)
    return TracedModule(model, graph)


Masks = Callable[[fx.Graph], Mapping[Axis | str, fx.Node]]
"""Writes into a graph where its masks come from, by axis or name of a branch."""


def gated_graph(
    model: nn.Module,
    program: Program,
    plan: GatePlan,
    is_gated: Callable[[Space], bool],
    masks: Masks,
) -> fx.Graph:
    """The graph of a program with all edits of a plan; `model` is not changed."""
    graph, copies = copy_graph(program.graph)
    nodes = {node.name: copies[node] for node in copies}
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        editor = _GateEditor(model, graph, nodes, is_gated, masks(graph))
    for mask in plan.masks:
        editor.mask_operand(mask)
    for name, forms in by_node(plan.forms).items():
        editor.use_masked_form(name, forms)
    for branch in plan.branches:
        editor.gate_branch(branch)
    for condition in plan.conditions:
        editor.condition(condition)
    return graph


Edit = MaskOperand | MaskedForm | GateBranch
E = TypeVar("E", MaskedForm, Edit)


def by_node(edits: Iterable[E]) -> dict[str, list[E]]:
    """Edits by the node that they change, in their order."""
    grouped: dict[str, list[E]] = {}
    for edit in edits:
        grouped.setdefault(edit.node, []).append(edit)
    return grouped


def repeats(axis: Axis, is_gated: Callable[[Space], bool]) -> tuple[int, ...]:
    """How often the mask of an axis repeats what has gates; nothing where it does not."""
    before, _, after = gated_part(axis, is_gated)
    return (before, after) if before * after > 1 else ()


class _GateEditor:
    """Edits one graph."""

    def __init__(
        self,
        model: nn.Module,
        graph: fx.Graph,
        nodes: Mapping[str, fx.Node],
        is_gated: Callable[[Space], bool],
        masks: Mapping[Axis | str, fx.Node],
    ) -> None:
        self._model = model
        self._graph = graph
        self._nodes = nodes
        self._is_gated = is_gated
        self._names: dict[str, list[str]] = {}
        self._overrides: dict[str, dict[str, fx.Node]] = {}
        self._pooled: dict[tuple[fx.Node, int], fx.Node] = {}
        self._masks = masks

    def mask_operand(self, mask: MaskOperand) -> None:
        """Multiply one operand, a parameter of a module or an argument, by a mask."""
        arguments = (self._masks[mask.axis], mask.dim, *self._repeats(mask.axis))
        self._rewrite(mask.node, mask.operand, masked_forms.apply_mask, arguments)

    def _repeats(self, axis: Axis) -> tuple[int, ...]:
        """How often a mask repeats what has gates; nothing where it does not."""
        return repeats(axis, self._is_gated)

    def gate_branch(self, gate: GateBranch) -> None:
        """Multiply operands by the gate of a branch."""
        for operand in gate.operands:
            self._rewrite(gate.node, operand, masked_forms.scale, (self._masks[gate.branch],))

    def condition(self, condition: Condition) -> None:
        """Let a gate look at its input, and act on arrays."""
        maker = self._nodes[condition.node]
        source = self._array(maker, condition.operand)
        with self._graph.inserting_before(maker):
            key = (source, condition.dim)
            if key not in self._pooled:
                self._pooled[key] = self._graph.call_function(masked_forms.pooled, key)
            gate = self._graph.call_module(PREFIX, (self._pooled[key], condition.name))
        for name, operand, dim in condition.places:
            node = self._nodes[name]
            with self._graph.inserting_before(node):
                act, rest = (
                    (masked_forms.scale, ()) if dim < 0 else (masked_forms.apply_mask, (dim,))
                )
                old = self._array(node, operand)
                new = self._graph.call_function(act, (old, gate, *rest))
            self._replace_array(node, operand, new)

    def _array(self, node: fx.Node, operand: int) -> fx.Node:
        """Array operand of a call, of a module called with replaced parameters too."""
        if node.target is call_with and operand == 0:
            array: Any = node.args[2]
            return array  # type: ignore[no-any-return]
        return argument(node, operand)

    def _replace_array(self, node: fx.Node, operand: int, new: fx.Node) -> None:
        if node.target is call_with and operand == 0:
            node.args = (*node.args[:2], new, *node.args[3:])
        else:
            replace_argument(node, operand, new)

    def _rewrite(
        self, name: str, operand: int, function: Callable[..., Tensor], arguments: tuple[Any, ...]
    ) -> None:
        """Let a node see `function(operand, *arguments)` where it saw an operand."""
        node = self._nodes[name]
        with self._graph.inserting_before(node):
            if operand == 0 or (name not in self._overrides and node.op != "call_module"):
                array = self._array(node, operand)
                new = self._graph.call_function(function, (array, *arguments))
                self._replace_array(node, operand, new)
                return
            overrides = self._overrides.setdefault(name, {})
            if not overrides:
                self._names[name] = parameter_names(self._model, node)
                module = self._graph.create_node("get_attr", str(node.target))
                node.op, node.target = "call_function", call_with
                node.args = (module, {}, *node.args)
            owner, key = node.args[0], self._names[name][operand - 1]
            old: Any = overrides.get(key) or self._graph.call_function(getattr, (owner, key))
            overrides[key] = self._graph.call_function(function, (old, *arguments))
            node.args = (owner, dict(overrides), *node.args[2:])

    def use_masked_form(self, name: str, forms: list[MaskedForm]) -> None:
        """Replace a normalisation or reduction by its masked form."""
        node = self._nodes[name]
        dims = tuple(form.dim for form in forms)
        with self._graph.inserting_before(node):
            masks = tuple(self._mask_for(node, form) for form in forms)
            if node.op == "call_module":
                module = self._graph.create_node("get_attr", str(node.target))
                node.args = (module, node.args[0], masks, dims)
                form = form_of(self._model.get_submodule(str(module.target)), name)
                node.op, node.target = "call_function", form
                return
            bound = NAMES[bare_name(node)].bind(node.args, node.kwargs)
            node.args = (bare_name(node), bound, masks, dims)
            node.op, node.target, node.kwargs = "call_function", masked_function, {}

    def _mask_for(self, node: fx.Node, form: MaskedForm) -> fx.Node:
        """The mask of an axis, as long as the axis is in each run."""
        mask, repeats = self._masks[form.axis], self._repeats(form.axis)
        if not repeats:
            return mask
        arguments: Any = (mask, self._array(node, 0), form.dim, *repeats)
        return self._graph.call_function(masked_forms.stretched, arguments)


def call_with(module: nn.Module, parameters: dict[str, Tensor], *args: Any) -> Any:
    """Call a module with some of its parameters replaced."""
    if torch.compiler.is_compiling():
        return torch.func.functional_call(module, dict(parameters), args)
    own: dict[str, Any] = module._parameters  # what functional_call does, at a tenth of the cost
    originals = {name: own[name] for name in parameters}
    own.update(parameters)
    try:
        return module(*args)
    finally:
        own.update(originals)


# Folding --------------------------------------------------------------------------------------
