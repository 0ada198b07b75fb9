"""Gates at their readers in a copy of an ONNX model: what a folded file is compared with.

The masked file has every weight of the original. It computes the same as the folded one by another
way: closed positions are multiplied by zero where they are read. Gates may also be numbers in
between, which tells how much the outputs depend on them.
"""

import functools
from collections.abc import Mapping

import numpy as np
import onnx_ir

from fxprune.onnx.backend.masked_forms import MASKED_FORMS, InsertionPoint, Mask, mask_operand
from fxprune.onnx.frontend.names import name_of
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.passes.axes import Axis, Space, gated_part, interpret, spaces
from fxprune.passes.gate import GatePlan


def mask_program(
    program: OnnxProgram,
    plan: GatePlan,
    gates: Mapping[Space, np.ndarray],
    branches: Mapping[str, float],
) -> onnx_ir.Model:
    """A copy in which everything is read as far as its gate is open.

    Args:
        program: the model.
        plan: where gates act.
        gates: a number for every position of spaces; those that are left out are open, and change
            no bit.
        branches: a number for branches, by name; those that are left out are open.
    """
    model = program.model.clone()
    nodes = {name_of(node): node for node in model.graph}
    ops = {node.name: node.op for node in program.ir.nodes}
    for mask in plan.masks:
        if not gates.keys() & set(spaces(mask.axis)):
            continue
        numbers = _mask_of(mask.axis, gates)
        mask_operand(InsertionPoint(nodes[mask.node], program), mask.operand, mask.dim, numbers)
    for gate in plan.branches:
        for operand in gate.operands if gate.branch in branches else ():
            number = Mask(np.array([branches[gate.branch]]))
            mask_operand(InsertionPoint(nodes[gate.node], program), operand, 0, number)
    forms: dict[str, dict[int, Mask]] = {}
    for form in plan.forms:
        if gates.keys() & set(spaces(form.axis)):
            forms.setdefault(form.node, {})[form.dim] = _mask_of(form.axis, gates)
    for name, by_dim in forms.items():
        MASKED_FORMS[ops[name]](InsertionPoint(nodes[name], program), by_dim)
    return model


def _mask_of(axis: Axis, gates: Mapping[Space, np.ndarray]) -> Mask:
    """A number for every position of an axis, repeated for factors without gates around them."""
    before, part, after = gated_part(axis, gates.__contains__)
    numbers = interpret(part, lambda s: gates.get(s, np.ones(s.size)), _outer, np.concatenate)
    return Mask(numbers, before, after)


def _outer(masks: list[np.ndarray]) -> np.ndarray:
    """The mask of a row-major product."""
    return functools.reduce(lambda left, right: np.multiply.outer(left, right).ravel(), masks)
