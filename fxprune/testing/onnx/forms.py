"""The steps of drawn ONNX models that files seldom have: fused operators, what is left out,
sequences in between, whole numbers.
"""

import numpy as np
from onnx import TensorProto

from fxprune.testing.onnx.layers import CHANNELS, ones, spatial
from fxprune.testing.onnx.steps import OpWriter, cut, joined, reduced, reshaped, unsqueezed

# On (batch, channels, *size) -------------------------------------------------------------------


def fused_convolution(op: OpWriter, x: str) -> str:
    """A convolution with its activation, and maybe a sum before that, with a bias or without."""
    channels, axes = op.shape(x)[1], ones(op, x)
    bias, added = op.pick((True, False), (True, True), (False, False), (False, True))
    width = channels if added else op.pick(*CHANNELS)
    weight = op.weight(width, channels, *axes)
    tail = [op.weight(width) if bias else "", *([x] if added else [])]
    y = op("Conv", x, weight)  # which tells the shape
    settings = {"activation": op.pick("Relu", "Tanh", "Sigmoid")}
    return str(op("com.microsoft.FusedConv", x, weight, *tail, like=y, **settings))


def pooled_without_axes(op: OpWriter, x: str) -> str:
    """Means of channels, of which a squeeze takes every axis away that has one position."""
    c, axes = op.shape(x)[1], ones(op, x)
    y = op("Squeeze", op("GlobalAveragePool", x))
    y = reshaped(op, op("MatMul", y, op.weight(c, c)), -1, c)
    return joined(op, "Mul", x, unsqueezed(op, op("Sigmoid", y), *range(2, 2 + len(axes))))


def whole_numbers(op: OpWriter, x: str) -> str:
    """A map of whole numbers, reduced over channels, that scales them."""
    op_type = op.pick("ReduceMax", "ReduceMin", "ReduceSum")
    narrow = [TensorProto.INT8, TensorProto.UINT8] if op_type != "ReduceSum" else []
    kinds = [TensorProto.INT32, TensorProto.INT64, *(narrow if op.knows(12) else [])]
    tenfold = op("Mul", op("Sigmoid", x), op.number(10))
    whole = op("Cast", op("Floor", tenfold), to=op.pick(*kinds))
    y = op("Cast", reduced(op, op_type, whole, [1]), to=TensorProto.FLOAT)
    return joined(op, "Mul", x, y)


def blurred(op: OpWriter, x: str) -> str:
    """Positions and channels joined to one axis, and counted."""
    c = op.shape(x)[1]
    groups = op.pick(*(n for n in range(1, c + 1) if c % n == 0))
    y = reduced(op, op.pick("ReduceMean", "ReduceMax"), reshaped(op, x, 0, groups, -1), [2])
    y = reduced(op, "ReduceMean", y, [1])
    if more := spatial(op, x)[1:]:
        y = unsqueezed(op, y, *more)
    return joined(op, "Mul", x, op("Sigmoid", y))


# On either -------------------------------------------------------------------------------------


def through_a_sequence(op: OpWriter, x: str) -> str:
    """An array that goes through a sequence, or parts of it that do."""
    if op.pick(True, False):
        pair = op("SequenceConstruct", x, op("Neg", x))
        return str(op("SequenceAt", pair, op.graph.index(op.pick(0, 1)), like=x))
    parts = op("SplitToSequence", x, axis=1)
    return str(op("ConcatFromSequence", parts, axis=1, like=x))


# On (batch, length, channels) ------------------------------------------------------------------


def last_state(op: OpWriter, x: str) -> str:
    """The last state of a recurrent layer, whose other outputs are left out, in every position."""
    c, hidden = op.shape(x)[2], op.pick(2, 3, 4)
    op_type, gates, outputs = op.pick(("GRU", 3, ".h"), ("LSTM", 4, "..c"), ("LSTM", 4, ".h"))
    weights = [op.weight(1, gates * hidden, c), op.weight(1, gates * hidden, hidden)]
    first = op("Transpose", x, perm=[1, 0, 2])
    state = op(op_type, first, *weights, hidden_size=hidden, outputs=outputs)[-1]
    state = op("Transpose", state, perm=[1, 0, 2])
    zeros = op("Mul", cut(op, x, 2, 0, 1), op.number(0))
    return str(op("Add", state, zeros))


def added_norm(op: OpWriter, x: str) -> str:
    """The norm of a sum, and maybe the sum, without what stands between the two."""
    c = op.shape(x)[2]
    is_centred, sum_too, biased = (
        op.pick(True, False),
        op.pick(False, True),
        op.pick(False, True),
    )
    name = "SkipLayerNormalization" if is_centred else "SkipSimplifiedLayerNormalization"
    shift = [op.weight(c)] if is_centred else []
    bias = [op.weight(c)] if biased else []
    made = op(
        f"com.microsoft.{name}",
        *(x, op("Tanh", x), op.weight(c), *shift, *bias),
        outputs="y..s" if sum_too else 1,
    )
    return joined(op, "Add", made[0], made[3]) if sum_too else str(made)


def fused_matrix(op: OpWriter, x: str) -> str:
    """A scaled product with matrices that are transposed first."""
    c = op.shape(x)[2]
    width = op.pick(*CHANNELS)
    turned = op.pick(False, True)
    weight = op.weight(width, c) if op.pick(True, False) else None
    y = op("MatMul", x, op.weight(c, width))  # which tells the shape
    return str(
        op(
            "com.microsoft.FusedMatMul",
            op("Transpose", x, perm=[0, 2, 1]) if turned else x,
            weight or op.weight(c, width),
            transA=int(turned),
            transB=int(weight is not None),
            alpha=0.5,
            like=y,
        )
    )


def fused_attention(op: OpWriter, x: str) -> str:
    """Attention with its heads in the last axis."""
    heads, size, own = op.pick(2, 1, 3), op.pick(2, 3), op.pick(2, 4)
    c = op.shape(x)[2]
    widths = (heads * size, heads * size, heads * own)
    q, k, v = (op("MatMul", x, op.weight(c, width)) for width in widths)
    scale = op.pick({}, {"scale": 0.5})
    name = "com.microsoft.MultiHeadAttention"
    return str(op(name, q, k, v, num_heads=heads, like=v, **scale))


# What else may be an output --------------------------------------------------------------------


def another_output(op: OpWriter, x: str, channels: int) -> str:
    """Something that nothing reads in the model: an array, a number, a sequence."""
    how = op.pick("whole", "shape", "reduced", "constant", "sequence")
    if how == "shape":
        return str(op("Shape", x))
    if how == "reduced":
        op_type = op.pick("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2")
        return reduced(op, op_type, x, [channels], keep=op.pick(True, False))
    if how == "constant":
        return str(op.graph.stored(np.arange(3)))
    if how == "sequence" and op.knows(11):
        return str(op("SequenceConstruct", x, op("Neg", x)))
    return x
