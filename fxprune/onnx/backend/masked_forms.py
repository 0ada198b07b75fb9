"""Reductions and normalisations that see open positions only, written in plain ONNX operators."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir

from fxprune.onnx.backend.literals import derived
from fxprune.onnx.frontend.initializers import constant
from fxprune.onnx.frontend.names import name_of, replace_value
from fxprune.onnx.frontend.program import OnnxProgram

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

    def has(self, operand: int) -> bool:
        """Whether the node has an operand."""
        given = operand < len(self.operands)
        return given and self.node.inputs[self.operands[operand]] is not None

    def shape(self, operand: int = 0) -> tuple[int, ...]:
        """The shape of an operand in the example run."""
        return self.program.facts.shapes[self._name(operand)]

    def _name(self, operand: int) -> str:
        """The name of an operand in the program's own model."""
        original = self.program.nodes[name_of(self.node)][0].inputs[self.operands[operand]]
        assert original is not None
        return str(original.name)

    def rank(self, operand: int = 0) -> int:
        """The number of axes of an operand."""
        return len(self.shape(operand))

    def type_of(self, operand: int = 0) -> onnx_ir.DataType:
        """The type of an operand."""
        return onnx_ir.DataType(self.program.facts.types[self._name(operand)])

    def array(self, operand: int = 0) -> onnx_ir.Value:
        """An operand in a type that ONNX Runtime computes in, and that counts do not overflow."""
        own = self.type_of(operand)
        wide = _WIDE.get(own, own)
        value = self.input(operand)
        return value if wide == own else self.insert("Cast", value, to=int(wide))

    def narrow(self, value: onnx_ir.Value, operand: int = 0) -> onnx_ir.Value:
        """What was computed of `array`, in the type of the operand."""
        own = self.type_of(operand)
        return self.insert("Cast", value, to=int(own)) if own in _WIDE else value

    def constant(self, array: Any, dtype: Any = None, operand: int = 0) -> onnx_ir.Value:
        """A new initialiser, in the type that the operand is computed in."""
        own = self.type_of(operand)
        return constant(self.node, np.asarray(array, dtype or _WIDE.get(own, own).numpy()))

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

    def without(self, value: onnx_ir.Value, dims: tuple[int, ...]) -> onnx_ir.Value:
        """An array without axes, which have one position."""
        if self.program.model.opset_imports[""] < _AXES_BY_INPUT:
            return self.insert("Squeeze", value, axes=dims)
        return self.insert("Squeeze", value, self.constant(dims, np.int64))

    def replace(self, value: onnx_ir.Value, output: int = 0) -> None:
        """Let everyone who reads an output of the node read `value`."""
        assert isinstance(self.node.graph, onnx_ir.Graph)
        replace_value(self.node.graph, self.node.outputs[output], self.narrow(value))


_Type = onnx_ir.DataType
_WIDE: Mapping[onnx_ir.DataType, onnx_ir.DataType] = MappingProxyType(
    dict.fromkeys((_Type.FLOAT16, _Type.BFLOAT16), _Type.FLOAT)
    | dict.fromkeys((_Type.BOOL, _Type.INT8, _Type.UINT8, _Type.INT16, _Type.UINT16), _Type.INT32)
    | {_Type.UINT32: _Type.INT64}
)
"""In which type arrays of short numbers are masked and counted."""
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
        masked = place.insert("Mul", place.array(operand), place.constant(mask, operand=operand))
        place.node.replace_input_with(index, place.narrow(masked, operand))
        return
    # beforehand, or ONNX Runtime would hold every masked weight while it runs
    assert isinstance(graph, onnx_ir.Graph)
    dtype = tensor.dtype.numpy()
    masked = derived(
        graph, value, lambda: tensor.numpy() * mask.astype(dtype), tensor.shape.numpy()
    )
    place.node.replace_input_with(index, masked)


def _mask(place: Place, flags: Flags) -> np.ndarray:
    """All flags of the first operand, as an array that is stretched to it."""
    rank = place.rank()
    mask = np.ones([1] * rank)
    for dim, own in flags.items():
        mask = mask * own.reshape([-1 if axis == dim else 1 for axis in range(rank)])
    return mask


def _count(
    place: Place, x: onnx_ir.Value, mask: np.ndarray, dims: tuple[int, ...]
) -> onnx_ir.Value:
    """How many open positions `x` has along axes; axes without gates are as long as they are."""
    gated = tuple(dim for dim in dims if mask.shape[dim] > 1)
    others = [dim for dim in dims if mask.shape[dim] == 1]
    count = np.maximum(mask.sum(gated, keepdims=True), 1)
    if not others:
        return place.constant(count)
    sizes = place.insert("Gather", place.insert("Shape", x), place.constant(others, np.int64))
    number = place.insert("ReduceProd", sizes, keepdims=0)
    own = place.type_of()
    return place.insert(
        "Mul", place.constant(count), place.insert("Cast", number, to=int(_WIDE.get(own, own)))
    )


