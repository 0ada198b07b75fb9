"""Which nodes of an ONNX file are layers that could be two, and which two nodes are one layer?

A file says nothing of how it came about, so a pair is what computes as one layer: two nodes with
nothing between them but the rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir

from fxprune.passes.factorisation import FORMS, Form, Layer

Settings = Mapping[str, tuple[Any, ...]]
"""What a convolution has along every axis of its kernel, by attribute; pads are two numbers."""

NOTHING: Mapping[str, Any] = MappingProxyType(
    {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": (0, 0)}
)
"""The settings along an axis of a kernel that only passes on."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A node that multiplies with stored weights, input number `place`.

    `transposed` says that its weights have inputs first.
    """

    node: onnx_ir.Node
    place: int
    transposed: bool

    @property
    def value(self) -> onnx_ir.Value:
        """The weights as a value of the graph."""
        value = self.node.inputs[self.place]
        assert value is not None
        return value

    @property
    def tensor(self) -> onnx_ir.TensorProtocol:
        """The weights as the file has them."""
        tensor = self.value.const_value
        assert tensor is not None
        return tensor

    @property
    def name(self) -> str:
        """What users call the layer: the name of its weights."""
        return str(self.value.name)

    @property
    def array(self) -> np.ndarray:
        """The weights in doubles, outputs first."""
        array: np.ndarray = self.tensor.numpy().astype(np.float64)
        return array.T if self.transposed else array

    @property
    def data(self) -> onnx_ir.Value | None:
        """What is multiplied."""
        return self.node.inputs[1 - self.place]

    @property
    def layer(self) -> Layer:
        """What passes know of it."""
        sizes = self.tensor.shape.numpy()
        outputs, inputs, *kernel = sizes[::-1] if self.transposed else sizes
        groups = self.groups
        strides = self.settings["strides"] if kernel else ()
        return Layer(outputs, inputs * groups, tuple(kernel), strides, groups)

    @property
    def groups(self) -> int:
        """The groups of a convolution."""
        return int(attribute(self.node, "group", 1))

    @property
    def settings(self) -> Settings:
        """What a convolution has along every axis of its kernel, its size among that."""
        kernel = tuple(self.tensor.shape.numpy()[2:])
        size = len(kernel)
        pads = attribute(self.node, "pads", None) or [0] * 2 * size
        return {
            "kernel_shape": kernel,
            "strides": tuple(attribute(self.node, "strides", None) or [1] * size),
            "dilations": tuple(attribute(self.node, "dilations", None) or [1] * size),
            "pads": tuple(zip(pads[:size], pads[size:], strict=True)),
        }

    @property
    def padding_by_name(self) -> str:
        """How a convolution without numbers of its own pads."""
        name = str(attribute(self.node, "auto_pad", "NOTSET"))
        return "" if name == "NOTSET" else name

    @property
    def is_its_own(self) -> bool:
        """Whether nobody else reads the weights."""
        return len(self.value.uses()) == 1 and not self.value.is_graph_output()


def attribute(node: onnx_ir.Node, name: str, default: Any) -> Any:
    """An attribute of a node."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def weighed(node: onnx_ir.Node) -> Weighed | None:
    """A node as one that multiplies with stored weights, if it is one."""
    place = PLACES.get(node.op_type) if not node.domain else None
    value = node.inputs[place] if place is not None and place < len(node.inputs) else None
    if place is None or value is None or value.const_value is None or not value.is_initializer():
        return None
    rank = len(value.const_value.shape)
    if node.op_type == "Conv":
        return Weighed(node, place, transposed=False) if rank > 2 else None
    if rank != 2 or (node.op_type == "Gather" and attribute(node, "axis", 0) not in (0, -2)):
        return None
    outputs_first = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
    return Weighed(node, place, transposed=not outputs_first)


PLACES: Mapping[str, int] = {"Conv": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}
"""By operator type which input is the weights of a layer that can be two."""


def layers_of(model: onnx_ir.Model) -> dict[str, Weighed]:
    """The layers that can be two, by name, without those of pairs."""
    pairs = pairs_of(model).values()
    halves = {half.node for pair in pairs for half in (pair.first, pair.second)}
    found: dict[str, Weighed] = {}
    for node in model.graph:
        layer = weighed(node) if node not in halves else None
        if layer is not None:
            found.setdefault(layer.name, layer)
    return found


