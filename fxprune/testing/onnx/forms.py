"""The steps of drawn ONNX models that files seldom have: fused operators, what is left out,
sequences in between, whole numbers.
"""

import numpy as np
from onnx import TensorProto

from fxprune.testing.onnx.layers import CHANNELS, ones, spatial
from fxprune.testing.onnx.steps import Pen, cut, joined, reduced, reshaped, unsqueezed

# On (batch, channels, *size) -------------------------------------------------------------------


def fused_convolution(pen: Pen, x: str) -> str:
    """A convolution with its activation, and maybe a sum before that, with a bias or without."""
    channels, axes = pen.shape(x)[1], ones(pen, x)
    bias, added = pen.pick((True, False), (True, True), (False, False), (False, True))
    width = channels if added else pen.pick(*CHANNELS)
    weight = pen.weight(width, channels, *axes)
    tail = [pen.weight(width) if bias else "", *([x] if added else [])]
    y = pen("Conv", x, weight)  # which tells the shape
    settings = {"activation": pen.pick("Relu", "Tanh", "Sigmoid")}
    return str(pen("com.microsoft.FusedConv", x, weight, *tail, like=y, **settings))


def pooled_without_axes(pen: Pen, x: str) -> str:
    """Means of channels, of which a squeeze takes every axis away that has one position."""
    c, axes = pen.shape(x)[1], ones(pen, x)
    y = pen("Squeeze", pen("GlobalAveragePool", x))
    y = reshaped(pen, pen("MatMul", y, pen.weight(c, c)), -1, c)
    return joined(pen, "Mul", x, unsqueezed(pen, pen("Sigmoid", y), *range(2, 2 + len(axes))))


def whole_numbers(pen: Pen, x: str) -> str:
    """A map of whole numbers, reduced over channels, that scales them."""
    op_type = pen.pick("ReduceMax", "ReduceMin", "ReduceSum")
    narrow = [TensorProto.INT8, TensorProto.UINT8] if op_type != "ReduceSum" else []
    kinds = [TensorProto.INT32, TensorProto.INT64, *(narrow if pen.knows(12) else [])]
    tenfold = pen("Mul", pen("Sigmoid", x), pen.number(10))
    whole = pen("Cast", pen("Floor", tenfold), to=pen.pick(*kinds))
    y = pen("Cast", reduced(pen, op_type, whole, [1]), to=TensorProto.FLOAT)
    return joined(pen, "Mul", x, y)


def blurred(pen: Pen, x: str) -> str:
    """Positions and channels joined to one axis, and counted."""
    c = pen.shape(x)[1]
    groups = pen.pick(*(n for n in range(1, c + 1) if c % n == 0))
    y = reduced(pen, pen.pick("ReduceMean", "ReduceMax"), reshaped(pen, x, 0, groups, -1), [2])
    y = reduced(pen, "ReduceMean", y, [1])
    if more := spatial(pen, x)[1:]:
        y = unsqueezed(pen, y, *more)
    return joined(pen, "Mul", x, pen("Sigmoid", y))


# On either -------------------------------------------------------------------------------------


def through_a_sequence(pen: Pen, x: str) -> str:
    """An array that goes through a sequence, or parts of it that do."""
    if pen.pick(True, False):
        pair = pen("SequenceConstruct", x, pen("Neg", x))
        return str(pen("SequenceAt", pair, pen.graph.index(pen.pick(0, 1)), like=x))
    parts = pen("SplitToSequence", x, axis=1)
    return str(pen("ConcatFromSequence", parts, axis=1, like=x))


# On (batch, length, channels) ------------------------------------------------------------------


def last_state(pen: Pen, x: str) -> str:
    """The last state of a recurrent layer, whose other outputs are left out, in every position."""
    c, hidden = pen.shape(x)[2], pen.pick(2, 3, 4)
    op_type, gates, outputs = pen.pick(("GRU", 3, ".h"), ("LSTM", 4, "..c"), ("LSTM", 4, ".h"))
    weights = [pen.weight(1, gates * hidden, c), pen.weight(1, gates * hidden, hidden)]
    first = pen("Transpose", x, perm=[1, 0, 2])
    state = pen(op_type, first, *weights, hidden_size=hidden, outputs=outputs)[-1]
    state = pen("Transpose", state, perm=[1, 0, 2])
    zeros = pen("Mul", cut(pen, x, 2, 0, 1), pen.number(0))
    return str(pen("Add", state, zeros))


def added_norm(pen: Pen, x: str) -> str:
    """The norm of a sum, and maybe the sum, without what stands between the two."""
    c = pen.shape(x)[2]
    is_centred, sum_too, biased = (
        pen.pick(True, False),
        pen.pick(False, True),
        pen.pick(False, True),
    )
    name = "SkipLayerNormalization" if is_centred else "SkipSimplifiedLayerNormalization"
    shift = [pen.weight(c)] if is_centred else []
    bias = [pen.weight(c)] if biased else []
    made = pen(
        f"com.microsoft.{name}",
        *(x, pen("Tanh", x), pen.weight(c), *shift, *bias),
        outputs="y..s" if sum_too else 1,
    )
    return joined(pen, "Add", made[0], made[3]) if sum_too else str(made)


def fused_matrix(pen: Pen, x: str) -> str:
    """A scaled product with matrices that are transposed first."""
    c = pen.shape(x)[2]
    width = pen.pick(*CHANNELS)
    turned = pen.pick(False, True)
    weight = pen.weight(width, c) if pen.pick(True, False) else None
    y = pen("MatMul", x, pen.weight(c, width))  # which tells the shape
    return str(
        pen(
            "com.microsoft.FusedMatMul",
            pen("Transpose", x, perm=[0, 2, 1]) if turned else x,
            weight or pen.weight(c, width),
            transA=int(turned),
            transB=int(weight is not None),
            alpha=0.5,
            like=y,
        )
    )


def fused_attention(pen: Pen, x: str) -> str:
    """Attention with its heads in the last axis."""
    heads, size, own = pen.pick(2, 1, 3), pen.pick(2, 3), pen.pick(2, 4)
    c = pen.shape(x)[2]
    widths = (heads * size, heads * size, heads * own)
    q, k, v = (pen("MatMul", x, pen.weight(c, width)) for width in widths)
    scale = pen.pick({}, {"scale": 0.5})
    name = "com.microsoft.MultiHeadAttention"
    return str(pen(name, q, k, v, num_heads=heads, like=v, **scale))


# What else may be an output --------------------------------------------------------------------


def another_output(pen: Pen, x: str, channels: int) -> str:
    """Something that nothing reads in the model: an array, a number, a sequence."""
    how = pen.pick("whole", "shape", "reduced", "constant", "sequence")
    if how == "shape":
        return str(pen("Shape", x))
    if how == "reduced":
        op_type = pen.pick("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2")
        return reduced(pen, op_type, x, [channels], keep=pen.pick(True, False))
    if how == "constant":
        return str(pen.graph.stored(np.arange(3)))
    if how == "sequence" and pen.knows(11):
        return str(pen("SequenceConstruct", x, pen("Neg", x)))
    return x
