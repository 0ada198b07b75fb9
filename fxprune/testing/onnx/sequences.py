"""The steps of drawn ONNX models on (batch, length, channels)."""

import numpy as np

from fxprune.testing.onnx.layers import CHANNELS, gelu, gemm_to
from fxprune.testing.onnx.steps import (
    Pen,
    cut,
    divisors,
    inside,
    joined,
    padded,
    reduced,
    reshaped,
    split,
    squeezed,
)


def linear_to(pen: Pen, x: str, channels: int) -> str:
    """A linear layer on the channels, as exporters spell it."""
    _, length, c = pen.shape(x)
    how = pen.pick("matmul", "gemm", "transposed", "left", "einsum" if pen.knows(12) else "conv")
    if how == "gemm":
        return reshaped(pen, gemm_to(pen, reshaped(pen, x, -1, c), channels), -1, length, channels)
    if how == "left":
        y = pen("MatMul", pen.weight(channels, c), pen("Transpose", x, perm=[0, 2, 1]))
        return str(pen("Transpose", y, perm=[0, 2, 1]))
    if how == "einsum":
        return str(pen("Einsum", x, pen.weight(channels, c), equation="...c,oc->...o"))
    if how == "conv":
        first = pen("Transpose", x, perm=[0, 2, 1])
        y = pen("Conv", first, pen.weight(channels, c, 1), pen.weight(channels))
        return str(pen("Transpose", y, perm=[0, 2, 1]))
    if how == "transposed":
        weight = pen("Transpose", pen.weight(channels, c), perm=[1, 0])
    else:
        weight = pen.weight(c, channels)
    y = str(pen("MatMul", x, weight))
    return joined(pen, "Add", y, pen.weight(channels)) if pen.pick(True, False) else y


def linear(pen: Pen, x: str) -> str:
    """A linear layer."""
    return linear_to(pen, x, pen.pick(*CHANNELS))


def mlp(pen: Pen, x: str) -> str:
    """Two linear layers, with an activation or a gate between them."""
    hidden = pen.pick(*CHANNELS)
    how = pen.pick("plain", "gate", "split")
    if how == "plain":
        y = gelu(pen, linear_to(pen, x, hidden))
    elif how == "gate":
        gate = pen("Sigmoid", linear_to(pen, x, hidden))
        y = joined(pen, "Mul", linear_to(pen, x, hidden), gate)
    else:
        both = linear_to(pen, x, 2 * hidden)
        left, right = split(pen, both, pen.axis(x, 2), hidden, hidden)
        y = joined(pen, "Mul", left, pen("Tanh", right))
    return linear(pen, y)


def activation(pen: Pen, x: str) -> str:
    """An activation, a factor or a term."""
    _, length, c = pen.shape(x)
    how = pen.pick("Relu", "Softplus", "Tanh", "gelu", "scale", "position", "prelu", "fast")
    if how == "gelu":
        return gelu(pen, x)
    if how == "scale":
        return joined(pen, "Mul", x, pen.weight(c))
    if how == "position":
        return joined(pen, "Add", x, pen.weight(length, c))
    if how == "prelu":
        return str(pen("PRelu", x, pen.weight(c)))
    if how == "fast":
        return str(pen("com.microsoft.BiasGelu", x, pen.weight(c)))
    return str(pen(how, x))


