"""The steps of drawn ONNX models on (batch, channels, *size) that move channels, or mix them."""

from onnx import TensorProto, helper

from fxprune.testing.onnx.layers import conv_to, ones, spatial
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
    unsqueezed,
)


def channel_shuffle(pen: Pen, x: str) -> str:
    """Groups of channels, transposed; the numbers may be computed from the number of channels."""
    c, size = pen.shape(x)[1], pen.shape(x)[2:]
    groups = pen.pick(*divisors(c))
    order = [0, 2, 1, *range(3, 3 + len(size))]
    if pen.pick(False, True):
        apart = reshaped(pen, x, 0, groups, c // groups, *size)
    else:
        each = pen("Div", cut(pen, pen("Shape", x), 0, 1, 2), pen.numbers(groups))
        batch = cut(pen, pen("Shape", x), 0, 0, 1)
        sizes = pen("Concat", batch, pen.numbers(groups), each, pen.numbers(*size), axis=0)
        apart = pen("Reshape", x, sizes)
    return reshaped(pen, pen("Transpose", apart, perm=order), 0, c, *size)


def channel_slice(pen: Pen, x: str) -> str:
    """Some channels in a row, counted from either end, or every second one, or all backwards."""
    c = pen.shape(x)[1]
    how = pen.pick("front", "back", "open", *["second", "backwards"] * pen.knows(10))
    start = pen.pick(*range(c))
    if how == "second":
        return cut(pen, x, 1, 0, c, 2)
    if how == "backwards":
        return cut(pen, x, 1, -1, -(2**31), -1)
    if how == "open":
        return cut(pen, x, 1, start, 2**31 - 1)
    end = pen.pick(*range(start + 1, c + 1))
    return cut(pen, x, 1, start - c if how == "back" else start, end)


def channel_padding(pen: Pen, x: str) -> str:
    """Channels of a constant, before and after."""
    before, after, rest = pen.pick(0, 1, 3), pen.pick(1, 2), [0] * len(ones(pen, x))
    return padded(pen, x, [0, before, *rest], [0, after, *rest], "constant", pen.pick(0.0, 0.5))


def size_padding(pen: Pen, x: str) -> str:
    """Positions around an image."""
    width = [1] * len(ones(pen, x))
    mode = pen.pick("constant", "reflect", "edge")
    return padded(pen, x, [0, 0, *width], [0, 0, *width], mode, 0.5)


def channel_choice(pen: Pen, x: str) -> str:
    """Channels by number."""
    c = pen.shape(x)[1]
    chosen = [pen.pick(*range(c)) for _ in range(pen.pick(2, 1, 3))]
    return str(pen("Gather", x, pen.numbers(*chosen), axis=1))


def concatenation(pen: Pen, x: str) -> str:
    """What other layers make of it, beside it."""
    parts = [x, inside(pen, x), *([x] if pen.pick(False, True) else [])]
    if pen.pick(False, True):
        parts.reverse()
    return str(pen("Concat", *parts, axis=pen.axis(x, 1)))


def gated_unit(pen: Pen, x: str) -> str:
    """Some channels gate as many others; what is between them is left out."""
    c = pen.shape(x)[1]
    half = c // 2
    sizes = [half, c - 2 * half, half] if c % 2 else [half, half]
    parts = split(pen, x, 1, *sizes)
    return joined(pen, "Mul", parts[0], pen("Sigmoid", parts[-1]))


def swapped_parts(pen: Pen, x: str) -> str:
    """Two parts of any size, one of them changed, the other way round."""
    c = pen.shape(x)[1]
    first = pen.pick(*range(1, c))
    left, right = split(pen, x, 1, first, c - first)
    return str(pen("Concat", right, pen("Relu", left), axis=1))


def partial(pen: Pen, x: str) -> str:
    """A convolution of some channels, the others pass by."""
    c = pen.shape(x)[1]
    first = pen.pick(*range(1, c))
    left, right = split(pen, x, 1, first, c - first)
    return str(pen("Concat", conv_to(pen, left, first), right, axis=1))


def block_to_depth(pen: Pen, x: str) -> str:
    """Pixels become channels."""
    return str(pen("SpaceToDepth", x, blocksize=2))


def depth_to_block(pen: Pen, x: str) -> str:
    """Channels become pixels, in either order."""
    mode = pen.pick({}, {"mode": "CRD"}) if pen.knows(11) else {}
    return str(pen("DepthToSpace", x, blocksize=2, **mode))


def channel_mixing(pen: Pen, x: str) -> str:
    """A map computed over all channels, which scales or shifts them."""
    op_type = pen.pick("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceL1")
    if pen.pick(True, False):
        y = reduced(pen, op_type, x, [pen.axis(x, 1)])
    else:
        y = unsqueezed(pen, reduced(pen, op_type, x, [1], keep=False), 1)
    return joined(pen, pen.pick("Mul", "Add"), x, pen("Sigmoid", y))


def pinning(pen: Pen, x: str) -> str:
    """What needs to know which channel is which."""
    pictures = ["LRN"] * (len(pen.shape(x)) == 4)
    how = pen.pick("Softmax", "LpNormalization", "CumSum", "If", *pictures)
    if how == "If":
        return conditional(pen, x)
    if how == "LRN":
        return str(pen("LRN", x, size=3))
    if how == "CumSum" and pen.knows(11):
        return str(pen("CumSum", x, pen.graph.index(1)))
    return str(pen("Softmax" if how == "CumSum" else how, x, axis=1))


def conditional(pen: Pen, x: str) -> str:
    """One of two activations, as the values decide."""
    everything = reduced(pen, "ReduceSum", x, range(len(pen.shape(x))), keep=False)
    branches = {
        name: helper.make_graph(
            [helper.make_node(op_type, [x], [f"{x}_{op_type}"])],
            op_type,
            [],
            [helper.make_tensor_value_info(f"{x}_{op_type}", TensorProto.FLOAT, None)],
        )
        for name, op_type in (("then_branch", "Relu"), ("else_branch", "Sigmoid"))
    }
    positive = pen("Greater", everything, pen.number(0))
    return str(pen("If", positive, like=x, **branches))


def stretched(pen: Pen, x: str) -> str:
    """A mean of each channel, in every position again."""
    pooled = reduced(pen, "ReduceMean", x, spatial(pen, x))
    return str(pen("Expand", pooled, pen("Shape", x)))


def repeated(pen: Pen, x: str) -> str:
    """All channels twice."""
    return str(pen("Tile", x, pen.numbers(1, 2, *ones(pen, x))))