def refusal_of(layer: Weighed, form: Form) -> str:
    """Why a layer cannot have a form, "" where it can."""
    return _shut(layer) or form.refusal(layer.layer)


def _shut(layer: Weighed) -> str:
    """Why the weights of a layer stay as they are, "" where they need not."""
    if not layer.tensor.dtype.is_floating_point() or layer.tensor.dtype.bitwidth < 16:
        return f"its weights are {layer.tensor.dtype.name}"
    if not layer.is_its_own:
        return "its weights are read by other nodes, too"
    if attribute(layer.node, "transA", 0):
        return "its input is transposed"
    return ""


# Pairs


@dataclass(frozen=True, slots=True)
class OnnxPair:
    """Two nodes that are one layer of some form."""

    first: Weighed
    second: Weighed
    form: Form

    @property
    def name(self) -> str:
        """What the layer was called, as far as names tell."""
        return _joined(self.first.name, self.second.name)

    @property
    def layer(self) -> Layer:
        """What passes know of the one layer."""
        first, second = self.first.layer, self.second.layer
        if not first.kernel:
            return Layer(second.outputs, first.inputs)
        join = self.form.joined
        kernel, strides = join(first.kernel, second.kernel), join(first.strides, second.strides)
        return Layer(second.outputs, first.inputs, kernel, strides)

    @property
    def rank(self) -> int:
        """The size of the axis between the two, for each matrix."""
        return self.first.layer.outputs // self.form.matrices(self.layer)


def pairs_of(model: onnx_ir.Model) -> dict[str, OnnxPair]:
    """The layers of a model that are two, by name; a node is in one of them at most."""
    found: dict[str, OnnxPair] = {}
    taken: set[onnx_ir.Node] = set()
    for node in model.graph:
        pair = _pair_from(node) if node not in taken else None
        if pair is not None:
            found[pair.name] = pair
            taken.add(pair.second.node)
    return found


def _pair_from(node: onnx_ir.Node) -> OnnxPair | None:
    """The pair whose first layer a node is."""
    between = node.outputs[0]
    users = [use.node for use in between.uses()]
    first = weighed(node)
    second = weighed(users[0]) if len(users) == 1 and users[0].graph is node.graph else None
    if first is None or second is None or second.data is not between:
        return None
    biased = len(first.node.inputs) > 2 and first.node.inputs[2] is not None
    if biased or between.is_graph_output() or _shut(first) or _shut(second):
        return None
    if first.tensor.dtype != second.tensor.dtype:
        return None
    fits = _convolutions_fit if first.node.op_type == "Conv" else _products_fit
    form = next((form for form in FORMS.values() if fits(first, second, form)), None)
    return None if form is None else OnnxPair(first, second, form)


def _products_fit(first: Weighed, second: Weighed, form: Form) -> bool:
    """Matrices, the second of which is no table that is looked up in."""
    scaled = attribute(first.node, "alpha", 1.0) != 1.0
    return form.name == "low_rank" and second.node.op_type in ("Gemm", "MatMul") and not scaled


def _convolutions_fit(first: Weighed, second: Weighed, form: Form) -> bool:
    """What one has along an axis of the kernel, the other has not."""
    left, right = first.layer, second.layer
    if second.node.op_type != "Conv" or first.padding_by_name != second.padding_by_name:
        return False
    if len(left.kernel) != len(right.kernel) or right.groups != 1:
        return False
    if left.groups != form.matrices(left) or (form.by_input and left.groups == 1):
        return False
    return all(
        form.shared_out(one, nothing)[0] == one and form.shared_out(other, nothing)[1] == other
        for name, nothing in NOTHING.items()
        for one, other in [(first.settings[name], second.settings[name])]
    )


# Names


def halves_of(name: str) -> tuple[str, str]:
    """What the weights of the two layers are called.

    >>> halves_of("layer1.0.conv1.weight"), halves_of("W")
    (('layer1.0.conv1.first.weight', 'layer1.0.conv1.second.weight'), ('W_first', 'W_second'))
    """
    stem, dot, last = name.rpartition(".")
    if not dot:
        return f"{name}_first", f"{name}_second"
    return f"{stem}.first.{last}", f"{stem}.second.{last}"


def _joined(first: str, second: str) -> str:
    """The name of which `halves_of` makes these, else the first."""
    for mark in (".first", "_first"):
        head, found, tail = first.rpartition(mark)
        if found and halves_of(head + tail) == (first, second):
            return head + tail
    return first