def _reduce(place: Place, flags: Flags) -> None:
    """The mean, largest or smallest of open positions."""
    node = next(n for n in place.program.ir.nodes if n.name == name_of(place.node))
    dims: Any = node.attributes["dims"]
    mask, x = _mask(place, flags), place.array()
    if place.node.op_type == "ReduceMean":
        total = place.total(place.insert("Mul", x, place.constant(mask)), dims, True)
        mean = place.insert("Div", total, _count(place, x, mask, dims))
        place.replace(mean if node.attributes["keepdim"] else place.without(mean, dims))
        return
    seen = place.insert("Where", place.constant(mask != 0, bool), x, _worst(place))
    place.node.replace_input_with(place.operands[0], place.narrow(seen))


def _worst(place: Place) -> onnx_ir.Value:
    """What no open position is behind."""
    own, sign = place.type_of(), -1 if place.node.op_type == "ReduceMax" else 1
    if own.is_floating_point():
        return place.constant(sign * np.inf)
    least, most = (0, 1) if own == _Type.BOOL else (own.min, own.max)
    return place.constant(least if sign < 0 else most)


def _standardised(
    place: Place, flags: Flags, dims: tuple[int, ...], centre: bool = True
) -> onnx_ir.Value:
    """The first operand with mean 0 (if `centre`) and variance 1 over open positions."""
    return _centred(place, place.array(), _mask(place, flags), dims, centre)


def _centred(
    place: Place, x: onnx_ir.Value, mask: np.ndarray, dims: tuple[int, ...], centre: bool = True
) -> onnx_ir.Value:
    """`x` with mean 0 (if `centre`) and variance 1 over the open positions of a mask."""
    open_, count = place.constant(mask), _count(place, x, mask, dims)
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
        if place.has(operand):
            parameter = place.array(operand)
            if trailing:
                shape = place.constant([-1, *[1] * trailing], np.int64)
                parameter = place.insert("Reshape", parameter, shape)
            value = place.insert(op_type, value, parameter)
    place.replace(value)


def _layer_norm(place: Place, flags: Flags) -> None:
    _scaled(place, _standardised(place, flags, _last(place)))


def _rms_norm(place: Place, flags: Flags) -> None:
    _scaled(place, _standardised(place, flags, _last(place), centre=False))


def _add_layer_norm(place: Place, flags: Flags) -> None:
    _add_norm(place, flags, {2: "Mul", 3: "Add"}, bias=4)


def _add_rms_norm(place: Place, flags: Flags) -> None:
    _add_norm(place, flags, {2: "Mul"}, bias=3)


def _add_norm(place: Place, flags: Flags, affine: Mapping[int, str], bias: int) -> None:
    """The norm of a sum, which may be an output as well; a shift makes it a layer norm."""
    total = place.array()
    for operand in (1, bias):
        if place.has(operand):
            total = place.insert("Add", total, place.array(operand))
    centre = "Add" in affine.values()
    value = _centred(place, total, _mask(place, flags), (place.rank() - 1,), centre)
    for operand, op_type in affine.items():
        if place.has(operand):
            value = place.insert(op_type, value, place.array(operand))
    if len(place.node.outputs) > _SUM and place.node.outputs[_SUM].name:
        place.replace(total, _SUM)
    place.replace(value)


_SUM = 3
"""Which output the sum is that has been normalised."""


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
    x, groups = place.array(), place.node.attributes["num_groups"].as_int()
    shape = place.shape()
    apart = place.constant([0, groups, shape[1] // groups, -1], np.int64)
    grouped = place.insert("Reshape", x, apart)
    mask = np.ones(shape[1]) if 1 not in flags else flags[1].astype(float)
    y = _centred(place, grouped, mask.reshape(1, groups, -1, 1), (2, 3))
    _scaled(place, place.insert("Reshape", y, place.insert("Shape", x)), len(shape) - 2)


MaskedForm = Callable[[Place, Flags], None]

MASKED_FORMS: Mapping[str, MaskedForm] = MappingProxyType(
    {
        "reduce": _reduce,
        "layer_norm": _layer_norm,
        "rms_norm": _rms_norm,
        "add_layer_norm": _add_layer_norm,
        "add_rms_norm": _add_rms_norm,
        "instance_standardise": _instance_norm,
        "group_norm": _group_norm,
    }
)
"""By operator of the table."""
