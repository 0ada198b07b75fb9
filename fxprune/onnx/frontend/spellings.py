"""How ONNX spells the operators of the table: one entry per operator type.

A spelling names the operator, which inputs are its operands in order, and how its attributes are
read. A reading that returns text names a form of the type that has no meaning for axes: that use of
it is pinned, with this reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import onnx_ir

from fxprune.onnx.frontend.names import output_name
from fxprune.onnx.frontend.observe import Facts
from fxprune.onnx.frontend.sizes import Shape
from fxprune.passes.contractions import einsum_letters

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A node with what is known of its inputs; `version` is that of its operator set."""

    node: onnx_ir.Node
    facts: Facts
    version: int

    def has(self, index: int) -> bool:
        """Whether the node has input number `index`."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def shape(self, index: int = 0) -> Shape:
        """The shape of an input."""
        value = self.node.inputs[index]
        assert value is not None and value.name
        return self.facts.shapes[value.name]

    def rank_of(self, index: int) -> int:
        """The number of axes of an input, 0 if it is absent."""
        return len(self.shape(index)) if self.has(index) else 0

    @property
    def rank(self) -> int:
        """The number of axes of the first input."""
        return len(self.shape())

    @property
    def output(self) -> Shape:
        """The shape of the first output."""
        name = self.node.outputs[0].name
        assert name
        return self.facts.shapes[name]

    def numbers(self, index: int) -> list[Any] | None:
        """The numbers that an input holds, None if it is absent or not known."""
        value = self.node.inputs[index] if self.has(index) else None
        found = self.facts.numbers.get(value.name or "") if value is not None else None
        return None if found is None else found.reshape(-1).tolist()

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def given(self, name: str, index: int) -> list[Any] | None:
        """Numbers that older versions have as an attribute, newer ones as an input."""
        value = self.attribute(name)
        if value is not None:
            return [value] if isinstance(value, int) else list(value)
        return self.numbers(index)

    def is_unknown(self, name: str, index: int) -> bool:
        """Whether numbers are there, but depend on more than shapes."""
        return self.has(index) and self.given(name, index) is None

    def axis(self, default: int | None = None, name: str = "axis") -> int:
        """An axis of the first input, counted from the front."""
        return int(self.attribute(name, default)) % max(self.rank, 1)


Reading = Callable[[Call], Attributes | str]


def _nothing(call: Call) -> Attributes:
    return {}


@dataclass(frozen=True, slots=True)
class Spelling:
    """How an operator type is written. `operands` are inputs; without them all are.

    `outputs` are those that the operator has, None for all; a node with others in use is pinned.
    """

    op: str
    operands: tuple[int, ...] | None = None
    attributes: Reading = _nothing
    outputs: tuple[int, ...] | None = (0,)


_COMPUTED = "numbers that depend on the data"

# Reading attributes --------------------------------------------------------------------------


def _image_axes(call: Call) -> Attributes:
    return {"sizes": {"*x": call.rank - 2}}


def _conv(call: Call) -> Attributes:
    groups = call.attribute("group", 1)
    return {"sizes": {"g": groups, "*x": call.rank - 2}, "slots": {"group": "g"}}


def _gemm(call: Call) -> Attributes:
    return {name: bool(call.attribute(name, 0)) for name in ("transA", "transB")}


def _layer_norm(call: Call) -> Attributes:
    return {"sizes": {"*c": call.rank - call.axis(-1)}}


def _group_norm(call: Call) -> Attributes | str:
    groups = call.attribute("num_groups")
    if call.shape(1) != call.shape()[1:2]:  # before version 21
        return "a factor per group"
    return {"sizes": {"g": groups}, "slots": {"num_groups": "g"}}


def _batch_norm(call: Call) -> Attributes | str:
    return "statistics of the batch" if call.attribute("training_mode", 0) else {}


def _axis(default: int | None = None) -> Reading:
    return lambda call: {"dim": call.axis(default)}


def _along(default: int) -> Reading:
    return lambda call: {"dims": (call.axis(default),)}


def _softmax(call: Call) -> Attributes:
    """Before version 13 everything from the axis on is one axis."""
    if call.version >= 13:
        return {"dims": (call.axis(-1),)}
    return {"dims": tuple(range(call.axis(1), call.rank))}


def _cumulative(call: Call) -> Attributes | str:
    axis = call.numbers(1)
    return _COMPUTED if axis is None else {"dims": (axis[0] % call.rank,)}


def _last_two(call: Call) -> Attributes:
    return {"dims": (call.rank - 2, call.rank - 1)}


def _reduce(reading: str | None) -> Reading:
    def read(call: Call) -> Attributes | str:
        if call.is_unknown("axes", 1):
            return _COMPUTED
        axes = call.given("axes", 1)
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return "no axes"
        dims = [axis % call.rank for axis in axes] if axes else range(call.rank)
        keep = bool(call.attribute("keepdims", 1))
        return {"dims": tuple(sorted(dims)), "keepdim": keep, "reading": reading}

    return read


def _extreme_place(call: Call) -> Attributes:
    keep = bool(call.attribute("keepdims", 1))
    return {"dims": (call.axis(0),), "keepdim": keep, "reading": None}


def _transpose(call: Call) -> Attributes:
    order = call.attribute("perm") or tuple(reversed(range(call.rank)))
    return {"order": tuple(order)}


def _concat(call: Call) -> Attributes:
    return {"dim": call.axis()}


def _slice(call: Call) -> Attributes | str:
    starts, ends = call.given("starts", 1), call.given("ends", 2)
    if starts is None or ends is None or call.is_unknown("axes", 3):
        return _COMPUTED
    axes = call.given("axes", 3) or list(range(len(starts)))
    steps = call.numbers(4) or [1] * len(starts)
    if call.has(4) and call.numbers(4) is None:
        return _COMPUTED
    ranges = [(0, size, 1) for size in call.shape()]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        dim = axis % call.rank
        ranges[dim] = slice(start, end, step).indices(call.shape()[dim])
        if step < 0 and end < -call.shape()[dim]:
            ranges[dim] = (ranges[dim][0], -1, step)
    return {"ranges": tuple(ranges)}


def _pad(call: Call) -> Attributes | str:
    pads, axes = call.given("pads", 1), call.numbers(3)
    if pads is None or (call.has(3) and axes is None):
        return _COMPUTED
    chosen = [axis % call.rank for axis in axes] if axes else list(range(call.rank))
    widths = [(0, 0)] * call.rank
    for place, dim in enumerate(chosen):
        widths[dim] = (int(pads[place]), int(pads[place + len(chosen)]))
    mode = call.attribute("mode", "constant")
    return {"widths": tuple(widths), "constant": mode == "constant"}


def _sized(index: int) -> Reading:
    """A shape has to be known; what is computed from values is another on every run."""
    return lambda call: _COMPUTED if call.is_unknown("shape", index) else {}


def _tile(call: Call) -> Attributes | str:
    repeats = call.numbers(1)
    return _COMPUTED if repeats is None else {"repeats": tuple(repeats)}


def _take_along(call: Call) -> Attributes:
    return {"dim": call.axis(0)}


def _split(call: Call) -> Attributes:
    return {"dim": call.axis(0)}


def _einsum(call: Call) -> Attributes:
    ranks = [len(call.shape(index)) for index in range(len(call.node.inputs))]
    terms, output = einsum_letters(call.attribute("equation"), ranks)
    return {"terms": terms, "output": output}


def _block(call: Call) -> Attributes:
    size = call.attribute("blocksize")
    return {"sizes": {"r": size, "s": size}}


def _resize(call: Call) -> Attributes | str:
    """Image axes change, samples and channels do not."""
    if call.output[:2] != call.shape()[:2]:
        return "another number of samples or channels"
    axes = call.attribute("axes")
    named = call.has(3) and (axes is None or 1 in axes or 1 - call.rank in axes)
    return {"slots": {"channels": "c"}} if named else {}


def _attention(call: Call) -> Attributes | str:
    """Four axes each, no caches."""
    if call.rank != 4 or call.has(4) or call.has(5) or call.attribute("qk_matmul_output_mode"):
        return "heads in one axis, or a cache"
    return {
        "gqa": call.shape(0)[1] != call.shape(1)[1],
        "causal": bool(call.attribute("is_causal", 0)),
    }


def _recurrent(gates: int) -> Reading:
    def read(call: Call) -> Attributes | str:
        if call.attribute("layout", 0):
            return "samples first"
        return {"gates": gates, "slots": {"hidden_size": "h"}}

    return read


def _quantise(call: Call) -> Attributes | str:
    if call.attribute("block_size", 0):
        return "blocks"
    return {"dim": call.axis(1)}


def _fused_matmul(call: Call) -> Attributes | str:
    if call.attribute("transBatchA", 0) or call.attribute("transBatchB", 0):
        return "stacks that are transposed"
    return _gemm(call)


def _heads_attention(call: Call) -> Attributes | str:
    """Queries, keys and values in three arrays, their heads in the last axis."""
    if any(call.rank_of(index) != 3 for index in range(3)):
        return "packed heads"
    if any(map(call.has, range(3, len(call.node.inputs)))) or call.attribute("unidirectional", 0):
        return "biases, a mask or a cache"
    heads = call.attribute("num_heads")
    return {"heads": heads}


_CONTRIBUTED_ELEMENTWISE = "BiasGelu FastGelu Gelu QuickGelu"

_ELEMENTWISE = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot BitwiseAnd BitwiseOr BitwiseXor BitShift Ceil
    Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Mish
    Neg Not PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt
    Swish Tan Tanh ThresholdedRelu
    And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow Sub Where Xor
"""

