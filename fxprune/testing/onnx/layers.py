"""The steps of drawn ONNX models on (batch, channels, *size) that compute or carry channels."""

from typing import Any

import numpy as np

from fxprune.testing.onnx.steps import (
    OpWriter,
    clipped,
    cut,
    divisors,
    inside,
    joined,
    reduced,
    reshaped,
    squeezed,
    unsqueezed,
)

CHANNELS = (4, 2, 3, 6, 8)
"""Numbers of channels that layers have."""


def ones(op: OpWriter, x: str) -> list[int]:
    """One position for each axis of size."""
    return [1] * (len(op.shape(x)) - 2)


def spatial(op: OpWriter, x: str) -> list[int]:
    """The axes of size."""
    return list(range(2, len(op.shape(x))))


def channels_last(op: OpWriter, x: str) -> str:
    """With the channels behind."""
    return str(op("Transpose", x, perm=[0, *spatial(op, x), 1]))


def channels_first(op: OpWriter, x: str) -> str:
    """With the channels in front again."""
    rank = len(op.shape(x))
    return str(op("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)]))


# Layers that compute ---------------------------------------------------------------------------


def filters(op: OpWriter, *shape: int) -> str:
    """A weight, maybe stored in another order of axes, or in eight bits."""
    how = op.pick("plain", "transposed", "identity", "quantised")
    if how == "transposed":  # TensorFlow's order
        order = [*range(2, len(shape)), 1, 0]
        stored = op.weight(*(shape[axis] for axis in order))
        return str(op("Transpose", stored, perm=[order.index(axis) for axis in range(len(shape))]))
    if how == "quantised" and op.knows(13):
        whole = f"random.integers(-9, 10, size={shape}, dtype=np.int8)"
        stored = op.graph.computed(whole, shape, dtype=3)
        scale = op.graph.computed(f"positive({shape[0]}) / 9", shape[:1])
        return str(op("DequantizeLinear", stored, scale, axis=0))
    weight = op.weight(*shape)
    return str(op("Identity", weight)) if how == "identity" else weight


def conv_to(op: OpWriter, x: str, channels: int, groups: int = 1) -> str:
    """A convolution that keeps the size; its bias is inside, behind, or absent."""
    each, kernel = op.shape(x)[1] // groups, op.pick(1, 3)
    axes = ones(op, x)
    pads = {"pads": [kernel // 2] * 2 * len(axes)}
    same: dict[str, Any] = op.pick(pads, {"auto_pad": "SAME_UPPER"})
    weight = filters(op, channels, each, *[kernel] * len(axes))
    bias = op.pick("inside", "none", "behind")
    inner = [op.weight(channels)] if bias == "inside" else []
    y = str(op("Conv", x, weight, *inner, group=groups, **same))
    return joined(op, "Add", y, op.weight(1, channels, *axes)) if bias == "behind" else y


def conv(op: OpWriter, x: str) -> str:
    """A plain convolution."""
    return conv_to(op, x, op.pick(*CHANNELS))


def depthwise(op: OpWriter, x: str) -> str:
    """A filter, or two, per channel."""
    channels = op.shape(x)[1]
    return conv_to(op, x, channels * op.pick(1, 2), channels)


def grouped(op: OpWriter, x: str) -> str:
    """A convolution in groups."""
    groups = op.pick(*divisors(op.shape(x)[1]))
    return conv_to(op, x, groups * op.pick(2, 1, 3), groups)


def strided(op: OpWriter, x: str) -> str:
    """A convolution that changes the size."""
    channels, axes = op.pick(*CHANNELS), len(ones(op, x))
    stride, padding = op.pick((2, 1), (1, 0), (2, 0))
    weight = op.weight(channels, op.shape(x)[1], *[3] * axes)
    settings = {"strides": [stride] * axes, "pads": [padding] * 2 * axes}
    return str(op("Conv", x, weight, op.weight(channels), **settings))


def transposed(op: OpWriter, x: str) -> str:
    """A transposed convolution, plain or grouped."""
    channels, axes = op.shape(x)[1], len(ones(op, x))
    groups = op.pick(1, *divisors(channels))
    each = op.pick(2, 1, 3)
    bias = [op.weight(groups * each)] if op.pick(True, False) else []
    weight = op.weight(channels, each, *[3] * axes)
    return str(op("ConvTranspose", x, weight, *bias, group=groups, pads=[1] * 2 * axes))


def shared(op: OpWriter, x: str) -> str:
    """Two convolutions that have a weight, or a bias, in common."""
    channels, axes = op.shape(x)[1], ones(op, x)
    tied = op.pick("bias", "weight", "both")
    weight, bias = op.weight(channels, channels, *axes), op.weight(channels)
    y = op("Relu", op("Conv", x, weight, bias))
    if tied == "bias":
        weight = op.weight(channels, channels, *axes)
    if tied == "weight":
        bias = op.weight(channels)
    return str(op("Conv", y, weight, bias))


def pointwise(op: OpWriter, x: str) -> str:
    """A matrix that reads channels: behind the last axis, before the others, or as a sum."""
    channels, size = op.pick(*CHANNELS), op.shape(x)[2:]
    c = op.shape(x)[1]
    how = op.pick("right", "left", "einsum" if op.knows(12) else "left")
    if how == "right":
        y = op("MatMul", channels_last(op, x), op.weight(c, channels))
        return channels_first(op, joined(op, "Add", y, op.weight(channels)))
    if how == "left":
        y = op("MatMul", op.weight(channels, c), reshaped(op, x, 0, c, -1))
        return reshaped(op, y, 0, channels, *size)
    letters = "hwd"[: len(size)]
    equation = f"bc{letters},oc->bo{letters}"
    return str(op("Einsum", x, op.weight(channels, c), equation=equation))


def attention(op: OpWriter, x: str) -> str:
    """Attention between positions: products of two computed arrays."""
    c, inner, axes = op.shape(x)[1], op.pick(2, 3, 4), ones(op, x)
    size = op.shape(x)[2:]
    q, k = (reshaped(op, op("Conv", x, op.weight(inner, c, *axes)), 0, inner, -1) for _ in "qk")
    scores = op("MatMul", op("Transpose", q, perm=[0, 2, 1]), k)
    weights = op("Transpose", op("Softmax", scores, axis=2), perm=[0, 2, 1])
    return reshaped(op, op("MatMul", reshaped(op, x, 0, c, -1), weights), 0, c, *size)


# Layers that carry -----------------------------------------------------------------------------


def activation(op: OpWriter, x: str) -> str:
    """An activation, with f(0) = 0 or not."""
    simple = ["Relu", "Sigmoid", "Softplus", "Tanh", "Elu", "HardSigmoid", "Abs", "Softsign"]
    simple += ["HardSwish"] * op.knows(14) + ["Mish"] * op.knows(18) + ["Gelu"] * op.knows(20)
    how = op.pick(*simple, "leaky", "clip", "least", "prelu", "swish", "where", "square", "minus")
    if how == "leaky":
        return str(op("LeakyRelu", x, alpha=0.2))
    if how in ("clip", "least"):
        return clipped(op, x, 0.1, 1.0 if how == "clip" else None)
    if how == "prelu":
        slopes = op.pick(op.shape(x)[1], 1)
        return str(op("PRelu", x, op.weight(slopes, *ones(op, x))))
    if how == "swish":
        return joined(op, "Mul", x, op("Sigmoid", x))
    if how == "where":
        return str(op("Where", op("Greater", x, op.number(0)), x, op.number(0.5)))
    if how == "square":
        return str(op("Sqrt", op("Add", op("Pow", x, op.number(2)), op.number(1))))
    return str(op("Sub", op.number(2), x) if how == "minus" else op(how, x))


def gelu(op: OpWriter, x: str) -> str:
    """An activation that exporters write out."""
    y = op("Erf", op("Div", x, op.number(2**0.5)))
    y = joined(op, "Mul", x, op("Add", y, op.number(1)))
    return str(op("Mul", y, op.number(0.5)))


def pass_through(op: OpWriter, x: str) -> str:
    """What changes nothing, or only the precision."""
    how = op.pick("Identity", "Dropout", "Cast")
    if how == "Cast":
        return str(op("Cast", op("Cast", x, to=11), to=1))
    return str(op(how, x))


def layer_scale(op: OpWriter, x: str) -> str:
    """A factor or term per channel, or computed from sizes."""
    c, axes = op.shape(x)[1], ones(op, x)
    how = op.pick("factor", "term", "vector", "zeros", "position")
    if how == "zeros":
        return joined(op, "Add", x, op("ConstantOfShape", op("Shape", x)))
    if how == "position":
        return joined(op, "Add", x, op.weight(1, *op.shape(x)[1:]))
    shape = (c, *axes) if how == "vector" else (1, c, *axes)
    return joined(op, "Add" if how == "term" else "Mul", x, op.weight(*shape))


def normalisation(op: OpWriter, x: str) -> str:
    """A normalisation that ONNX has an operator for."""
    c, rank = op.shape(x)[1], len(op.shape(x))
    newer = ["layer"] * op.knows(17) + ["group"] * op.knows(21) + ["rms"] * op.knows(23)
    how = op.pick("batch", "instance", *newer)
    if how == "batch":
        parts = [op.graph.positive(c), op.weight(c), op.weight(c), op.graph.positive(c)]
        return str(op("BatchNormalization", x, *parts, **op.pick({}, {"epsilon": 0.01})))
    if how == "instance":
        return str(op("InstanceNormalization", x, op.graph.positive(c), op.weight(c)))
    if how == "group":
        groups = op.pick(1, *divisors(c))
        factors = op.graph.positive(c), op.weight(c)
        return str(op("GroupNormalization", x, *factors, num_groups=groups, like=x))
    if how == "layer" and op.pick(False, True):
        shape = op.shape(x)[1:]
        return str(op("LayerNormalization", x, op.weight(*shape), op.weight(*shape), axis=1))
    last = channels_last(op, x)
    if how == "rms":
        return channels_first(op, op("RMSNormalization", last, op.weight(c)))
    axis = op.pick(-1, rank - 1)
    y = op("LayerNormalization", last, op.weight(c), op.weight(c), axis=axis, epsilon=0.1)
    return channels_first(op, y)


def written_normalisation(op: OpWriter, x: str) -> str:
    """A normalisation as exporters write it out: over channels, over sizes, or in groups."""
    c, axes = op.shape(x)[1], ones(op, x)
    how = op.pick("channels", "sizes", "groups")
    if how == "groups":
        groups, size = op.pick(1, *divisors(c)), op.shape(x)[2:]
        parts = op.graph.positive(groups), op.weight(groups)
        x = op("InstanceNormalization", reshaped(op, x, 0, groups, -1), *parts)
        x = reshaped(op, x, 0, c, *size)
    else:
        dims = [1] if how == "channels" else spatial(op, x)
        x = op("Sub", x, reduced(op, "ReduceMean", x, dims))
        squares = op("Pow", x, op.number(2)) if op.pick(True, False) else op("Mul", x, x)
        variance = reduced(op, "ReduceMean", squares, dims)
        x = op("Div", x, op("Sqrt", op("Add", variance, op.number(0.01))))
    y = joined(op, "Mul", x, op.weight(1, c, *axes))
    return joined(op, "Add", y, op.weight(1, c, *axes))


def pooling(op: OpWriter, x: str) -> str:
    """Pooling that keeps the size."""
    d = len(ones(op, x))
    how = op.pick("MaxPool", "AveragePool", "counted")
    more = {"count_include_pad": 1} if how == "counted" else {}
    settings = {"kernel_shape": [3] * d, "pads": [1] * 2 * d}
    return str(op("AveragePool" if how == "counted" else how, x, **settings, **more))


def downsampling(op: OpWriter, x: str) -> str:
    """Pooling or strided slices that halve the size."""
    d = len(ones(op, x))
    if op.knows(10) and op.pick(False, True):
        for axis in spatial(op, x):
            x = cut(op, x, axis, 0, 2**31 - 1, 2)
        return x
    return str(op("MaxPool", x, kernel_shape=[2] * d, strides=[2] * d))


def upsampling(op: OpWriter, x: str) -> str:
    """Twice the size, by factors or by sizes that are computed."""
    d, size = len(ones(op, x)), op.shape(x)[2:]
    factors = op.graph.stored(np.array([1, 1, *[2] * d], dtype=np.float32))
    if not op.knows(11):
        return str(op("Upsample" if not op.knows(10) else "Resize", x, factors, mode="nearest"))
    how = op.pick("factors", "sizes", *["axes"] * op.knows(18))
    none = "" if op.knows(13) else op.graph.stored(np.zeros(0, dtype=np.float32))
    if how == "factors":
        return str(op("Resize", x, none, factors, mode=op.pick("nearest", "linear")))
    if how == "axes":
        sizes = op.numbers(*(2 * n for n in size))
        return str(op("Resize", x, "", "", sizes, mode="nearest", axes=spatial(op, x)))
    front = cut(op, op("Shape", x), 0, 0, 2)
    sizes = op("Concat", front, op.numbers(*(2 * n for n in size)), axis=0)
    return str(op("Resize", x, none, none, sizes, mode="nearest"))


# Layers made of layers -------------------------------------------------------------------------


def residual(op: OpWriter, x: str) -> str:
    """A sum with what other layers make of it, projected where channels differ."""
    y = inside(op, x)
    if op.shape(y)[1] != op.shape(x)[1]:
        y = conv_to(op, y, op.shape(x)[1])
    return joined(op, op.pick("Add", "Sum", "Mul", "Sub", "Max"), x, y)


def block(op: OpWriter, x: str) -> str:
    """A residual branch that is removable: two layers with a norm."""
    c = op.shape(x)[1]
    y = op("Relu", conv_to(op, x, op.pick(*CHANNELS)))
    return joined(op, "Add", x, normalisation(op, conv_to(op, inside(op, y), c)))


def excitation(op: OpWriter, x: str) -> str:
    """Factors per channel that are computed from all positions."""
    c, inner, axes = op.shape(x)[1], op.pick(2, 1, 3), ones(op, x)
    how = op.pick("conv", "gemm")
    pooled = op.pick("GlobalAveragePool", "ReduceMean", "GlobalMaxPool")
    y = reduced(op, pooled, x, spatial(op, x)) if pooled == "ReduceMean" else op(pooled, x)
    if how == "conv":
        y = op("Relu", op("Conv", y, op.weight(inner, c, *axes), op.weight(inner)))
        y = op("Conv", y, op.weight(c, inner, *axes), op.weight(c))
    else:
        y = op("Flatten", y) if op.pick(True, False) else squeezed(op, y, *spatial(op, x))
        y = gemm_to(op, op("Relu", gemm_to(op, y, inner)), c)
        y = unsqueezed(op, y, *spatial(op, x))
    return joined(op, "Mul", x, op("Sigmoid", y))


def gemm_to(op: OpWriter, x: str, features: int) -> str:
    """A matrix behind (batch, features), or before it, in the settings that Gemm has."""
    c = op.shape(x)[1]
    how = op.pick("plain", "transposed", "scaled", "matmul", "left")
    if how == "matmul":
        return joined(op, "Add", op("MatMul", x, op.weight(c, features)), op.weight(features))
    if how == "left":
        y = op("Gemm", op.weight(features, c), x, op.weight(features, 1), transB=1)
        return str(op("Transpose", y, perm=[1, 0]))
    if how == "scaled":
        x = op("Transpose", x, perm=[1, 0])
        settings = {"transA": 1, "alpha": 0.5, "beta": 2.0}
        return str(op("Gemm", x, op.weight(c, features), op.weight(1, features), **settings))
    if how == "transposed":
        return str(op("Gemm", x, op.weight(features, c), op.weight(features), transB=1))
    return str(op("Gemm", x, op.weight(c, features), op.weight(features)))
