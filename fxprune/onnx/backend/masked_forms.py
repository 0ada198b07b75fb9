"""Reductions and normalisations that see open positions only, written in plain ONNX operators."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx_ir

from fxprune.onnx.backend.literals import derived
from fxprune.onnx.frontend.initializers import constant
from fxprune.onnx.frontend.program import OnnxProgram, name_of

Flags = Mapping[int, np.ndarray]
"""Which positions are open, by axis."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node in a copy of a program's model; new nodes go in front of it."""

    node: onnx_ir.Node
    program: OnnxProgram

    @property
    def operands(self) -> tuple[int, ...]:
        """The inputs that are operands of our node."""
        return self.program.nodes[name_of(self.node)][1]

    def input(self, operand: int) -> onnx_ir.Value:
        """An operand."""
        value = self.node.inputs[self.operands[operand]]
        assert value is not None
        return value

    def shape(self, operand: int = 0) -> tuple[int, ...]:
        """The shape of an operand in the example run."""
        original = self.program.nodes[name_of(self.node)][0].inputs[self.operands[operand]]
        assert original is not None
        return self.program.facts.shapes[str(original.name)]

    def rank(self, operand: int = 0) -> int:
        """The number of axes of an operand."""
        return len(self.shape(operand))

    def dtype(self) -> Any:
        """The numpy type of what the node computes."""
        kind = self.program.facts.types[str(self.node.outputs[0].name)]
        return onnx.helper.tensor_dtype_to_np_dtype(kind)

    def constant(self, array: Any, dtype: Any = None) -> onnx_ir.Value:
        """A new initialiser."""
        return constant(self.node, np.asarray(array, self.dtype() if dtype is None else dtype))

    def insert(self, op_type: str, *inputs: onnx_ir.Value, **attributes: Any) -> onnx_ir.Value:
        """A new node in front of this one; its output."""
        new = onnx_ir.node(op_type, inputs, attributes)
        assert isinstance(self.node.graph, onnx_ir.Graph)
        self.node.graph.insert_before(self.node, new)
        return new.outputs[0]

    def total(self, value: onnx_ir.Value, dims: tuple[int, ...], keep: bool) -> onnx_ir.Value:
        """The sum along axes."""
        axes = self.constant(dims, np.int64)
        if self.program.model.opset_imports[""] < _AXES_BY_INPUT:
            return self.insert("ReduceSum", value, axes=dims, keepdims=int(keep))
        return self.insert("ReduceSum", value, axes, keepdims=int(keep))

    def replace(self, value: onnx_ir.Value) -> None:
        """Let everyone who reads the node's first output read `value`."""
        old, graph = self.node.outputs[0], self.node.graph
        assert isinstance(graph, onnx_ir.Graph)
        old.replace_all_uses_with(value)
        for index, output in enumerate(graph.outputs):
            if output is old:
                value.type, value.shape = old.type, old.shape
                graph.outputs[index] = value
        name, old.name = old.name, f"{old.name}_unmasked"
        value.name = name


_AXES_BY_INPUT = 13
"""The version of the operator set from which the axes of a sum are an input."""


def mask_operand(place: Place, operand: int, dim: int, flags: np.ndarray) -> None:
    """Multiply an operand by flags along one of its axes; a single flag is for all of it."""
    index = place.operands[operand]
    value = place.input(operand)
    shape = [1] * (place.rank(operand) - dim)
    shape[0] = len(flags)
    mask = flags.reshape(shape if len(flags) > 1 else [])
    tensor, graph = value.const_value, place.node.graph
    if tensor is None:
        masked = place.insert("Mul", value, place.constant(mask))
    else:  # beforehand, or ONNX Runtime would hold every masked weight while it runs
        assert isinstance(graph, onnx_ir.Graph)
        sizes = tensor.shape.numpy()
        masked = derived(graph, value, lambda: tensor.numpy() * mask.astype(place.dtype()), sizes)
    place.node.replace_input_with(index, masked)


def _mask(place: Place, flags: Flags) -> np.ndarray:
    """All flags of the first operand, as an array that is stretched to it."""
    rank = place.rank()
    mask = np.ones([1] * rank)
    for dim, own in flags.items():
        mask = mask * own.reshape([-1 if axis == dim else 1 for axis in range(rank)])
    return mask


