"""Reductions and normalisations that see open positions only, written in plain ONNX operators."""

import functools
import math
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


@dataclass(frozen=True, slots=True)
class Mask:
    """How far positions of an axis are open.

    In the example run the `numbers` are repeated `after` times each, and `before` times as a whole,
    for factors of the axis that have no gates. How often they are in another run, the array tells:
    one of the two may be the size of an axis that the file leaves open.
    """

    numbers: np.ndarray
    before: int = 1
    after: int = 1

    @property
    def repeats(self) -> bool:
        """Whether the axis is longer than the numbers."""
        return self.before * self.after > 1

    @property
    def is_inner(self) -> bool:
        """Whether it is the numbers as a whole that are repeated as often as the array tells."""
        return self.after == 1

    @property
    def unit(self) -> np.ndarray:
        """What is repeated, as often as the array tells."""
        return self.numbers if self.is_inner else np.tile(self.numbers, self.before)

    @property
    def whole(self) -> np.ndarray:
        """A number for every position in the example run."""
        return np.tile(np.repeat(self.numbers, self.after), self.before)


Flags = Mapping[int, Mask]
"""Which positions are open, by axis."""


@dataclass(frozen=True, slots=True)
class InsertionPoint:
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

    def mask(
        self, x: onnx_ir.Value, dim: int, mask: Mask, trailing: int, operand: int = 0
    ) -> onnx_ir.Value:
        """Numbers along an axis of `x`, followed by `trailing` axes; a single one for all of it."""
        unit = mask.unit
        if not mask.repeats:
            shape = [-1, *[1] * trailing] if len(unit) > 1 else []
            return self.constant(unit.reshape(shape), operand=operand)
        length, one = [len(unit)], [1]
        size = self.insert("Gather", self.insert("Shape", x), self.constant([dim], np.int64))
        blocks = self.insert("Div", size, self.constant(length, np.int64))
        own = self.constant(unit.reshape(one + length if mask.is_inner else length + one))
        sizes = [self.constant(length, np.int64), blocks]
        repeated = self.insert(
            "Expand", own, self.insert("Concat", *sizes[:: -1 if mask.is_inner else 1], axis=0)
        )
        return self.insert("Reshape", repeated, self.constant([-1, *[1] * trailing], np.int64))

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


def mask_operand(place: InsertionPoint, operand: int, dim: int, mask: Mask) -> None:
    """Multiply an operand by a mask along one of its axes; a single number is for all of it."""
    index = place.operands[operand]
    value = place.input(operand)
    tensor, graph = value.const_value, place.node.graph
    trailing = place.rank(operand) - dim - 1
    if tensor is None:
        x = place.array(operand)
        masked = place.insert("Mul", x, place.mask(x, dim, mask, trailing, operand))
        place.node.replace_input_with(index, place.narrow(masked, operand))
        return
    # beforehand, or ONNX Runtime would hold every masked weight while it runs
    assert isinstance(graph, onnx_ir.Graph)
    numbers = mask.whole.astype(tensor.dtype.numpy()).reshape(-1, *[1] * trailing)
    masked = derived(graph, value, lambda: tensor.numpy() * numbers, tensor.shape.numpy())
    place.node.replace_input_with(index, masked)


def _mask(place: InsertionPoint, x: onnx_ir.Value, flags: Flags) -> onnx_ir.Value:
    """The masks of all axes of `x`, as an array that is stretched to it."""
    masks = [place.mask(x, dim, own, place.rank() - dim - 1) for dim, own in flags.items()]
    return functools.reduce(lambda left, right: place.insert("Mul", left, right), masks)


def _count(
    place: InsertionPoint, x: onnx_ir.Value, open_: np.ndarray | float, units: Mapping[int, int]
) -> onnx_ir.Value:
    """How many open positions `x` has: `open_` in each block of `units[dim]` positions by axis."""
    shape = place.insert("Shape", x)
    sizes = place.insert("Gather", shape, place.constant(list(units), np.int64))
    blocks = place.insert("Div", sizes, place.constant(list(units.values()), np.int64))
    number = place.insert("ReduceProd", blocks, keepdims=0)
    own = place.type_of()
    number = place.insert("Cast", number, to=int(_WIDE.get(own, own)))
    return place.insert("Mul", place.constant(np.maximum(open_, 1)), number)


def _count_along(
    place: InsertionPoint, x: onnx_ir.Value, flags: Flags, dims: tuple[int, ...]
) -> onnx_ir.Value:
    """How many open positions `x` has along axes."""
    units = {dim: len(flags[dim].unit) if dim in flags else 1 for dim in dims}
    open_ = math.prod(float(flags[dim].unit.sum()) for dim in dims if dim in flags)
    return _count(place, x, open_, units)


def _reduce(place: InsertionPoint, flags: Flags) -> None:
    """The mean, largest or smallest of open positions."""
    node = next(n for n in place.program.ir.nodes if n.name == name_of(place.node))
    dims: Any = node.attributes["dims"]
    x = place.array()
    mask = _mask(place, x, flags)
    if place.node.op_type == "ReduceMean":
        total = place.total(place.insert("Mul", x, mask), dims, bool(node.attributes["keepdim"]))
        place.replace(place.insert("Div", total, _count_along(place, x, flags, dims)))
        return
    is_open = place.insert("Cast", mask, to=int(_Type.BOOL))
    seen = place.insert("Where", is_open, x, _worst(place))
    place.node.replace_input_with(place.operands[0], place.narrow(seen))