def normalisation(pen: Pen, x: str) -> str:
    """Layer or root mean square normalisation, as one operator or written out."""
    c = pen.shape(x)[2]
    newer = ["layer"] * pen.knows(17) + ["rms"] * pen.knows(23)
    how = pen.pick(*newer, "written", "written rms", "batch")
    if how == "layer":
        bias = [pen.weight(c)] if pen.pick(True, False) else []
        return str(pen("LayerNormalization", x, pen.weight(c), *bias))
    if how == "rms":
        return str(pen("RMSNormalization", x, pen.weight(c)))
    if how == "batch":
        parts = [pen.graph.positive(c), pen.weight(c), pen.weight(c), pen.graph.positive(c)]
        flat = pen("BatchNormalization", reshaped(pen, x, -1, c), *parts)
        return reshaped(pen, flat, -1, *pen.shape(x)[1:])
    if how == "written":
        x = pen("Sub", x, reduced(pen, "ReduceMean", x, [pen.axis(x, 2)]))
    variance = reduced(pen, "ReduceMean", pen("Mul", x, x), [pen.axis(x, 2)])
    root = pen("Sqrt", pen("Add", variance, pen.number(0.01)))
    y = pen("Div", x, root) if pen.pick(True, False) else pen("Mul", x, pen("Reciprocal", root))
    return joined(pen, "Mul", y, pen.weight(c))


def residual(pen: Pen, x: str) -> str:
    """A sum with what other layers make of it."""
    y = normalisation(pen, x) if pen.pick(False, True) else x
    y = linear_to(pen, inside(pen, y), pen.shape(x)[2])
    return joined(pen, pen.pick("Add", "Sum", "Mul"), x, y)