SPELLINGS: Mapping[str, Spelling] = MappingProxyType(
    {
        **{name: Spelling("elementwise") for name in _ELEMENTWISE.split()},
        "Add": Spelling("add"),
        "Sum": Spelling("add"),
        "Identity": Spelling("identity"),
        "Cast": Spelling("identity"),
        "CastLike": Spelling("identity", (0,)),
        "Dropout": Spelling("identity", (0,)),
        "Conv": Spelling("conv", attributes=_conv),
        "ConvTranspose": Spelling("conv_transpose", attributes=_conv),
        "Gemm": Spelling("gemm", attributes=_gemm),
        "MatMul": Spelling("matmul"),
        "Einsum": Spelling("einsum", attributes=_einsum),
        "Attention": Spelling("attention", attributes=_attention),
        "LSTM": Spelling("recurrent_layer", attributes=_recurrent(4), outputs=None),
        "GRU": Spelling("recurrent_layer", attributes=_recurrent(3), outputs=None),
        "RNN": Spelling("recurrent_layer", attributes=_recurrent(1), outputs=None),
        "BatchNormalization": Spelling("batch_norm", (0, 3, 4, 1, 2), _batch_norm),
        "InstanceNormalization": Spelling("instance_standardise", (0, 1, 2)),
        "LayerNormalization": Spelling("layer_norm", attributes=_layer_norm),
        "SimplifiedLayerNormalization": Spelling("rms_norm", attributes=_layer_norm),
        "RMSNormalization": Spelling("rms_norm", attributes=_layer_norm),
        "GroupNormalization": Spelling("group_norm", attributes=_group_norm),
        "MaxPool": Spelling("channelwise", attributes=_image_axes),
        "LpPool": Spelling("channelwise", attributes=_image_axes),
        "GlobalMaxPool": Spelling("channelwise", attributes=_image_axes),
        "GlobalLpPool": Spelling("channelwise", attributes=_image_axes),
        "AveragePool": Spelling("average_pool", attributes=_image_axes),
        "GlobalAveragePool": Spelling("adaptive_average_pool", attributes=_image_axes),
        "Resize": Spelling("channelwise", (0,), _resize),
        "Upsample": Spelling("channelwise", (0,), _resize),
        "GridSample": Spelling("grid_sample"),
        "SpaceToDepth": Spelling("space_to_depth", attributes=_block),
        "Softmax": Spelling("along", attributes=_softmax),
        "LogSoftmax": Spelling("along", attributes=_softmax),
        "Hardmax": Spelling("along", attributes=_softmax),
        "LpNormalization": Spelling("along", attributes=_along(-1)),
        "LRN": Spelling("along", attributes=lambda call: {"dims": (1,)}),
        "CumSum": Spelling("along", (0,), _cumulative),
        "Trilu": Spelling("along", (0,), _last_two),
        "ReduceMean": Spelling("reduce", (0,), _reduce("normalise")),
        "ReduceMax": Spelling("reduce", (0,), _reduce("normalise")),
        "ReduceMin": Spelling("reduce", (0,), _reduce("normalise")),
        "ReduceSum": Spelling("reduce", (0,), _reduce("contract")),
        "ReduceL1": Spelling("reduce", (0,), _reduce("contract")),
        "ReduceL2": Spelling("reduce", (0,), _reduce("contract")),
        "ReduceSumSquare": Spelling("reduce", (0,), _reduce("contract")),
        "ReduceProd": Spelling("reduce", (0,), _reduce(None)),
        "ReduceLogSum": Spelling("reduce", (0,), _reduce(None)),
        "ReduceLogSumExp": Spelling("reduce", (0,), _reduce(None)),
        "ArgMax": Spelling("reduce", (0,), _extreme_place),
        "ArgMin": Spelling("reduce", (0,), _extreme_place),
        "TopK": Spelling("ranked", (0,), _axis(-1), outputs=None),
        "Reshape": Spelling("reshape", (0,), _sized(1)),
        "Flatten": Spelling("reshape", (0,)),
        "Squeeze": Spelling("reshape", (0,)),
        "Unsqueeze": Spelling("reshape", (0,)),
        "Transpose": Spelling("permute", attributes=_transpose),
        "Concat": Spelling("cat", attributes=_concat),
        "Split": Spelling("split", (0,), _split, outputs=None),
        "Slice": Spelling("slice", (0,), _slice),
        "Pad": Spelling("pad", (0,), _pad),
        "Expand": Spelling("expand", (0,), _sized(1)),
        "Tile": Spelling("tile", (0,), _tile),
        "GatherElements": Spelling("take_along", attributes=_take_along),
        "ConstantOfShape": Spelling("fill", (), _sized(0)),
        "QuantizeLinear": Spelling("quantise", attributes=_quantise),
        "DequantizeLinear": Spelling("quantise", attributes=_quantise),
    }
)
"""Operator types of the standard domain; see also `_VARIANTS`."""

