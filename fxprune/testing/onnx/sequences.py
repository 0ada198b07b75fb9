"""The steps of drawn ONNX models on (batch, length, channels)."""

import numpy as np

from fxprune.testing.onnx.layers import CHANNELS, gelu, gemm_to
from fxprune.testing.onnx.steps import (
    OpWriter,
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


def linear_to(op: OpWriter, x: str, channels: int) -> str:
    """A linear layer on the channels, as exporters spell it."""
    _, length, c = op.shape(x)
    how = op.pick("matmul", "gemm", "transposed", "left", "einsum" if op.knows(12) else "conv")
    if how == "gemm":
        return reshaped(op, gemm_to(op, reshaped(op, x, -1, c), channels), -1, length, channels)
    if how == "left":
        y = op("MatMul", op.weight(channels, c), op("Transpose", x, perm=[0, 2, 1]))
        return str(op("Transpose", y, perm=[0, 2, 1]))
    if how == "einsum":
        return str(op("Einsum", x, op.weight(channels, c), equation="...c,oc->...o"))
    if how == "conv":
        first = op("Transpose", x, perm=[0, 2, 1])
        y = op("Conv", first, op.weight(channels, c, 1), op.weight(channels))
        return str(op("Transpose", y, perm=[0, 2, 1]))
    if how == "transposed":
        weight = op("Transpose", op.weight(channels, c), perm=[1, 0])
    else:
        weight = op.weight(c, channels)
    y = str(op("MatMul", x, weight))
    return joined(op, "Add", y, op.weight(channels)) if op.pick(True, False) else y


def linear(op: OpWriter, x: str) -> str:
    """A linear layer."""
    return linear_to(op, x, op.pick(*CHANNELS))


def mlp(op: OpWriter, x: str) -> str:
    """Two linear layers, with an activation or a gate between them."""
    hidden = op.pick(*CHANNELS)
    how = op.pick("plain", "gate", "split")
    if how == "plain":
        y = gelu(op, linear_to(op, x, hidden))
    elif how == "gate":
        gate = op("Sigmoid", linear_to(op, x, hidden))
        y = joined(op, "Mul", linear_to(op, x, hidden), gate)
    else:
        both = linear_to(op, x, 2 * hidden)
        left, right = split(op, both, op.axis(x, 2), hidden, hidden)
        y = joined(op, "Mul", left, op("Tanh", right))
    return linear(op, y)


def activation(op: OpWriter, x: str) -> str:
    """An activation, a factor or a term."""
    _, length, c = op.shape(x)
    how = op.pick("Relu", "Softplus", "Tanh", "gelu", "scale", "position", "prelu", "fast")
    if how == "gelu":
        return gelu(op, x)
    if how == "scale":
        return joined(op, "Mul", x, op.weight(c))
    if how == "position":
        return joined(op, "Add", x, op.weight(length, c))
    if how == "prelu":
        return str(op("PRelu", x, op.weight(c)))
    if how == "fast":
        return str(op("com.microsoft.BiasGelu", x, op.weight(c)))
    return str(op(how, x))


def normalisation(op: OpWriter, x: str) -> str:
    """Layer or root mean square normalisation, as one operator or written out."""
    c = op.shape(x)[2]
    newer = ["layer"] * op.knows(17) + ["rms"] * op.knows(23)
    how = op.pick(*newer, "written", "written rms", "batch")
    if how == "layer":
        bias = [op.weight(c)] if op.pick(True, False) else []
        return str(op("LayerNormalization", x, op.weight(c), *bias))
    if how == "rms":
        return str(op("RMSNormalization", x, op.weight(c)))
    if how == "batch":
        parts = [op.graph.positive(c), op.weight(c), op.weight(c), op.graph.positive(c)]
        flat = op("BatchNormalization", reshaped(op, x, -1, c), *parts)
        return reshaped(op, flat, -1, *op.shape(x)[1:])
    if how == "written":
        x = op("Sub", x, reduced(op, "ReduceMean", x, [op.axis(x, 2)]))
    variance = reduced(op, "ReduceMean", op("Mul", x, x), [op.axis(x, 2)])
    root = op("Sqrt", op("Add", variance, op.number(0.01)))
    y = op("Div", x, root) if op.pick(True, False) else op("Mul", x, op("Reciprocal", root))
    return joined(op, "Mul", y, op.weight(c))


def residual(op: OpWriter, x: str) -> str:
    """A sum with what other layers make of it."""
    y = normalisation(op, x) if op.pick(False, True) else x
    y = linear_to(op, inside(op, y), op.shape(x)[2])
    return joined(op, op.pick("Add", "Sum", "Mul"), x, y)


def attention(op: OpWriter, x: str) -> str:
    """Attention with heads: queries, keys and values apart, or from one matrix."""
    heads, size = op.pick(2, 1, 3), op.pick(2, 3, 4)
    layer = op.pick("apart", "split", "stacked", "grouped")
    if layer == "stacked":
        q, k, v = _stacked(op, x, heads, size)
    elif layer == "split":
        both = linear_to(op, x, 3 * heads * size)
        q, k, v = (_heads(op, y, heads, size) for y in split(op, both, 2, *[heads * size] * 3))
    else:
        q = _heads(op, linear_to(op, x, heads * size), heads, size)
        fewer = 1 if layer == "grouped" else heads
        k, v = (_heads(op, linear_to(op, x, fewer * size), fewer, size) for _ in "kv")
    y = _attended(op, q, k, v, size)
    y = reshaped(op, op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, heads * size)
    return linear(op, y)


def _heads(op: OpWriter, x: str, heads: int, size: int) -> str:
    """(batch, heads, length, size)."""
    return str(op("Transpose", reshaped(op, x, 0, 0, heads, size), perm=[0, 2, 1, 3]))


def _stacked(op: OpWriter, x: str, heads: int, size: int) -> list[str]:
    """Three arrays that one matrix makes, and an index takes apart."""
    both = reshaped(op, linear_to(op, x, 3 * heads * size), 0, 0, 3, heads, size)
    first = op("Transpose", both, perm=[2, 0, 3, 1, 4])
    if op.pick(True, False):
        return [op("Gather", first, op.graph.index(part), axis=0) for part in range(3)]
    return [squeezed(op, part, 0) for part in split(op, first, 0, 1, 1, 1)]


def _attended(op: OpWriter, q: str, k: str, v: str, size: int) -> str:
    """Softmax of scaled products, with a mask or without."""
    same = op.shape(q) == op.shape(k)
    if op.knows(23) and same and op.pick(False, True):
        return str(op("Attention", q, k, v, is_causal=op.pick(0, 1)))
    scale, scaled = op.number(size**-0.5), op.pick("scores", "queries")
    q = op("Mul", q, scale) if scaled == "queries" else q
    scores = op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = op("Mul", scores, scale) if scaled == "scores" else scores
    if op.pick(False, True):
        length = op.shape(q)[2]
        mask = np.triu(np.full((length, length), -1e4, dtype=np.float32), 1)
        scores = op("Add", scores, op.graph.stored(mask))
    return str(op("MatMul", op("Softmax", scores, axis=3), v))


def recurrent(op: OpWriter, x: str) -> str:
    """A recurrent layer, one way or both ways."""
    c, hidden = op.shape(x)[2], op.pick(2, 3, 4)
    op_type, gates = op.pick(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    direction = op.pick("forward", "reverse", "bidirectional")
    ways = 1 + (direction == "bidirectional")
    weights = [op.weight(ways, gates * hidden, c), op.weight(ways, gates * hidden, hidden)]
    if op.pick(True, False):
        weights.append(op.weight(ways, 2 * gates * hidden))
    first = op("Transpose", x, perm=[1, 0, 2])
    y, _ = op(op_type, first, *weights, hidden_size=hidden, direction=direction, outputs=2)
    if ways == 1:
        return str(op("Transpose", squeezed(op, y, 1), perm=[1, 0, 2]))
    return reshaped(op, op("Transpose", y, perm=[2, 0, 1, 3]), 0, 0, ways * hidden)


def concatenation(op: OpWriter, x: str) -> str:
    """What other layers make of it, beside it."""
    return str(op("Concat", x, inside(op, x), axis=op.axis(x, 2)))


def channel_slice(op: OpWriter, x: str) -> str:
    """Some channels in a row."""
    c = op.shape(x)[2]
    start = op.pick(*range(c))
    return cut(op, x, op.axis(x, 2), start, 2**31 - 1)


def rotation(op: OpWriter, x: str) -> str:
    """Halves of the channels, one negated, change places; both are scaled by position."""
    _, length, c = op.shape(x)
    left, right = split(op, x, 2, c // 2, c // 2)
    turned = op("Concat", op("Neg", right), left, axis=2)
    factors = [op.weight(1, length, c) for _ in range(2)]
    return joined(op, "Add", op("Mul", x, factors[0]), op("Mul", turned, factors[1]))


def token_mixing(op: OpWriter, x: str) -> str:
    """A matrix that reads positions, from either side; as many positions come out."""
    length = op.shape(x)[1]
    if op.pick(True, False):
        return str(op("MatMul", op.weight(length, length), x))
    y = op("MatMul", op("Transpose", x, perm=[0, 2, 1]), op.weight(length, length))
    return str(op("Transpose", y, perm=[0, 2, 1]))


def token_shift(op: OpWriter, x: str) -> str:
    """Every position sees the one before it."""
    before = cut(op, padded(op, x, [0, 1, 0], [0, 0, 0], "constant", 0.0), 1, 0, -1)
    return joined(op, "Add", x, before)


def convolution(op: OpWriter, x: str) -> str:
    """A convolution over positions, plain or of every channel by itself."""
    c = op.shape(x)[2]
    groups = op.pick(1, c)
    channels = c if groups > 1 else op.pick(*CHANNELS)
    weight = op.weight(channels, c // groups, 3)
    first = op("Transpose", x, perm=[0, 2, 1])
    y = op("Conv", first, weight, op.weight(channels), group=groups, pads=[1, 1])
    return str(op("Transpose", y, perm=[0, 2, 1]))


def grouped_linear(op: OpWriter, x: str) -> str:
    """A matrix for every group of channels."""
    c, size = op.shape(x)[2], op.pick(2, 1, 3)
    groups = op.pick(*divisors(c))
    apart = op("Transpose", reshaped(op, x, 0, 0, groups, c // groups), perm=[0, 2, 1, 3])
    y = op("MatMul", apart, op.weight(groups, c // groups, size))
    return reshaped(op, op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, groups * size)


def channel_mixing(op: OpWriter, x: str) -> str:
    """A map computed over all channels, which scales them."""
    op_type = op.pick("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2")
    return joined(op, "Mul", x, op("Sigmoid", reduced(op, op_type, x, [op.axis(x, 2)])))
