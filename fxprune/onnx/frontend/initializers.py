"""New initialisers of an ONNX graph."""

import numpy as np
import onnx_ir

from fxprune.onnx.frontend.names import fresh_name, name_of


def constant(node: onnx_ir.Node, numbers: np.ndarray) -> onnx_ir.Value:
    """A new initialiser of the graph that a node lies in, named after the node."""
    graph = node.graph
    assert isinstance(graph, onnx_ir.Graph)
    name = fresh_name(graph, f"{name_of(node)}_constant")
    value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(numbers, name=name))
    graph.register_initializer(value)
    return value