def _worst(place: InsertionPoint) -> onnx_ir.Value:
    """What no open position is behind."""
    own, sign = place.type_of(), -1 if place.node.op_type == "ReduceMax" else 1
    if own.is_floating_point():
        return place.constant(sign * np.inf)
    least, most = (0, 1) if own == _Type.BOOL else (own.min, own.max)
    return place.constant(least if sign < 0 else most)


def _standardised(
    place: InsertionPoint,
    x: onnx_ir.Value,
    flags: Flags,
    dims: tuple[int, ...],
    centre: bool = True,
) -> onnx_ir.Value:
    """`x` with mean 0 (if `centre`) and variance 1 over open positions."""
    count = _count_along(place, x, flags, dims)
    return _centred(place, x, _mask(place, x, flags), count, dims, centre)


def _centred(
    place: InsertionPoint,
    x: onnx_ir.Value,
    open_: onnx_ir.Value,
    count: onnx_ir.Value,
    dims: tuple[int, ...],
    centre: bool = True,
) -> onnx_ir.Value:
    """`x` with mean 0 (if `centre`) and variance 1 over the `count` positions of a mask."""
    if centre:
        total = place.total(place.insert("Mul", x, open_), dims, True)
        x = place.insert("Sub", x, place.insert("Div", total, count))
    squares = place.insert("Mul", place.insert("Mul", x, x), open_)
    variance = place.insert("Div", place.total(squares, dims, True), count)
    least = place.constant(_epsilon(place))
    return place.insert("Div", x, place.insert("Sqrt", place.insert("Add", variance, least)))


def _epsilon(place: InsertionPoint) -> float:
    found = place.node.attributes.get("epsilon")
    default = _SMALLEST if place.node.op_type in _ADDING else 1e-5
    return default if found is None else float(found.as_float())


_ADDING = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
_SMALLEST = 1e-12
"""What ONNX Runtime adds to variances in these operator types unless they say another number."""


def _scaled(place: InsertionPoint, value: onnx_ir.Value, trailing: int = 0) -> None:
    """Factor and shift of a normalisation, followed by `trailing` axes; then replace the node."""
    for operand, op_type in ((1, "Mul"), (2, "Add")):
        if place.has(operand):
            parameter = place.array(operand)
            if trailing:
                shape = place.constant([-1, *[1] * trailing], np.int64)
                parameter = place.insert("Reshape", parameter, shape)
            value = place.insert(op_type, value, parameter)
    place.replace(value)


def _layer_norm(place: InsertionPoint, flags: Flags) -> None:
    _scaled(place, _standardised(place, place.array(), flags, _last(place)))


def _rms_norm(place: InsertionPoint, flags: Flags) -> None:
    _scaled(place, _standardised(place, place.array(), flags, _last(place), centre=False))


def _add_layer_norm(place: InsertionPoint, flags: Flags) -> None:
    _add_norm(place, flags, {2: "Mul", 3: "Add"}, bias=4)


def _add_rms_norm(place: InsertionPoint, flags: Flags) -> None:
    _add_norm(place, flags, {2: "Mul"}, bias=3)


def _add_norm(place: InsertionPoint, flags: Flags, affine: Mapping[int, str], bias: int) -> None:
    """The norm of a sum, which may be an output as well; a shift makes it a layer norm."""
    total = place.array()
    for operand in (1, bias):
        if place.has(operand):
            total = place.insert("Add", total, place.array(operand))
    centre = "Add" in affine.values()
    value = _standardised(place, total, flags, (place.rank() - 1,), centre)
    for operand, op_type in affine.items():
        if place.has(operand):
            value = place.insert(op_type, value, place.array(operand))
    if len(place.node.outputs) > _SUM and place.node.outputs[_SUM].name:
        place.replace(total, _SUM)
    place.replace(value)


_SUM = 3
"""Which output the sum is that has been normalised."""


def _last(place: InsertionPoint) -> tuple[int, ...]:
    """The axes from `axis` on."""
    found = place.node.attributes.get("axis")
    first = (-1 if found is None else int(found.as_int())) % place.rank()
    return tuple(range(first, place.rank()))


def _instance_norm(place: InsertionPoint, flags: Flags) -> None:
    dims = tuple(range(2, place.rank()))
    _scaled(place, _standardised(place, place.array(), flags, dims), trailing=len(dims))


def _group_norm(place: InsertionPoint, flags: Flags) -> None:
    """Channels are taken apart into groups, and joined again."""
    x, groups = place.array(), place.node.attributes["num_groups"].as_int()
    shape = place.shape()
    apart = place.constant([0, groups, shape[1] // groups, -1], np.int64)
    grouped = place.insert("Reshape", x, apart)
    mask = flags[1].whole.reshape(1, groups, -1, 1)
    count = _count(place, grouped, mask.sum(2, keepdims=True), {2: mask.shape[2], 3: 1})
    y = _centred(place, grouped, place.constant(mask), count, (2, 3))
    _scaled(place, place.insert("Reshape", y, place.insert("Shape", x)), len(shape) - 2)


MaskedForm = Callable[[InsertionPoint, Flags], None]

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