def attention(pen: Pen, x: str) -> str:
    """Attention with heads: queries, keys and values apart, or from one matrix."""
    heads, size = pen.pick(2, 1, 3), pen.pick(2, 3, 4)
    layer = pen.pick("apart", "split", "stacked", "grouped")
    if layer == "stacked":
        q, k, v = _stacked(pen, x, heads, size)
    elif layer == "split":
        both = linear_to(pen, x, 3 * heads * size)
        q, k, v = (_heads(pen, y, heads, size) for y in split(pen, both, 2, *[heads * size] * 3))
    else:
        q = _heads(pen, linear_to(pen, x, heads * size), heads, size)
        fewer = 1 if layer == "grouped" else heads
        k, v = (_heads(pen, linear_to(pen, x, fewer * size), fewer, size) for _ in "kv")
    y = _attended(pen, q, k, v, size)
    y = reshaped(pen, pen("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, heads * size)
    return linear(pen, y)


def _heads(pen: Pen, x: str, heads: int, size: int) -> str:
    """(batch, heads, length, size)."""
    return str(pen("Transpose", reshaped(pen, x, 0, 0, heads, size), perm=[0, 2, 1, 3]))


def _stacked(pen: Pen, x: str, heads: int, size: int) -> list[str]:
    """Three arrays that one matrix makes, and an index takes apart."""
    both = reshaped(pen, linear_to(pen, x, 3 * heads * size), 0, 0, 3, heads, size)
    first = pen("Transpose", both, perm=[2, 0, 3, 1, 4])
    if pen.pick(True, False):
        return [pen("Gather", first, pen.graph.index(part), axis=0) for part in range(3)]
    return [squeezed(pen, part, 0) for part in split(pen, first, 0, 1, 1, 1)]


def _attended(pen: Pen, q: str, k: str, v: str, size: int) -> str:
    """Softmax of scaled products, with a mask or without."""
    same = pen.shape(q) == pen.shape(k)
    if pen.knows(23) and same and pen.pick(False, True):
        return str(pen("Attention", q, k, v, is_causal=pen.pick(0, 1)))
    scale, scaled = pen.number(size**-0.5), pen.pick("scores", "queries")
    q = pen("Mul", q, scale) if scaled == "queries" else q
    scores = pen("MatMul", q, pen("Transpose", k, perm=[0, 1, 3, 2]))
    scores = pen("Mul", scores, scale) if scaled == "scores" else scores
    if pen.pick(False, True):
        length = pen.shape(q)[2]
        mask = np.triu(np.full((length, length), -1e4, dtype=np.float32), 1)
        scores = pen("Add", scores, pen.graph.stored(mask))
    return str(pen("MatMul", pen("Softmax", scores, axis=3), v))


def recurrent(pen: Pen, x: str) -> str:
    """A recurrent layer, one way or both ways."""
    c, hidden = pen.shape(x)[2], pen.pick(2, 3, 4)
    op_type, gates = pen.pick(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    direction = pen.pick("forward", "reverse", "bidirectional")
    ways = 1 + (direction == "bidirectional")
    weights = [pen.weight(ways, gates * hidden, c), pen.weight(ways, gates * hidden, hidden)]
    if pen.pick(True, False):
        weights.append(pen.weight(ways, 2 * gates * hidden))
    first = pen("Transpose", x, perm=[1, 0, 2])
    y, _ = pen(op_type, first, *weights, hidden_size=hidden, direction=direction, outputs=2)
    if ways == 1:
        return str(pen("Transpose", squeezed(pen, y, 1), perm=[1, 0, 2]))
    return reshaped(pen, pen("Transpose", y, perm=[2, 0, 1, 3]), 0, 0, ways * hidden)


def concatenation(pen: Pen, x: str) -> str:
    """What other layers make of it, beside it."""
    return str(pen("Concat", x, inside(pen, x), axis=pen.axis(x, 2)))


def channel_slice(pen: Pen, x: str) -> str:
    """Some channels in a row."""
    c = pen.shape(x)[2]
    start = pen.pick(*range(c))
    return cut(pen, x, pen.axis(x, 2), start, 2**31 - 1)


def rotation(pen: Pen, x: str) -> str:
    """Halves of the channels, one negated, change places; both are scaled by position."""
    _, length, c = pen.shape(x)
    left, right = split(pen, x, 2, c // 2, c // 2)
    turned = pen("Concat", pen("Neg", right), left, axis=2)
    factors = [pen.weight(1, length, c) for _ in range(2)]
    return joined(pen, "Add", pen("Mul", x, factors[0]), pen("Mul", turned, factors[1]))


def token_mixing(pen: Pen, x: str) -> str:
    """A matrix that reads positions, from either side; as many positions come out."""
    length = pen.shape(x)[1]
    if pen.pick(True, False):
        return str(pen("MatMul", pen.weight(length, length), x))
    y = pen("MatMul", pen("Transpose", x, perm=[0, 2, 1]), pen.weight(length, length))
    return str(pen("Transpose", y, perm=[0, 2, 1]))


def token_shift(pen: Pen, x: str) -> str:
    """Every position sees the one before it."""
    before = cut(pen, padded(pen, x, [0, 1, 0], [0, 0, 0], "constant", 0.0), 1, 0, -1)
    return joined(pen, "Add", x, before)


def convolution(pen: Pen, x: str) -> str:
    """A convolution over positions, plain or of every channel by itself."""
    c = pen.shape(x)[2]
    groups = pen.pick(1, c)
    channels = c if groups > 1 else pen.pick(*CHANNELS)
    weight = pen.weight(channels, c // groups, 3)
    first = pen("Transpose", x, perm=[0, 2, 1])
    y = pen("Conv", first, weight, pen.weight(channels), group=groups, pads=[1, 1])
    return str(pen("Transpose", y, perm=[0, 2, 1]))


def grouped_linear(pen: Pen, x: str) -> str:
    """A matrix for every group of channels."""
    c, size = pen.shape(x)[2], pen.pick(2, 1, 3)
    groups = pen.pick(*divisors(c))
    apart = pen("Transpose", reshaped(pen, x, 0, 0, groups, c // groups), perm=[0, 2, 1, 3])
    y = pen("MatMul", apart, pen.weight(groups, c // groups, size))
    return reshaped(pen, pen("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, groups * size)


def channel_mixing(pen: Pen, x: str) -> str:
    """A map computed over all channels, which scales them."""
    op_type = pen.pick("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2")
    return joined(pen, "Mul", x, pen("Sigmoid", reduced(pen, op_type, x, [pen.axis(x, 2)])))
