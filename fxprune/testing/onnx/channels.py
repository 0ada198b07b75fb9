"""The steps of drawn ONNX models on (batch, channels, *size) that move channels, or mix them."""

from onnx import TensorProto, helper

from fxprune.testing.onnx.layers import conv_to, ones, spatial
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
    unsqueezed,
)


def channel_shuffle(op: OpWriter, x: str) -> str:
    """Groups of channels, transposed; the numbers may be computed from the number of channels."""
    c, size = op.shape(x)[1], op.shape(x)[2:]
    groups = op.pick(*divisors(c))
    order = [0, 2, 1, *range(3, 3 + len(size))]
    if op.pick(False, True):
        apart = reshaped(op, x, 0, groups, c // groups, *size)
    else:
        each = op("Div", cut(op, op("Shape", x), 0, 1, 2), op.numbers(groups))
        batch = cut(op, op("Shape", x), 0, 0, 1)
        sizes = op("Concat", batch, op.numbers(groups), each, op.numbers(*size), axis=0)
        apart = op("Reshape", x, sizes)
    return reshaped(op, op("Transpose", apart, perm=order), 0, c, *size)


def channel_slice(op: OpWriter, x: str) -> str:
    """Some channels in a row, counted from either end, or every second one, or all backwards."""
    c = op.shape(x)[1]
    how = op.pick("front", "back", "open", *["second", "backwards"] * op.knows(10))
    start = op.pick(*range(c))
    if how == "second":
        return cut(op, x, 1, 0, c, 2)
    if how == "backwards":
        return cut(op, x, 1, -1, -(2**31), -1)
    if how == "open":
        return cut(op, x, 1, start, 2**31 - 1)
    end = op.pick(*range(start + 1, c + 1))
    return cut(op, x, 1, start - c if how == "back" else start, end)


def channel_padding(op: OpWriter, x: str) -> str:
    """Channels of a constant, before and after."""
    before, after, rest = op.pick(0, 1, 3), op.pick(1, 2), [0] * len(ones(op, x))
    return padded(op, x, [0, before, *rest], [0, after, *rest], "constant", op.pick(0.0, 0.5))


def size_padding(op: OpWriter, x: str) -> str:
    """Positions around an image."""
    width = [1] * len(ones(op, x))
    mode = op.pick("constant", "reflect", "edge")
    return padded(op, x, [0, 0, *width], [0, 0, *width], mode, 0.5)


def channel_choice(op: OpWriter, x: str) -> str:
    """Channels by number."""
    c = op.shape(x)[1]
    chosen = [op.pick(*range(c)) for _ in range(op.pick(2, 1, 3))]
    return str(op("Gather", x, op.numbers(*chosen), axis=1))


def concatenation(op: OpWriter, x: str) -> str:
    """What other layers make of it, beside it."""
    parts = [x, inside(op, x), *([x] if op.pick(False, True) else [])]
    if op.pick(False, True):
        parts.reverse()
    return str(op("Concat", *parts, axis=op.axis(x, 1)))


def gated_unit(op: OpWriter, x: str) -> str:
    """Some channels gate as many others; what is between them is left out."""
    c = op.shape(x)[1]
    half = c // 2
    sizes = [half, c - 2 * half, half] if c % 2 else [half, half]
    parts = split(op, x, 1, *sizes)
    return joined(op, "Mul", parts[0], op("Sigmoid", parts[-1]))


def swapped_parts(op: OpWriter, x: str) -> str:
    """Two parts of any size, one of them changed, the other way round."""
    c = op.shape(x)[1]
    first = op.pick(*range(1, c))
    left, right = split(op, x, 1, first, c - first)
    return str(op("Concat", right, op("Relu", left), axis=1))


def partial(op: OpWriter, x: str) -> str:
    """A convolution of some channels, the others pass by."""
    c = op.shape(x)[1]
    first = op.pick(*range(1, c))
    left, right = split(op, x, 1, first, c - first)
    return str(op("Concat", conv_to(op, left, first), right, axis=1))


def block_to_depth(op: OpWriter, x: str) -> str:
    """Pixels become channels."""
    return str(op("SpaceToDepth", x, blocksize=2))


def depth_to_block(op: OpWriter, x: str) -> str:
    """Channels become pixels, in either order."""
    mode = op.pick({}, {"mode": "CRD"}) if op.knows(11) else {}
    return str(op("DepthToSpace", x, blocksize=2, **mode))


def channel_mixing(op: OpWriter, x: str) -> str:
    """A map computed over all channels, which scales or shifts them."""
    op_type = op.pick("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceL1")
    if op.pick(True, False):
        y = reduced(op, op_type, x, [op.axis(x, 1)])
    else:
        y = unsqueezed(op, reduced(op, op_type, x, [1], keep=False), 1)
    return joined(op, op.pick("Mul", "Add"), x, op("Sigmoid", y))


def pinning(op: OpWriter, x: str) -> str:
    """What needs to know which channel is which."""
    pictures = ["LRN"] * (len(op.shape(x)) == 4)
    how = op.pick("Softmax", "LpNormalization", "CumSum", "If", *pictures)
    if how == "If":
        return conditional(op, x)
    if how == "LRN":
        return str(op("LRN", x, size=3))
    if how == "CumSum" and op.knows(11):
        return str(op("CumSum", x, op.graph.index(1)))
    return str(op("Softmax" if how == "CumSum" else how, x, axis=1))


def conditional(op: OpWriter, x: str) -> str:
    """One of two activations, as the values decide."""
    everything = reduced(op, "ReduceSum", x, range(len(op.shape(x))), keep=False)
    branches = {
        name: helper.make_graph(
            [helper.make_node(op_type, [x], [f"{x}_{op_type}"])],
            op_type,
            [],
            [helper.make_tensor_value_info(f"{x}_{op_type}", TensorProto.FLOAT, None)],
        )
        for name, op_type in (("then_branch", "Relu"), ("else_branch", "Sigmoid"))
    }
    positive = op("Greater", everything, op.number(0))
    return str(op("If", positive, like=x, **branches))


def stretched(op: OpWriter, x: str) -> str:
    """A mean of each channel, in every position again."""
    pooled = reduced(op, "ReduceMean", x, spatial(op, x))
    return str(op("Expand", pooled, op("Shape", x)))


def repeated(op: OpWriter, x: str) -> str:
    """All channels twice."""
    return str(op("Tile", x, op.numbers(1, 2, *ones(op, x))))
