"""Fold plans carried out on a copy of an ONNX model."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir
from onnx_ir.passes import common

from fxprune.onnx.backend.literals import derived, write_literals
from fxprune.onnx.frontend.names import name_of, replace_value
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.passes.fold import DropOperand, FoldPlan, SetLiteral, Slice

Cuts = tuple[tuple[int, tuple[int, ...]], ...]
"""Kept positions by axis."""


def fold_program(program: OnnxProgram, plan: FoldPlan) -> onnx_ir.Model:
    """A smaller model. The program's own model stays as it is; what is not cut is shared."""
    model = program.model.clone()
    nodes = {name_of(node): node for node in model.graph}
    if not (plan.slices or plan.literals or plan.drops):
        return model
    _slice_parameters(program, model, nodes, plan.slices)
    changed = _by_node(plan.literals)
    for name in sorted(changed, key=lambda name: nodes[name].op_type == "Shape"):
        write_literals(nodes[name], changed[name], program.facts)
    for drop in plan.drops:
        _drop(model, nodes[drop.node], program, drop)
    _forget_shapes(model)
    common.RemoveUnusedNodesPass()(model)
    return model


def _by_node(literals: Iterable[SetLiteral]) -> dict[str, dict[tuple[str, int], SetLiteral]]:
    grouped: dict[str, dict[tuple[str, int], SetLiteral]] = {}
    for literal in literals:
        grouped.setdefault(literal.node, {})[literal.slot] = literal
    return grouped


def _slice_parameters(
    program: OnnxProgram,
    model: onnx_ir.Model,
    nodes: Mapping[str, onnx_ir.Node],
    slices: Iterable[Slice],
) -> None:
    """Let every use of a cut parameter read the cut; equal cuts of one initialiser are one."""
    cuts: dict[str, Cuts] = {}
    for item in slices:
        cuts[item.parameter] = (*cuts.get(item.parameter, ()), (item.dim, item.kept))
    made: dict[tuple[str, Cuts], onnx_ir.Value] = {}
    initializers = model.graph.initializers
    for (node, index), parameter in program.parameters.items():
        if parameter not in cuts:
            continue
        key = program.initializers[parameter], cuts[parameter]
        if key not in made:
            made[key] = _cut(model.graph, initializers[key[0]], key[1])
        nodes[node].replace_input_with(index, made[key])
    for (name, _), value in made.items():
        if name in initializers and not initializers[name].uses():
            del initializers[name]
        if name not in initializers:
            del initializers[str(value.name)]
            value.name = name
            initializers[name] = value


def _cut(graph: onnx_ir.Graph, value: onnx_ir.Value, cuts: Cuts) -> onnx_ir.Value:
    """A new initialiser; its array is made when it is written."""
    whole = value.const_value
    assert whole is not None
    sizes = list(whole.shape.numpy())
    for dim, kept in cuts:
        sizes[dim] = len(kept)

    def cut() -> np.ndarray:
        array = whole.numpy()
        for dim, kept in cuts:
            array = np.take(array, kept, axis=dim)
        return array

    return derived(graph, value, cut, sizes)


def _drop(
    model: onnx_ir.Model, node: onnx_ir.Node, program: OnnxProgram, drop: DropOperand
) -> None:
    """An addition goes on without an operand; one that has a single one left passes it on."""
    index = program.nodes[drop.node][1][drop.operand]
    node.replace_input_with(index, None)
    left = [value for value in node.inputs if value is not None]
    if len(left) > 1:
        return
    graph, output = model.graph, node.outputs[0]
    if output.is_graph_output():
        passing = onnx_ir.node("Identity", left)
        graph.insert_before(node, passing)
        replace_value(graph, output, passing.outputs[0])
    else:
        output.replace_all_uses_with(left[0])
    graph.remove(node)


def _forget_shapes(model: onnx_ir.Model) -> None:
    """Shapes between the nodes are inferred by whoever runs the model."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