CONTRIBUTED: Mapping[str, Spelling] = MappingProxyType(
    {
        **{name: Spelling("elementwise") for name in _CONTRIBUTED_ELEMENTWISE.split()},
        "FusedConv": Spelling("conv_add", attributes=_conv),
        "FusedGemm": Spelling("gemm", attributes=_gemm),
        "FusedMatMul": Spelling("matmul", attributes=_fused_matmul),
        "MultiHeadAttention": Spelling("heads_attention", (0, 1, 2), _heads_attention),
        "SkipLayerNormalization": Spelling("add_layer_norm", outputs=(0, 3)),
        "SkipSimplifiedLayerNormalization": Spelling("add_rms_norm", outputs=(0, 3)),
    }
)
"""Operator types of ONNX Runtime's own domain, com.microsoft."""

_PINNED = MappingProxyType(
    {
        "Attention": "one weight for queries, keys and values",
        "EmbedLayerNormalization": "tables that are added and normalised at once",
        "GroupQueryAttention": "a cache",
        "PackedAttention": "one weight for queries, keys and values",
        "PackedMultiHeadAttention": "packed samples",
        "NhwcConv": "channels behind",
        "NhwcFusedConv": "channels behind",
        "NhwcMaxPool": "channels behind",
    }
)
"""Operator types of com.microsoft that are known, and why their axes are not followed."""


