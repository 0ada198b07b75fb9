"""What exporters write in a roundabout way, put plainly, so that channels can be followed."""

import numpy as np
import onnx_ir
from onnx_ir.passes import common

from fxprune.onnx.frontend.initializers import constant
from fxprune.onnx.frontend.observe import Facts, int_attribute


def plain_views(model: onnx_ir.Model, facts: Facts) -> bool:
    """Turn gathers that take every element in its order into reshapes; whether there were any.

    torch's exporter writes `as_strided` of a contiguous array as such a gather from the flat array.
    """
    found = [node for node in model.graph if _takes_all_in_order(node, facts)]
    for node in found:
        sizes = facts.shapes[str(node.outputs[0].name)][1:]
        node.op_type = "Reshape"
        node.attributes.clear()
        node.replace_input_with(1, constant(node, np.array([-1, *sizes])))
    if found:
        common.RemoveUnusedNodesPass()(model)
    return bool(found)


def _takes_all_in_order(node: onnx_ir.Node, facts: Facts) -> bool:
    if node.op_type != "Gather" or node.domain or int_attribute(node, "axis", 0) != 0:
        return False
    source, indices = node.inputs
    assert source is not None and indices is not None
    taken = facts.numbers.get(str(indices.name))
    return (
        taken is not None
        and taken.ndim > 0
        and facts.shapes.get(str(source.name)) == (taken.size,)
        and np.array_equal(taken.ravel(), np.arange(taken.size))
        and _only_first_axis_is_open(node.outputs[0], source)
    )


def _only_first_axis_is_open(output: onnx_ir.Value, source: onnx_ir.Value) -> bool:
    """As the file declares it; a fixed number of elements of an open number may be some of them."""
    if output.shape is None or not all(isinstance(size, int) for size in output.shape[1:]):
        return False
    fixed = source.shape is not None and isinstance(source.shape[0], int)
    return isinstance(output.shape[0], int) == fixed
