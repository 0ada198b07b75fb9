"""An ONNX model as the graph that passes read.

Initialisers become parameters, arithmetic on shapes becomes numbers, every other node an operator
of the table. A node that has no spelling becomes an unknown operator, which inference pins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.onnx.frontend.data import Data, batches
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.names import module_of, name_of, output_name
from fxprune.onnx.frontend.observe import Facts, observe
from fxprune.onnx.frontend.session import Feeds
from fxprune.onnx.frontend.spellings import Call, outputs_of, spelled
from fxprune.onnx.frontend.views import plain_views


@dataclass(frozen=True, slots=True)
class OnnxProgram:
    """An ONNX model, and our graph of it.

    Nodes of `ir` go by the name of their first output; `nodes` gives the ONNX node and, for each
    operand of ours, the number of its input. `initializers` says which initialiser a parameter of
    `ir` is: short ones that several nodes read are a parameter for each of them. `feeds` is data.
    """

    model: onnx_ir.Model
    ir: Graph
    facts: Facts
    nodes: Mapping[str, tuple[onnx_ir.Node, tuple[int, ...]]]
    initializers: Mapping[str, str]
    parameters: Mapping[tuple[str, int], str]
    feeds: tuple[Feeds, ...] = ()


def read_onnx(
    source: Any,
    shapes: Mapping[str, Sequence[int]] | None = None,
    data: Data | None = None,
) -> OnnxProgram:
    """Read a model; the caller's object stays as it is.

    Args:
        source: a path, bytes, a ModelProto or an onnx_ir.Model.
        shapes: shapes of inputs by name, where what the file leaves open matters.
        data: batches of inputs, where what they are matters.

    Raises:
        InputError: the file is no valid model, or `shapes` does not fit.
    """
    model = load_onnx(source)
    feeds = batches(data, model.graph.inputs) if data is not None else []
    facts = observe(model, shapes, feeds[0] if feeds else None)
    if plain_views(model, facts):
        facts = observe(model, shapes, feeds[0] if feeds else None)
    return replace(_Translation(model, facts).program(), feeds=tuple(feeds))


class _Translation:
    """Translates node by node; `values` holds our value of each ONNX value that is an array."""

    def __init__(self, model: onnx_ir.Model, facts: Facts) -> None:
        self._model = model
        self._facts = facts
        self._values: dict[str, Value] = {}
        self._nodes: list[Node] = []
        self._places: dict[str, tuple[onnx_ir.Node, tuple[int, ...]]] = {}
        self._parameters: dict[str, Value] = {}
        self._initializers: dict[str, str] = {}
        self._uses: dict[tuple[str, int], str] = {}
        self._statistics = {
            value.name
            for node in model.graph
            if node.op_type == "BatchNormalization"
            for value in node.inputs[3:]
            if value is not None
        }

    def program(self) -> OnnxProgram:
        """The translated model."""
        inputs = tuple(self._input(value) for value in self._model.graph.inputs)
        for node in self._model.graph:
            self._translate(node)
        outputs = tuple(dict.fromkeys(map(self._array, self._model.graph.outputs)))
        batch = {value.shape[0] for value in inputs if value.shape}
        graph = Graph(
            inputs=inputs,
            nodes=tuple(self._nodes),
            outputs=outputs,
            results=outputs,
            parameters=tuple(self._parameters.values()),
            batch=batch.pop() if len(batch) == 1 else 1,
        )
        return OnnxProgram(
            self._model, graph, self._facts, self._places, self._initializers, self._uses
        )

    def _input(self, value: onnx_ir.Value) -> Value:
        name = str(value.name)
        self._values[name] = Value(name, self._facts.shapes[name], ValueKind.INPUT)
        return self._values[name]

    def _translate(self, node: onnx_ir.Node) -> None:
        if node.op_type == "Shape" and node.domain == "":
            self._emit(node, "size", (0,), (), feeds=self._fed(node.outputs[0]))
            return
        if self._is_arithmetic(node):
            return
        version = self._model.opset_imports.get(node.domain, 1)
        found = spelled(Call(node, self._facts, version))
        if found is None:
            self._opaque(node)
        elif isinstance(found, str):
            self._opaque(node, form=found)
        else:
            spelling, attributes = found
            operands = range(len(node.inputs)) if spelling.operands is None else spelling.operands
            outputs = outputs_of(node, spelling)
            self._emit(node, spelling.op, tuple(operands), outputs, **attributes)

    def _opaque(self, node: onnx_ir.Node, **attributes: str) -> None:
        """Everything that goes in is pinned, also what subgraphs take from around them."""
        captured = tuple(self._array(value) for value in captured_values(node))
        op = node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"
        operands = tuple(range(len(node.inputs)))
        outputs = tuple(index for index, value in enumerate(node.outputs) if value.name)
        self._emit(node, op, operands, outputs, captured, **attributes)

    def _emit(
        self,
        node: onnx_ir.Node,
        op: str,
        operands: tuple[int, ...],
        outputs: tuple[int, ...],
        more: tuple[Value, ...] = (),
        **attributes: Any,
    ) -> None:
        """Add one node of ours."""
        name = name_of(node)
        inputs = tuple(self._operand(node, index) for index in operands)
        while inputs and inputs[-1] is None:
            inputs, operands = inputs[:-1], operands[:-1]
        made = tuple(self._output(output_name(node, index)) for index in outputs)
        self._places[name] = (node, operands)
        self._nodes.append(Node(name, op, (*inputs, *more), made, attributes, module_of(node)))

    def _output(self, name: str) -> Value:
        self._values[name] = Value(name, self._facts.shapes.get(name, ()))
        return self._values[name]

    def _operand(self, node: onnx_ir.Node, index: int) -> Value | None:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        if not value.is_initializer():
            return self._array(value)
        parameter = self._parameter(value, f"{name_of(node)}:{index}")
        self._uses[name_of(node), index] = parameter.name
        return parameter

    def _array(self, value: onnx_ir.Value) -> Value:
        """Our value of an ONNX value; numbers that are used as arrays are constants."""
        name = str(value.name)
        if value.is_initializer():
            return self._parameter(value, "")
        if name not in self._values:
            self._values[name] = Value(name, self._facts.shapes[name])
            self._nodes.append(Node(name, "constant", (), (self._values[name],)))
        return self._values[name]

    def _parameter(self, value: onnx_ir.Value, place: str) -> Value:
        """The parameter that an initialiser is; vectors are one for every place that reads them.

        Exporters merge equal initialisers, so that vectors of unrelated layers become one.
        """
        name = str(value.name)
        shape = self._facts.shapes[name]
        vector = sum(size > 1 for size in shape) <= 1
        key = f"{name}@{place}" if place and vector and name in self._parameters else name
        if key not in self._parameters:
            assert value.const_value is not None
            bits, trained = value.const_value.dtype.bitwidth, self._is_trained(value)
            self._parameters[key] = Value(key, shape, ValueKind.PARAMETER, trained, bits)
            self._initializers[key] = name
        return self._parameters[key]

    def _is_trained(self, value: onnx_ir.Value) -> bool:
        """Fractional arrays, statistics aside, and what a quantised model has in their place."""
        assert value.const_value is not None
        shape = self._facts.shapes[str(value.name)]
        fractional = value.const_value.dtype.is_floating_point()
        quantised = value.const_value.dtype.bitwidth <= 8 and len(shape) > 1
        return bool(shape) and (fractional or quantised) and value.name not in self._statistics

    def _fed(self, value: onnx_ir.Value) -> tuple[str, ...]:
        """The nodes whose arrays depend on a number, by way of any arithmetic."""
        fed: dict[str, None] = {}
        pending = [value]
        for number in pending:
            for user in dict.fromkeys(use.node for use in number.uses()):
                if self._is_arithmetic(user):
                    pending.extend(out for out in user.outputs if out not in pending)
                else:
                    fed[name_of(user)] = None
        return tuple(fed)

    def _is_arithmetic(self, node: onnx_ir.Node) -> bool:
        return all(value.name in self._facts.numbers for value in node.outputs if value.name)


def _subgraphs(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == onnx_ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured_values(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    """Values of the main graph that subgraphs of a node read."""
    main = node.graph
    seen: dict[int, onnx_ir.Value] = {}
    for graph in _subgraphs(node):
        for inner in onnx_ir.traversal.RecursiveGraphIterator(graph):
            for value in inner.inputs:
                if value is not None and value.graph is main:
                    seen[id(value)] = value
        for value in graph.outputs:
            if value.graph is main:
                seen[id(value)] = value
    yield from seen.values()
