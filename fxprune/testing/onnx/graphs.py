"""ONNX models node by node, as they are drawn: what is drawn is text, and the model is made of it.

The text is Python that needs numpy and onnx: the graph in ONNX's own notation, and an expression
for every stored array. So the source that a failure prints is the model that failed.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, printer
from onnx.reference import ReferenceEvaluator

BATCH = 2
"""The number of samples that shapes are inferred with."""

Array = np.ndarray

_HEADER = """\
import numpy as np
from onnx import numpy_helper, parser

random = np.random.default_rng({seed})


def normal(*shape):
    return (random.normal(size=shape) / np.prod(shape) ** 0.25).astype(np.float32)


def positive(*shape):
    return random.uniform(0.5, 2, size=shape).astype(np.float32)

"""

_FOOTER = """\
model = parser.parse_model(GRAPH)
for name, array in weights.items():
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
"""


class OnnxModel:
    """A drawn model: the `proto` that its source defines, with the `inputs` drawn for it."""

    def __init__(self, source: str) -> None:
        names: dict[str, Any] = {}
        exec(source, names)
        self.proto: onnx.ModelProto = names["model"]
        self.inputs: Mapping[str, Array] = names["inputs"]
        self._source = source

    def source(self) -> str:
        """Python that defines the same `model` and `inputs`, bit for bit, with onnx alone."""
        return self._source

    def __repr__(self) -> str:
        return f"# source() is the whole file\n{self._source[self._source.index('GRAPH =') :]}"


class GraphBuilder:
    """An ONNX graph as it is drawn; a call adds a node and returns the name of its output.

    >>> g = GraphBuilder()
    >>> x = g.input("x", 3)
    >>> y = g("MatMul", x, g.weight(3, 4))
    >>> g.shape(y)
    (2, 4)
    """

    def __init__(self, opset: int = 18, batch: str | int = "n") -> None:
        self.opset = opset
        self.batch = batch
        self._nodes: list[onnx.NodeProto] = []
        self._stored: dict[str, str] = {}
        self._inputs: dict[str, str] = {}
        self._types: dict[str, onnx.TypeProto] = {}
        self._numbers: dict[str, Array] = {}

    def __call__(
        self, op_type: str, *inputs: str, outputs: int | str = 1, like: str = "", **attributes: Any
    ) -> Any:
        """Add a node; the type may have a domain in front, as in `com.microsoft.FastGelu`.

        `outputs` is how many there are, or a letter for each: a dot is one that is left out.

        Where ONNX infers no shapes (subgraphs, other domains, some functions) the outputs have that
        of `like`, by default the first input.
        """
        domain, _, name = op_type.rpartition(".")
        number = len(self._nodes)
        letters = "y" * outputs if isinstance(outputs, int) else outputs
        names = [
            "" if letter == "." else f"v{number}_{i}" if len(letters) > 1 else f"v{number}"
            for i, letter in enumerate(letters)
        ]
        node = helper.make_node(name, list(inputs), names, domain=domain, **attributes)
        self._nodes.append(node)
        self._infer(node, like)
        return names[0] if len(names) == 1 else names

    def input(self, name: str, *sizes: int, dtype: int = TensorProto.FLOAT, below: int = 2) -> str:
        """An input of samples that have these sizes; whole numbers are smaller than `below`."""
        shape = (self.batch if isinstance(self.batch, int) else BATCH, *sizes)
        whole = f"random.integers(0, {below}, size={shape})"
        normal = f"random.normal(size={shape}).astype(np.float32)"
        self._inputs[name] = normal if dtype == TensorProto.FLOAT else whole
        self._types[name] = helper.make_tensor_type_proto(dtype, shape)
        return name

    def weight(self, *shape: int) -> str:
        """A random parameter."""
        return self.computed(f"normal({_listed(shape)})", shape)

    def positive(self, *shape: int) -> str:
        """A random parameter between one half and two: a scale, or a variance."""
        return self.computed(f"positive({_listed(shape)})", shape)

    def numbers(self, *numbers: int) -> str:
        """A vector of whole numbers."""
        return self.stored(np.array(numbers, dtype=np.int64))

    def index(self, number: int) -> str:
        """A single whole number."""
        return self.stored(np.array(number, dtype=np.int64))

    def stored(self, array: Array) -> str:
        """An initialiser with these values."""
        array = np.asarray(array)
        values = str(array.tolist()).replace("inf", "np.inf")
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        name = self.computed(f"np.array({values}, np.{array.dtype})", array.shape, dtype)
        self._numbers[name] = array
        return name

    def computed(self, expression: str, shape: tuple[int, ...], dtype: int = 1) -> str:
        """An initialiser whose values a Python expression gives."""
        name = f"w{len(self._stored)}"
        self._stored[name] = expression
        self._types[name] = helper.make_tensor_type_proto(dtype, shape)
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value."""
        dims = self._types[name].tensor_type.shape.dim
        return tuple(dim.dim_value for dim in dims)

    def model(self, *outputs: str, seed: int = 0) -> OnnxModel:
        """The finished model."""
        return OnnxModel(self.source(*outputs, seed=seed))

    def source(self, *outputs: str, seed: int = 0) -> str:
        """Python that defines `model` and `inputs`."""
        given, made = (list(map(self._declared, names)) for names in (self._inputs, outputs))
        graph = helper.make_graph(self._nodes, "network", given, made)
        domains = dict.fromkeys(node.domain for node in self._nodes if node.domain)
        opsets = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(d, 1) for d in domains),
        ]
        text = printer.to_text(helper.make_model(graph, opset_imports=opsets, ir_version=8))
        weights = _dictionary("weights", self._stored)
        inputs = _dictionary("inputs", self._inputs)
        header = _HEADER.format(seed=seed)
        return f'{header}\nGRAPH = """\n{text}\n"""\n{weights}{inputs}{_FOOTER}'

    def _declared(self, name: str) -> onnx.ValueInfoProto:
        if self._types[name].HasField("sequence_type"):
            element = self._types[name].sequence_type.elem_type.tensor_type.elem_type
            return helper.make_tensor_sequence_value_info(name, element, None)
        tensor = self._types[name].tensor_type
        if name in self._numbers:
            return helper.make_tensor_value_info(name, tensor.elem_type, self.shape(name))
        shape = [self.batch, *self.shape(name)[1:]] if self.shape(name) else []
        return helper.make_tensor_value_info(name, tensor.elem_type, shape)

    def _infer(self, node: onnx.NodeProto, like: str) -> None:
        """Note what ONNX's own inference says of a node, and the numbers that it computes."""
        subgraphs = any(attribute.HasField("g") for attribute in node.attribute)
        if subgraphs or not onnx.defs.has(node.op_type, node.domain):
            self._types.update(dict.fromkeys(node.output, self._types[like or node.input[0]]))
            return
        self._compute(node)
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        types = {name: self._types[name] for name in node.input if name}
        known = {
            name: numpy_helper.from_array(self._numbers[name], name)
            for name in types
            if name in self._numbers
        }
        opsets = [helper.make_opsetid("", self.opset)]
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, types, known, opset_imports=opsets
        )
        for name in filter(None, node.output):
            tensor = found[name].tensor_type
            nested = not found[name].HasField("tensor_type")
            known_shape = nested or (
                tensor.HasField("shape")
                and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
            )
            assert known_shape or like, f"ONNX infers no shape of {node.op_type}"
            self._types[name] = found[name] if known_shape else self._types[like]

    def _compute(self, node: onnx.NodeProto) -> None:
        """Numbers that shapes are made of."""
        if node.op_type == "Shape":
            self._numbers[node.output[0]] = np.array(self.shape(node.input[0]), np.int64)
        elif node.input and all(name in self._numbers for name in node.input):
            untyped = helper.make_empty_tensor_value_info
            given, made = (list(map(untyped, names)) for names in (node.input, node.output))
            graph = helper.make_graph([node], "numbers", given, made)
            evaluator = ReferenceEvaluator(graph, opsets={"": self.opset})
            results = evaluator.run(None, {name: self._numbers[name] for name in node.input})
            self._numbers.update(zip(node.output, map(np.asarray, results), strict=True))


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _dictionary(name: str, expressions: Mapping[str, str]) -> str:
    lines = "".join(f'    "{key}": {value},\n' for key, value in expressions.items())
    return f"{name} = {{\n{lines}}}\n"


def volume(shape: tuple[int, ...]) -> int:
    """How many elements each sample of a value has."""
    return math.prod(shape[1:])
