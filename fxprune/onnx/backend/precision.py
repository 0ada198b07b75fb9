"""A model that computes in float32, made to compute in float64."""

import numpy as np
import onnx
import onnx_ir

from fxprune.errors import InputError
from fxprune.onnx.frontend.session import Feeds, session_of, weight_bytes

_FLOAT, _DOUBLE = onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE


_MOST_BYTES = 32_000_000
"""Models with more weights are not converted."""


def in_double(model: onnx_ir.Model, feeds: Feeds) -> onnx_ir.Model | None:
    """The same model in float64.

    None where ONNX Runtime lacks an operator in that precision, which for some it only says when
    they run (so `feeds` are inputs in float64), or the model is large.
    """
    if weight_bytes(model) > _MOST_BYTES:
        return None
    double = model.clone()
    for value in double.graph.initializers.values():
        assert value.const_value is not None
        if value.const_value.dtype == _FLOAT:
            array = value.const_value.numpy().astype(np.float64)
            value.const_value = onnx_ir.tensor(array, name=value.name)
            value.type = onnx_ir.TensorType(_DOUBLE)
    for value in (*double.graph.inputs, *double.graph.outputs):
        if value.dtype == _FLOAT:
            value.type = onnx_ir.TensorType(_DOUBLE)
    for node in double.graph:
        _convert(node)
    try:
        with session_of(double) as session:
            session.run(feeds, [])
        return double
    except InputError:
        return None


def _convert(node: onnx_ir.Node) -> None:
    """Types that a node names, and the values that it makes."""
    for name in ("to", "dtype", "output_dtype", "stash_type"):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.value == onnx.TensorProto.FLOAT:
            node.attributes[name] = onnx_ir.AttrInt64(name, onnx.TensorProto.DOUBLE)
    if node.op_type == "ConstantOfShape":
        value = node.attributes.get("value")
        tensor = onnx_ir.tensor([0.0]) if value is None else value.as_tensor()
        if tensor.dtype == _FLOAT:
            number = onnx_ir.tensor(tensor.numpy().astype(np.float64))
            node.attributes["value"] = onnx_ir.AttrTensor("value", number)
    for output in node.outputs:
        if not output.is_graph_output():
            output.type = output.shape = None