def _gather(call: Call) -> tuple[Spelling, Attributes]:
    """Rows of a table, one position by number, or several by an array.

    What numbers in a stored list look up has their axes, such as weights that are a palette.
    """
    axis = call.axis(0)
    table = call.node.inputs[0]
    assert table is not None
    if axis == 0 and table.is_initializer() and call.rank == 2:
        return Spelling("embedding", (1, 0)), {}
    if call.rank == 1 and table.is_initializer() and call.shape(1):
        return Spelling("elementwise", (1,)), {}
    if not call.shape(1):
        return Spelling("select", (0,)), {"dim": axis}
    return Spelling("gather"), {"dims": (axis,)}


def _depth_to_space(call: Call) -> tuple[Spelling, Attributes]:
    """The channels that become image positions stand before those that stay, or after."""
    before = call.attribute("mode", "DCR") == "DCR"
    return Spelling("depth_to_space" if before else "pixel_shuffle"), _block(call)


_VARIANTS = MappingProxyType({"Gather": _gather, "DepthToSpace": _depth_to_space})
"""Operator types whose operator depends on the use."""


def spelled(call: Call) -> tuple[Spelling, Attributes] | str | None:
    """The spelling of a node and its attributes.

    A form that has no meaning for axes gives text that names it, an unknown operator None.
    """
    node = call.node
    if node.domain == "" and node.op_type in _VARIANTS:
        return _VARIANTS[node.op_type](call)
    table = {"": SPELLINGS, "com.microsoft": CONTRIBUTED}.get(node.domain, {})
    spelling = table.get(node.op_type)
    if spelling is None:
        return _PINNED.get(node.op_type) if node.domain == "com.microsoft" else None
    outputs = outputs_of(node, spelling)
    if any(_is_read(value) for i, value in enumerate(node.outputs) if i not in outputs):
        return "more outputs"
    if any(output_name(node, index) not in call.facts.shapes for index in outputs):
        return "outputs that are left out"
    attributes = spelling.attributes(call)
    return attributes if isinstance(attributes, str) else (spelling, attributes)


def outputs_of(node: onnx_ir.Node, spelling: Spelling) -> tuple[int, ...]:
    """The numbers of the outputs that the operator of the table has; not those at the end that are
    left out."""
    last = max(index for index, value in enumerate(node.outputs) if value.name)
    present = range(last + 1)
    return (
        tuple(present)
        if spelling.outputs is None
        else tuple(index for index in spelling.outputs if index in present)
    )


def _is_read(value: onnx_ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
