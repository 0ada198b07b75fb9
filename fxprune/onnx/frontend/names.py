"""What nodes and values of an ONNX graph are called, and which module nodes come from."""

import re

import onnx_ir

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter says which modules a node lies in, from the outermost on."""


def name_of(node: onnx_ir.Node) -> str:
    """A node goes by its first output that has a name."""
    return next(str(value.name) for value in node.outputs if value.name)


def module_of(node: onnx_ir.Node) -> str:
    """The path of the module that a node comes from, "" where the exporter does not say.

    >>> module_of(onnx_ir.Node("", "MatMul", [], name="/model/layers.0/mlp/up_proj/MatMul"))
    'model.layers.0.mlp.up_proj'
    """
    scopes = re.findall(r"'([^']*)'", node.metadata_props.get(SCOPES, ""))
    if len(scopes) > 1:
        return str(scopes[-2])
    name = node.name or ""
    return ".".join(name.split("/")[1:-1]) if name.startswith("/") else ""


def output_name(node: onnx_ir.Node, index: int) -> str:
    """An output by its name; one that is left out has none in the file, so it gets one here."""
    return node.outputs[index].name or f"{name_of(node)}.{index}"


def fresh_name(graph: onnx_ir.Graph, base: str) -> str:
    """A name that no initialiser has."""
    name, count = base, 0
    while name in graph.initializers:
        count += 1
        name = f"{base}.{count}"
    return name


def replace_value(graph: onnx_ir.Graph, old: onnx_ir.Value, new: onnx_ir.Value) -> None:
    """Let everyone read `new`, the caller of the model among them, under the name of `old`."""
    name, new.type, new.shape = old.name, old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{name}_unused"
    new.name = name
