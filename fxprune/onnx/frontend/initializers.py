"""New initialisers of an ONNX graph."""

import numpy as np
import onnx_ir


def constant(node: onnx_ir.Node, numbers: np.ndarray) -> onnx_ir.Value:
    """A new initialiser of the graph that a node lies in, named after its output."""
    graph = node.graph
    assert isinstance(graph, onnx_ir.Graph)
    name = fresh_name(graph, f"{node.outputs[0].name}_constant")
    value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(numbers, name=name))
    graph.register_initializer(value)
    return value


def fresh_name(graph: onnx_ir.Graph, base: str) -> str:
    """A name that no initialiser has."""
    name, count = base, 0
    while name in graph.initializers:
        count += 1
        name = f"{base}.{count}"
    return name
