"""How many multiply-accumulates does an ONNX model make? Counted from the arrays of one run."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

Shape = tuple[int, ...]


def count_onnx_macs(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> int:
    """Multiply-accumulates of all products, for the samples given."""
    shapes = _shapes(model, inputs)
    return sum(
        _MACS[node.op_type](node, [shapes.get(name, ()) for name in node.input], shapes)
        for node in model.graph.node
        if node.op_type in _MACS
    )


def _shapes(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """The shape of every array of the main graph."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    made = [name for node in model.graph.node for name in node.output if name]
    present = {value.name for value in model.graph.output}
    shown.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in made if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    arrays = zip(made, session.run(made, dict(inputs)), strict=True)
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    given = {name: array.shape for name, array in inputs.items()}
    found = {name: array.shape for name, array in arrays if isinstance(array, np.ndarray)}
    return {**stored, **given, **found}


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = [helper.get_attribute_value(each) for each in node.attribute if each.name == name]
    return found[0] if found else default


Given = Sequence[Shape]
Shapes = Mapping[str, Shape]


def _conv(node: onnx.NodeProto, given: Given, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(given[1][1:])


def _conv_transpose(node: onnx.NodeProto, given: Given, shapes: Shapes) -> int:
    return math.prod(given[0]) * math.prod(given[1][1:])


def _matmul(node: onnx.NodeProto, given: Given, shapes: Shapes) -> int:
    inner = given[0][-2 if _attribute(node, "transA", 0) else -1]
    return math.prod(shapes[node.output[0]]) * inner


def _gemm(node: onnx.NodeProto, given: Given, shapes: Shapes) -> int:
    inner = given[0][0 if _attribute(node, "transA", 0) else 1]
    return math.prod(shapes[node.output[0]]) * inner


def _einsum(node: onnx.NodeProto, given: Given, shapes: Shapes) -> int:
    """The equation names its axes; what it calls `...` stands in front."""
    terms = _attribute(node, "equation", b"").decode().split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, given, strict=True):
        letters = term.replace("...", "")
        more = len(shape) - len(letters)
        names = [*(f"...{axis}" for axis in range(more)), *letters]
        sizes.update(zip(names, shape, strict=True))
    return math.prod(sizes.values())


def _attention(node: onnx.NodeProto, given: Given, shapes: Shapes) -> int:
    """Queries times keys, and their softmax times values."""
    (batch, heads, length, size), (_, _, keys, last) = given[0], given[2]
    return batch * heads * length * keys * (size + last)


def _heads_attention(node: onnx.NodeProto, given: Given, shapes: Shapes) -> int:
    """Heads are in the last axis."""
    (batch, length, size), (_, keys, last) = given[0], given[2]
    return batch * length * keys * (size + last)


def _recurrent(node: onnx.NodeProto, given: Given, shapes: Shapes) -> int:
    """Two matrices in every step of every direction."""
    length, batch = given[0][:2]
    return length * batch * (math.prod(given[1]) + math.prod(given[2]))


_MACS: Mapping[str, Callable[[onnx.NodeProto, Given, Shapes], int]] = MappingProxyType(
    {
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "MatMul": _matmul,
        "Gemm": _gemm,
        "Einsum": _einsum,
        "Attention": _attention,
        "FusedConv": _conv,
        "FusedGemm": _gemm,
        "FusedMatMul": _matmul,
        "MultiHeadAttention": _heads_attention,
        "LSTM": _recurrent,
        "GRU": _recurrent,
        "RNN": _recurrent,
    }
)
