"""The steps of drawn ONNX models on (batch, channels, *size) that compute or carry channels."""

from typing import Any

import numpy as np

from fxprune.testing.onnx.steps import (
    Pen,
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


def ones(pen: Pen, x: str) -> list[int]:
    """One position for each axis of size."""
    return [1] * (len(pen.shape(x)) - 2)


def spatial(pen: Pen, x: str) -> list[int]:
    """The axes of size."""
    return list(range(2, len(pen.shape(x))))


def channels_last(pen: Pen, x: str) -> str:
    """With the channels behind."""
    return str(pen("Transpose", x, perm=[0, *spatial(pen, x), 1]))


def channels_first(pen: Pen, x: str) -> str:
    """With the channels in front again."""
    rank = len(pen.shape(x))
    return str(pen("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)]))


# Layers that compute ---------------------------------------------------------------------------


def filters(pen: Pen, *shape: int) -> str:
    """A weight, maybe stored in another order of axes, or in eight bits."""
    how = pen.pick("plain", "transposed", "identity", "quantised")
    if how == "transposed":  # TensorFlow's order
        order = [*range(2, len(shape)), 1, 0]
        stored = pen.weight(*(shape[axis] for axis in order))
        return str(pen("Transpose", stored, perm=[order.index(axis) for axis in range(len(shape))]))
    if how == "quantised" and pen.knows(13):
        whole = f"random.integers(-9, 10, size={shape}, dtype=np.int8)"
        stored = pen.graph.computed(whole, shape, dtype=3)
        scale = pen.graph.computed(f"positive({shape[0]}) / 9", shape[:1])
        return str(pen("DequantizeLinear", stored, scale, axis=0))
    weight = pen.weight(*shape)
    return str(pen("Identity", weight)) if how == "identity" else weight


def conv_to(pen: Pen, x: str, channels: int, groups: int = 1) -> str:
    """A convolution that keeps the size; its bias is inside, behind, or absent."""
    each, kernel = pen.shape(x)[1] // groups, pen.pick(1, 3)
    axes = ones(pen, x)
    pads = {"pads": [kernel // 2] * 2 * len(axes)}
    same: dict[str, Any] = pen.pick(pads, {"auto_pad": "SAME_UPPER"})
    weight = filters(pen, channels, each, *[kernel] * len(axes))
    bias = pen.pick("inside", "none", "behind")
    inner = [pen.weight(channels)] if bias == "inside" else []
    y = str(pen("Conv", x, weight, *inner, group=groups, **same))
    return joined(pen, "Add", y, pen.weight(1, channels, *axes)) if bias == "behind" else y


def conv(pen: Pen, x: str) -> str:
    """A plain convolution."""
    return conv_to(pen, x, pen.pick(*CHANNELS))


def depthwise(pen: Pen, x: str) -> str:
    """A filter, or two, per channel."""
    channels = pen.shape(x)[1]
    return conv_to(pen, x, channels * pen.pick(1, 2), channels)


def grouped(pen: Pen, x: str) -> str:
    """A convolution in groups."""
    groups = pen.pick(*divisors(pen.shape(x)[1]))
    return conv_to(pen, x, groups * pen.pick(2, 1, 3), groups)


def strided(pen: Pen, x: str) -> str:
    """A convolution that changes the size."""
    channels, axes = pen.pick(*CHANNELS), len(ones(pen, x))
    stride, padding = pen.pick((2, 1), (1, 0), (2, 0))
    weight = pen.weight(channels, pen.shape(x)[1], *[3] * axes)
    settings = {"strides": [stride] * axes, "pads": [padding] * 2 * axes}
    return str(pen("Conv", x, weight, pen.weight(channels), **settings))


def transposed(pen: Pen, x: str) -> str:
    """A transposed convolution, plain or grouped."""
    channels, axes = pen.shape(x)[1], len(ones(pen, x))
    groups = pen.pick(1, *divisors(channels))
    each = pen.pick(2, 1, 3)
    bias = [pen.weight(groups * each)] if pen.pick(True, False) else []
    weight = pen.weight(channels, each, *[3] * axes)
    return str(pen("ConvTranspose", x, weight, *bias, group=groups, pads=[1] * 2 * axes))


def shared(pen: Pen, x: str) -> str:
    """Two convolutions that have a weight, or a bias, in common."""
    channels, axes = pen.shape(x)[1], ones(pen, x)
    tied = pen.pick("bias", "weight", "both")
    weight, bias = pen.weight(channels, channels, *axes), pen.weight(channels)
    y = pen("Relu", pen("Conv", x, weight, bias))
    if tied == "bias":
        weight = pen.weight(channels, channels, *axes)
    if tied == "weight":
        bias = pen.weight(channels)
    return str(pen("Conv", y, weight, bias))


def pointwise(pen: Pen, x: str) -> str:
    """A matrix that reads channels: behind the last axis, before the others, or as a sum."""
    channels, size = pen.pick(*CHANNELS), pen.shape(x)[2:]
    c = pen.shape(x)[1]
    how = pen.pick("right", "left", "einsum" if pen.knows(12) else "left")
    if how == "right":
        y = pen("MatMul", channels_last(pen, x), pen.weight(c, channels))
        return channels_first(pen, joined(pen, "Add", y, pen.weight(channels)))
    if how == "left":
        y = pen("MatMul", pen.weight(channels, c), reshaped(pen, x, 0, c, -1))
        return reshaped(pen, y, 0, channels, *size)
    letters = "hwd"[: len(size)]
    equation = f"bc{letters},oc->bo{letters}"
    return str(pen("Einsum", x, pen.weight(channels, c), equation=equation))


def attention(pen: Pen, x: str) -> str:
    """Attention between positions: products of two computed arrays."""
    c, inner, axes = pen.shape(x)[1], pen.pick(2, 3, 4), ones(pen, x)
    size = pen.shape(x)[2:]
    q, k = (reshaped(pen, pen("Conv", x, pen.weight(inner, c, *axes)), 0, inner, -1) for _ in "qk")
    scores = pen("MatMul", pen("Transpose", q, perm=[0, 2, 1]), k)
    weights = pen("Transpose", pen("Softmax", scores, axis=2), perm=[0, 2, 1])
    return reshaped(pen, pen("MatMul", reshaped(pen, x, 0, c, -1), weights), 0, c, *size)


# Layers that carry -----------------------------------------------------------------------------


def activation(pen: Pen, x: str) -> str:
    """An activation, with f(0) = 0 or not."""
    simple = ["Relu", "Sigmoid", "Softplus", "Tanh", "Elu", "HardSigmoid", "Abs", "Softsign"]
    simple += ["HardSwish"] * pen.knows(14) + ["Mish"] * pen.knows(18) + ["Gelu"] * pen.knows(20)
    how = pen.pick(*simple, "leaky", "clip", "least", "prelu", "swish", "where", "square", "minus")
    if how == "leaky":
        return str(pen("LeakyRelu", x, alpha=0.2))
    if how in ("clip", "least"):
        return clipped(pen, x, 0.1, 1.0 if how == "clip" else None)
    if how == "prelu":
        slopes = pen.pick(pen.shape(x)[1], 1)
        return str(pen("PRelu", x, pen.weight(slopes, *ones(pen, x))))
    if how == "swish":
        return joined(pen, "Mul", x, pen("Sigmoid", x))
    if how == "where":
        return str(pen("Where", pen("Greater", x, pen.number(0)), x, pen.number(0.5)))
    if how == "square":
        return str(pen("Sqrt", pen("Add", pen("Pow", x, pen.number(2)), pen.number(1))))
    return str(pen("Sub", pen.number(2), x) if how == "minus" else pen(how, x))


def gelu(pen: Pen, x: str) -> str:
    """An activation that exporters write out."""
    y = pen("Erf", pen("Div", x, pen.number(2**0.5)))
    y = joined(pen, "Mul", x, pen("Add", y, pen.number(1)))
    return str(pen("Mul", y, pen.number(0.5)))


def pass_through(pen: Pen, x: str) -> str:
    """What changes nothing, or only the precision."""
    how = pen.pick("Identity", "Dropout", "Cast")
    if how == "Cast":
        return str(pen("Cast", pen("Cast", x, to=11), to=1))
    return str(pen(how, x))


def layer_scale(pen: Pen, x: str) -> str:
    """A factor or term per channel, or computed from sizes."""
    c, axes = pen.shape(x)[1], ones(pen, x)
    how = pen.pick("factor", "term", "vector", "zeros", "position")
    if how == "zeros":
        return joined(pen, "Add", x, pen("ConstantOfShape", pen("Shape", x)))
    if how == "position":
        return joined(pen, "Add", x, pen.weight(1, *pen.shape(x)[1:]))
    shape = (c, *axes) if how == "vector" else (1, c, *axes)
    return joined(pen, "Add" if how == "term" else "Mul", x, pen.weight(*shape))


def normalisation(pen: Pen, x: str) -> str:
    """A normalisation that ONNX has an operator for."""
    c, rank = pen.shape(x)[1], len(pen.shape(x))
    newer = ["layer"] * pen.knows(17) + ["group"] * pen.knows(21) + ["rms"] * pen.knows(23)
    how = pen.pick("batch", "instance", *newer)
    if how == "batch":
        parts = [pen.graph.positive(c), pen.weight(c), pen.weight(c), pen.graph.positive(c)]
        return str(pen("BatchNormalization", x, *parts, **pen.pick({}, {"epsilon": 0.01})))
    if how == "instance":
        return str(pen("InstanceNormalization", x, pen.graph.positive(c), pen.weight(c)))
    if how == "group":
        groups = pen.pick(1, *divisors(c))
        factors = pen.graph.positive(c), pen.weight(c)
        return str(pen("GroupNormalization", x, *factors, num_groups=groups, like=x))
    if how == "layer" and pen.pick(False, True):
        shape = pen.shape(x)[1:]
        return str(pen("LayerNormalization", x, pen.weight(*shape), pen.weight(*shape), axis=1))
    last = channels_last(pen, x)
    if how == "rms":
        return channels_first(pen, pen("RMSNormalization", last, pen.weight(c)))
    axis = pen.pick(-1, rank - 1)
    y = pen("LayerNormalization", last, pen.weight(c), pen.weight(c), axis=axis, epsilon=0.1)
    return channels_first(pen, y)


def written_normalisation(pen: Pen, x: str) -> str:
    """A normalisation as exporters write it out: over channels, over sizes, or in groups."""
    c, axes = pen.shape(x)[1], ones(pen, x)
    how = pen.pick("channels", "sizes", "groups")
    if how == "groups":
        groups, size = pen.pick(1, *divisors(c)), pen.shape(x)[2:]
        parts = pen.graph.positive(groups), pen.weight(groups)
        x = pen("InstanceNormalization", reshaped(pen, x, 0, groups, -1), *parts)
        x = reshaped(pen, x, 0, c, *size)
    else:
        dims = [1] if how == "channels" else spatial(pen, x)
        x = pen("Sub", x, reduced(pen, "ReduceMean", x, dims))
        squares = pen("Pow", x, pen.number(2)) if pen.pick(True, False) else pen("Mul", x, x)
        variance = reduced(pen, "ReduceMean", squares, dims)
        x = pen("Div", x, pen("Sqrt", pen("Add", variance, pen.number(0.01))))
    y = joined(pen, "Mul", x, pen.weight(1, c, *axes))
    return joined(pen, "Add", y, pen.weight(1, c, *axes))


def pooling(pen: Pen, x: str) -> str:
    """Pooling that keeps the size."""
    d = len(ones(pen, x))
    how = pen.pick("MaxPool", "AveragePool", "counted")
    more = {"count_include_pad": 1} if how == "counted" else {}
    settings = {"kernel_shape": [3] * d, "pads": [1] * 2 * d}
    return str(pen("AveragePool" if how == "counted" else how, x, **settings, **more))


def downsampling(pen: Pen, x: str) -> str:
    """Pooling or strided slices that halve the size."""
    d = len(ones(pen, x))
    if pen.knows(10) and pen.pick(False, True):
        for axis in spatial(pen, x):
            x = cut(pen, x, axis, 0, 2**31 - 1, 2)
        return x
    return str(pen("MaxPool", x, kernel_shape=[2] * d, strides=[2] * d))


def upsampling(pen: Pen, x: str) -> str:
    """Twice the size, by factors or by sizes that are computed."""
    d, size = len(ones(pen, x)), pen.shape(x)[2:]
    factors = pen.graph.stored(np.array([1, 1, *[2] * d], dtype=np.float32))
    if not pen.knows(11):
        return str(pen("Upsample" if not pen.knows(10) else "Resize", x, factors, mode="nearest"))
    how = pen.pick("factors", "sizes", *["axes"] * pen.knows(18))
    none = "" if pen.knows(13) else pen.graph.stored(np.zeros(0, dtype=np.float32))
    if how == "factors":
        return str(pen("Resize", x, none, factors, mode=pen.pick("nearest", "linear")))
    if how == "axes":
        sizes = pen.numbers(*(2 * n for n in size))
        return str(pen("Resize", x, "", "", sizes, mode="nearest", axes=spatial(pen, x)))
    front = cut(pen, pen("Shape", x), 0, 0, 2)
    sizes = pen("Concat", front, pen.numbers(*(2 * n for n in size)), axis=0)
    return str(pen("Resize", x, none, none, sizes, mode="nearest"))


# Layers made of layers -------------------------------------------------------------------------


def residual(pen: Pen, x: str) -> str:
    """A sum with what other layers make of it, projected where channels differ."""
    y = inside(pen, x)
    if pen.shape(y)[1] != pen.shape(x)[1]:
        y = conv_to(pen, y, pen.shape(x)[1])
    return joined(pen, pen.pick("Add", "Sum", "Mul", "Sub", "Max"), x, y)


def block(pen: Pen, x: str) -> str:
    """A residual branch that is removable: two layers with a norm."""
    c = pen.shape(x)[1]
    y = pen("Relu", conv_to(pen, x, pen.pick(*CHANNELS)))
    return joined(pen, "Add", x, normalisation(pen, conv_to(pen, inside(pen, y), c)))


def excitation(pen: Pen, x: str) -> str:
    """Factors per channel that are computed from all positions."""
    c, inner, axes = pen.shape(x)[1], pen.pick(2, 1, 3), ones(pen, x)
    how = pen.pick("conv", "gemm")
    pooled = pen.pick("GlobalAveragePool", "ReduceMean", "GlobalMaxPool")
    y = reduced(pen, pooled, x, spatial(pen, x)) if pooled == "ReduceMean" else pen(pooled, x)
    if how == "conv":
        y = pen("Relu", pen("Conv", y, pen.weight(inner, c, *axes), pen.weight(inner)))
        y = pen("Conv", y, pen.weight(c, inner, *axes), pen.weight(c))
    else:
        y = pen("Flatten", y) if pen.pick(True, False) else squeezed(pen, y, *spatial(pen, x))
        y = gemm_to(pen, pen("Relu", gemm_to(pen, y, inner)), c)
        y = unsqueezed(pen, y, *spatial(pen, x))
    return joined(pen, "Mul", x, pen("Sigmoid", y))


def gemm_to(pen: Pen, x: str, features: int) -> str:
    """A matrix behind (batch, features), or before it, in the settings that Gemm has."""
    c = pen.shape(x)[1]
    how = pen.pick("plain", "transposed", "scaled", "matmul", "left")
    if how == "matmul":
        return joined(pen, "Add", pen("MatMul", x, pen.weight(c, features)), pen.weight(features))
    if how == "left":
        y = pen("Gemm", pen.weight(features, c), x, pen.weight(features, 1), transB=1)
        return str(pen("Transpose", y, perm=[1, 0]))
    if how == "scaled":
        x = pen("Transpose", x, perm=[1, 0])
        settings = {"transA": 1, "alpha": 0.5, "beta": 2.0}
        return str(pen("Gemm", x, pen.weight(c, features), pen.weight(1, features), **settings))
    if how == "transposed":
        return str(pen("Gemm", x, pen.weight(features, c), pen.weight(features), transB=1))
    return str(pen("Gemm", x, pen.weight(c, features), pen.weight(features)))
