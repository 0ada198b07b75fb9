"""Gates in the user's own model: in its layers, and in the code of modules where they act there.

A mask on what a layer is given or owns is a matter of that layer (`layers.py`), wherever it is
called, and so is a mask on what any other module owns (`owned.py`). What acts on an array inside a
module's own code gives that module generated code, and so does a layer whose calls are gated
differently. Where the calls of a module do not tell what it is called with, it is a matter of the
module around it, in the end of the model itself.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import fx, nn

from fxprune.passes.axes import Axis
from fxprune.passes.cost import lies_in
from fxprune.passes.gate import GateBranch, GatePlan, MaskedForm, MaskOperand
from fxprune.torch.backend import masked_forms
from fxprune.torch.backend.derived import base_of, deepcopied, derived, reducing
from fxprune.torch.backend.gate import Edit, by_node, gated_graph, mask_axes, mask_branches, repeats
from fxprune.torch.backend.generated import generate, warn_of_single_samples
from fxprune.torch.backend.layers import (
    GATES,
    GatesReference,
    LayerEdits,
    Masked,
    Statistics,
    gate_layer,
    number,
    ungate_modules,
)
from fxprune.torch.backend.masked_calls import form_of
from fxprune.torch.backend.operands import parameter_names
from fxprune.torch.backend.outline import (
    Alone,
    agree,
    alone,
    matched,
    nodes_of,
    outline,
    plan_in,
)
from fxprune.torch.backend.owned import masks_of_parameters, runs_inside
from fxprune.torch.backend.parts import Part, Whole, part_at
from fxprune.torch.frontend.owners import OWNER
from fxprune.torch.frontend.program import Program
from fxprune.torch.frontend.spellings import bare_name
from fxprune.torch.gates.module import PREFIX, Gates


def gate(whole: Whole, plan: GatePlan, gates: Gates, *, at_once: bool = False) -> None:
    """Carry out a gate plan on the model of `whole`, which is our own copy.

    With `at_once` whatever acts in code acts in one graph, that of the model itself.

    Ensures: with every gate open the model computes the bits that it computed before.
    """
    model = whole.model
    job = _Job(whole, plan, gates, at_once)
    layers = dict(job.layers())
    generated = job.generated(layers)
    layers |= job.owned
    model.add_module(PREFIX, gates)
    for path, graph in generated.items():
        module = model.get_submodule(path)
        if not path and whole.program.knows_single:
            warn_of_single_samples(model)
        module.__dict__[GATES] = GatesReference(gates)
        generate(module, graph, "gates act in its code")
    for path, edits in layers.items():
        gate_layer(model.get_submodule(path), edits, gates)
    gates.belong_to(model)
    model.__class__ = _masking(type(model))


def ungate(model: nn.Module) -> None:
    """Give back their own classes to a model that `gate` has changed, and to its modules."""
    if _MASKS in vars(type(model)):
        model.__class__ = base_of(type(model))
    ungate_modules(model)


_MASKS = "_fxprune_makes_masks"


def _masking(kind: type[nn.Module]) -> type[nn.Module]:
    """A class whose forward makes the masks that all modules in it see."""
    own_forward: Callable[..., Any] = kind.forward

    @functools.wraps(own_forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        gates: Any = self._modules.get(PREFIX)
        if gates is None:  # a part of a sequence of layers, say, which is of its class
            return own_forward(self, *args, **kwargs)
        gates.begin()
        try:
            return own_forward(self, *args, **kwargs)
        finally:
            gates.end()

    def set_state(self: nn.Module, state: dict[str, Any]) -> None:
        kind.__setstate__(self, state)  # type: ignore[no-untyped-call]
        _own_gates(self)

    def deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
        return _own_gates(deepcopied(self, memo))

    return derived(
        kind,
        forward=forward,
        __reduce_ex__=reducing(_masking),
        __setstate__=set_state,
        __deepcopy__=deepcopy,
        **{_MASKS: True},
    )


def _own_gates(model: nn.Module) -> nn.Module:
    """Let the gates of a copy know it."""
    gates: Any = model._modules[PREFIX]
    gates.belong_to(model)
    return model


@dataclass
class _Job:
    """A gate plan, and who carries out which of its edits."""

    whole: Whole
    plan: GatePlan
    gates: Gates
    at_once: bool = False

    @cached_property
    def _alone(self) -> Alone:
        return {}

    @cached_property
    def _edits(self) -> dict[str, list[Edit]]:
        return by_node(self.plan.edits)

    @cached_property
    def _nodes(self) -> dict[str, fx.Node]:
        return {node.name: node for node in self.whole.program.graph.nodes}

    @cached_property
    def _numbers(self) -> dict[Axis | str, int]:
        """The place of every mask among those that gates return."""
        keys = (*mask_axes(self.plan), *mask_branches(self.plan))
        return {key: index for index, key in enumerate(keys)}

    def layers(self) -> Iterator[tuple[str, LayerEdits]]:
        """The layers that mask what they are given and own, alike in all their calls."""
        calls: dict[str, list[fx.Node]] = {}
        for node in self._nodes.values():
            if node.op == "call_module":
                calls.setdefault(str(node.target), []).append(node)
        for path, nodes in calls.items():
            wanted = {self._of_layer(node, self._edits.get(node.name, ())) for node in nodes}
            if len(wanted) == 1 and (one := wanted.pop()) != LayerEdits():
                yield path, one

    @cached_property
    def owned(self) -> dict[str, LayerEdits]:
        """The other modules that mask what they own, and have no gates elsewhere in their code."""
        if self.plan.conditions or self.at_once:
            return {}
        found = {}
        for path, masks in masks_of_parameters(self.whole.program, self._edits):
            parameters = (
                (name, tuple(masked for mask in own for _, masked in self._masked(mask)))
                for name, own in masks.items()
            )
            found[path] = LayerEdits(parameters=tuple(sorted(parameters)))
        return found

    def _of_layer(self, node: fx.Node, edits: Any) -> LayerEdits:
        """What edits of the call of a layer ask of the layer."""
        inputs: list[Masked] = []
        parameters: dict[str, tuple[Masked, ...]] = {}
        forms = [edit for edit in edits if isinstance(edit, MaskedForm)]
        for edit in edits:
            if isinstance(edit, MaskedForm):
                continue
            for operand, masked in self._masked(edit):
                if operand == 0:
                    inputs.append(masked)
                else:
                    name = parameter_names(self.whole.model, node)[operand - 1]
                    parameters[name] = (*parameters.get(name, ()), masked)
        statistics = self._statistics(node, forms) if forms else None
        return LayerEdits(tuple(inputs), tuple(sorted(parameters.items())), statistics)

    def _masked(self, edit: MaskOperand | GateBranch) -> Iterator[tuple[int, Masked]]:
        if isinstance(edit, GateBranch):
            for operand in edit.operands:
                yield operand, Masked(masked_forms.scale, self._numbers[edit.branch])
            return
        arguments = (edit.dim, *repeats(edit.axis, self.gates.holds))
        mask = Masked(masked_forms.apply_mask, self._numbers[edit.axis], arguments)
        yield edit.operand, mask

    def _statistics(self, node: fx.Node, forms: list[MaskedForm]) -> Statistics:
        layer = self.whole.model.get_submodule(str(node.target))
        return Statistics(
            form_of(layer, node.name),
            tuple(self._numbers[form.axis] for form in forms),
            tuple(form.dim for form in forms),
            tuple(repeats(form.axis, self.gates.holds) for form in forms),
        )

    def generated(self, layers: Collection[str]) -> dict[str, fx.Graph]:
        """The modules whose own code gates act in, with the code that they get instead."""
        found = self._generated(layers)
        for path, graph in found.items():
            inside = (own.removeprefix(f"{path}.") for own in self.owned if lies_in(own, path))
            if any(runs_inside(graph, own) for own in inside):  # unmasked
                self.owned = {}
                return self._generated(layers)
        return found

    def _generated(self, layers: Collection[str]) -> dict[str, fx.Graph]:
        nodes = self._nodes
        acting = {
            name: edits
            for name, edits in self._edits.items()
            if not _is_call_of(nodes[name], layers) and nodes[name].meta[OWNER] not in self.owned
        }
        owners = {str(nodes[name].meta[OWNER]) for name in acting}
        if self.plan.conditions or self.at_once:  # conditions look and act anywhere
            owners = {""}
        small: dict[str, fx.Graph] = {}
        found: dict[str, fx.Graph] = {}
        for owner in sorted(owners, key=lambda path: path.count(".")):
            own = [e for name in acting if nodes[name].meta[OWNER] == owner for e in acting[name]]
            if owner and (graph := self._graph_alone(owner, own)) is not None:
                small[owner] = graph
                continue
            while not any(lies_in(owner, path) for path in found):
                wanted = {
                    _described(edit, nodes[name])
                    for name, edits in acting.items()
                    if lies_in(str(nodes[name].meta[OWNER]), owner)
                    for edit in edits
                }
                graph = self._graph_of(owner, layers, wanted)
                if graph is not None:
                    found = {p: g for p, g in found.items() if not lies_in(p, owner)}
                    found[owner] = graph
                    break
                owner = owner.rpartition(".")[0]
        more = {o: g for o, g in small.items() if not any(lies_in(o, path) for path in found)}
        return {**found, **more}

    def _graph_alone(self, path: str, edits: list[Edit]) -> fx.Graph | None:
        """What a module has to run that calls those inside as they are, if that is possible."""
        recorded = alone(self.whole.recording, path, edits, self._alone)
        if recorded is None:
            return None
        module, outlined = recorded
        plan = plan_in(_plan_of(edits), outlined.names)
        return self._graph(module, outlined.program, plan)

    def _graph_of(
        self, path: str, layers: Collection[str], wanted: Collection[Any]
    ) -> fx.Graph | None:
        """What a module has to run, None where that is not all that is wanted."""
        recording, plan = self.whole.recording, self.plan
        if not path:
            recording = recording.to_run()
        else:
            part = part_at(self.whole, path)
            if part is None:
                return None
            recording = part.recording
            plan = self._translated(part) or part.gate_plan(self.whole.analysis)
        nodes = {node.name: node for node in recording.program.graph.nodes}
        inside, owned = (
            {own.removeprefix(f"{path}.") for own in several if lies_in(own, path)}
            for several in (layers, self.owned)
        )
        numbers = self._numbers

        def acts(edit: Edit) -> bool:
            key = edit.branch if isinstance(edit, GateBranch) else edit.axis
            node = nodes[edit.node]
            masked = _is_call_of(node, inside) or node.meta[OWNER] in owned
            return key in numbers and not masked

        plan = replace(
            plan,
            masks=tuple(filter(acts, plan.masks)),
            forms=tuple(filter(acts, plan.forms)),
            branches=tuple(filter(acts, plan.branches)),
        )
        found = {
            _described(edit, nodes[name], path)
            for name, edits in by_node(plan.edits).items()
            for edit in edits
        }
        if not found.issuperset(wanted):
            return None
        program = recording.program
        if not plan.conditions:
            outlined = outline(recording, {edit.node for edit in plan.edits})
            program, plan = outlined.program, plan_in(plan, outlined.names)
        return self._graph(recording.module, program, plan)

    def _graph(self, module: nn.Module, program: Program, plan: GatePlan) -> fx.Graph:
        """The graph of a program with the gates of a plan."""
        keys = (*mask_axes(plan), *mask_branches(plan))

        def masks(graph: fx.Graph) -> dict[Axis | str, fx.Node]:
            held = graph.create_node("get_attr", GATES)
            return {k: graph.call_function(number, (held, self._numbers[k])) for k in keys}

        return gated_graph(module, program, plan, self.gates.holds, masks)

    def _translated(self, part: Part) -> GatePlan | None:
        """The edits of the whole at the same calls of a part, where all of its calls are there."""
        own = nodes_of(self.whole.program.graph, part.path)
        names = matched(own, part.path, part.recording.program.graph.nodes, ())
        edits = [edit for name in names for edit in self._edits.get(name, ())]
        return plan_in(_plan_of(edits), names) if names and agree(names, edits) else None


def _plan_of(edits: Collection[Edit]) -> GatePlan:
    return GatePlan(
        tuple(edit for edit in edits if isinstance(edit, MaskOperand)),
        tuple(edit for edit in edits if isinstance(edit, MaskedForm)),
        tuple(edit for edit in edits if isinstance(edit, GateBranch)),
    )


def _is_call_of(node: fx.Node, layers: Collection[str]) -> bool:
    return node.op == "call_module" and str(node.target) in layers


def _described(edit: Edit, node: fx.Node, path: str = "") -> tuple[Any, ...]:
    """An edit by what a node does, whatever graph it is in."""
    own = f"{path}.{node.target}" if path and node.op == "call_module" else bare_name(node)
    if isinstance(edit, GateBranch):
        return own, edit.operands, edit.branch
    return own, getattr(edit, "operand", None), edit.dim, edit.axis
