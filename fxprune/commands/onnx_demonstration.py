"""The network that `fxprune demo` prunes where torch is not installed."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_CHANNELS, _CLASSES, _BLOCKS, _SIDE = 32, 10, 4, 32


def network() -> onnx.ModelProto:
    """A small residual classifier of images with random weights, the same at every call."""
    generator = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def layer(op: str, name: str, x: str, *shape: int, **attributes: Any) -> str:
        scale = np.prod(shape[1:]) ** -0.5
        for part, size in (("weight", shape), ("bias", shape[:1])):
            array = (scale * generator.standard_normal(size)).astype(np.float32)
            weights.append(numpy_helper.from_array(array, f"{name}.{part}"))
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def apply(op: str, name: str, *inputs: str) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name))
        return name

    same = {"pads": [1, 1, 1, 1]}
    x = layer("Conv", "stem", "image", _CHANNELS, 3, 3, 3, strides=[2, 2], **same)
    x = apply("Relu", "stem.relu", x)
    for block in (f"block{index}" for index in range(_BLOCKS)):
        inner = layer("Conv", f"{block}.conv1", x, 2 * _CHANNELS, _CHANNELS, 3, 3, **same)
        inner = apply("Relu", f"{block}.inner", inner)
        inner = layer("Conv", f"{block}.conv2", inner, _CHANNELS, 2 * _CHANNELS, 3, 3, **same)
        x = apply("Relu", f"{block}.relu", apply("Add", f"{block}.add", x, inner))
    x = apply("Flatten", "flatten", apply("GlobalAveragePool", "pool", x))
    logits = layer("Gemm", "head", x, _CLASSES, _CHANNELS, transB=1)
    shape: list[str | int | None] = ["batch", 3, _SIDE, _SIDE]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "demo",
        [helper.make_tensor_value_info("image", floats, shape)],
        [helper.make_tensor_value_info(logits, floats, ["batch", _CLASSES])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