def _count(place: Place, mask: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    """How many open positions there are along axes."""
    shape = place.shape()
    others = np.prod([shape[dim] for dim in dims if mask.shape[dim] == 1], initial=1)
    count: np.ndarray = mask.sum(dims, keepdims=True) * others
    return count


def _reduce(place: Place, flags: Flags) -> None:
    """The mean, largest or smallest of open positions."""
    node = next(n for n in place.program.ir.nodes if n.name == name_of(place.node))
    dims: Any = node.attributes["dims"]
    keep = bool(node.attributes["keepdim"])
    mask = _mask(place, flags)
    if place.node.op_type == "ReduceMean":
        masked = place.insert("Mul", place.input(0), place.constant(mask))
        count = _count(place, mask, dims)
        shown = count if keep else count.squeeze(tuple(dims))
        place.replace(place.insert("Div", place.total(masked, dims, keep), place.constant(shown)))
        return
    worst = -np.inf if place.node.op_type == "ReduceMax" else np.inf
    chosen = place.constant(mask != 0, bool)
    seen = place.insert("Where", chosen, place.input(0), place.constant(worst))
    place.node.replace_input_with(place.operands[0], seen)


def _standardised(
    place: Place, flags: Flags, dims: tuple[int, ...], centre: bool = True
) -> onnx_ir.Value:
    """The first operand with mean 0 (if `centre`) and variance 1 over open positions."""
    mask = _mask(place, flags)
    return _centred(place, place.input(0), mask, _count(place, mask, dims), dims, centre)


def _centred(
    place: Place,
    x: onnx_ir.Value,
    mask: np.ndarray,
    number: np.ndarray,
    dims: tuple[int, ...],
    centre: bool = True,
) -> onnx_ir.Value:
    """`x` with mean 0 (if `centre`) and variance 1 over the `number` positions of a mask."""
    open_, count = place.constant(mask), place.constant(np.maximum(number, 1))
    if centre:
        total = place.total(place.insert("Mul", x, open_), dims, True)
        x = place.insert("Sub", x, place.insert("Div", total, count))
    squares = place.insert("Mul", place.insert("Mul", x, x), open_)
    variance = place.insert("Div", place.total(squares, dims, True), count)
    least = place.constant(_epsilon(place))
    return place.insert("Div", x, place.insert("Sqrt", place.insert("Add", variance, least)))


def _epsilon(place: Place) -> float:
    found = place.node.attributes.get("epsilon")
    return 1e-5 if found is None else float(found.as_float())


def _scaled(place: Place, value: onnx_ir.Value, trailing: int = 0) -> None:
    """Factor and shift of a normalisation, followed by `trailing` axes; then replace the node."""
    for operand, op_type in ((1, "Mul"), (2, "Add")):
        if operand < len(place.operands):
            parameter = place.input(operand)
            if trailing:
                shape = place.constant([-1, *[1] * trailing], np.int64)
                parameter = place.insert("Reshape", parameter, shape)
            value = place.insert(op_type, value, parameter)
    place.replace(value)


def _layer_norm(place: Place, flags: Flags) -> None:
    _scaled(place, _standardised(place, flags, _last(place)))


def _rms_norm(place: Place, flags: Flags) -> None:
    _scaled(place, _standardised(place, flags, _last(place), centre=False))


def _last(place: Place) -> tuple[int, ...]:
    """The axes from `axis` on."""
    found = place.node.attributes.get("axis")
    first = (-1 if found is None else int(found.as_int())) % place.rank()
    return tuple(range(first, place.rank()))


def _instance_norm(place: Place, flags: Flags) -> None:
    dims = tuple(range(2, place.rank()))
    _scaled(place, _standardised(place, flags, dims), trailing=len(dims))


def _group_norm(place: Place, flags: Flags) -> None:
    """Channels are taken apart into groups, and joined again."""
    x, groups = place.input(0), place.node.attributes["num_groups"].as_int()
    shape = place.shape()
    apart = place.constant([0, groups, shape[1] // groups, -1], np.int64)
    grouped = place.insert("Reshape", x, apart)
    mask = np.ones(shape[1]) if 1 not in flags else flags[1].astype(float)
    inner = mask.reshape(1, groups, -1, 1)
    count = inner.sum((2, 3), keepdims=True) * np.prod(shape[2:], initial=1)
    y = _centred(place, grouped, inner, count, (2, 3))
    _scaled(place, place.insert("Reshape", y, place.insert("Shape", x)), len(shape) - 2)


MaskedForm = Callable[[Place, Flags], None]

MASKED_FORMS: Mapping[str, MaskedForm] = MappingProxyType(
    {
        "reduce": _reduce,
        "layer_norm": _layer_norm,
        "rms_norm": _rms_norm,
        "instance_standardise": _instance_norm,
        "group_norm": _group_norm,
    }
)
"""By operator of the table."""
