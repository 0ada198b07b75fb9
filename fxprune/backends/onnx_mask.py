"""Gates at their readers in a copy of an ONNX model: what a folded file is compared with.

The masked file has every weight of the original. It computes the same as the folded one by another
way: closed positions are multiplied by zero where they are read.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from fxprune.backends.onnx_masked_forms import MASKED_FORMS, Place, mask_operand
from fxprune.frontends.onnx_file import OnnxProgram, name_of
from fxprune.passes.axes import Kept, kept_flags
from fxprune.passes.gate import GatePlan


def mask_program(
    program: OnnxProgram, plan: GatePlan, kept: Kept, closed: Sequence[str]
) -> onnx_ir.Model:
    """A copy in which what a keep-set closes is not read.

    Args:
        program: the model.
        plan: where gates act.
        kept: a flag for every position of the groups that lose some.
        closed: the branches that go.
    """
    model = program.model.clone()
    nodes = {name_of(node): node for node in model.graph}
    ops = {node.name: node.op for node in program.ir.nodes}
    for mask in plan.masks:
        flags = np.array(kept_flags(mask.axis, kept))
        mask_operand(Place(nodes[mask.node], program), mask.operand, mask.dim, flags)
    for gate in plan.branches:
        for operand in gate.operands if gate.branch in closed else ():
            mask_operand(Place(nodes[gate.node], program), operand, 0, np.zeros(1))
    forms: dict[str, dict[int, np.ndarray]] = {}
    for form in plan.forms:
        forms.setdefault(form.node, {})[form.dim] = np.array(kept_flags(form.axis, kept))
    for name, flags_by_dim in forms.items():
        MASKED_FORMS[ops[name]](Place(nodes[name], program), flags_by_dim)
    return model
