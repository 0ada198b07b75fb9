"""A small ONNX model for every operator type that has a spelling.

A convolution makes eight channels `h` of shape (n, 8, 6, 6), the operator makes `y` of them, and a
matrix reads what is left. All weights are random.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from fxprune.onnx.frontend.spellings import SPELLINGS
from fxprune.testing import GraphBuilder

OUTPUT = 5


def drawing(opset: int = 18, batch: str | int = "n") -> GraphBuilder:
    """A drawing that is given images `x`."""
    g = GraphBuilder(opset, batch)
    g.input("x", 3, 6, 6)
    return g


def read_whole(g: GraphBuilder, h: str, seed: int = 0) -> onnx.ModelProto:
    """The finished model: any array becomes five features by reading all of it."""
    flat = g("Flatten", g("Cast", h, to=TensorProto.FLOAT), axis=1)
    y = g("MatMul", flat, g.weight(g.shape(flat)[1], OUTPUT))
    return g.model(y, seed=seed).proto


Sample = Callable[[GraphBuilder, str], str]


def _binary(op_type: str) -> Sample:
    return lambda g, h: g(op_type, h, g.weight(1, 8, 1, 1))


def _integers(op_type: str) -> Sample:
    return lambda g, h: g(op_type, g("Cast", h, to=TensorProto.INT32))


def _logic(op_type: str) -> Sample:
    return lambda g, h: g(op_type, g("Greater", h, g.weight(1)), g("Less", h, g.weight(8, 1, 1)))


def _integer_pair(op_type: str) -> Sample:
    def sample(g: GraphBuilder, h: str) -> str:
        left, right = (g("Cast", v, to=TensorProto.INT32) for v in (h, g("Relu", h)))
        return g(op_type, left, right)

    return sample


def _reduce(op_type: str, *axes: int) -> Sample:
    return lambda g, h: g(op_type, g("Abs", h), g.numbers(*axes), keepdims=1)


_PINNING = ["ReduceProd", "ReduceLogSum", "ReduceLogSumExp"]
"""Reductions that pin what they reduce."""


def _recurrent(op_type: str, gates: int) -> Sample:
    """Channels are the features of a sequence of 36 positions."""

    def sample(g: GraphBuilder, h: str) -> str:
        steps = g("Reshape", h, g.numbers(0, 8, 36))
        sequence = g("Transpose", steps, perm=[2, 0, 1])
        weights = g.weight(2, gates * 4, 8), g.weight(2, gates * 4, 4), g.weight(2, gates * 8)
        y, _ = g(op_type, sequence, *weights, outputs=2, hidden_size=4, direction="bidirectional")
        return g("Transpose", y, perm=[2, 0, 1, 3])

    return sample


def _attention(g: GraphBuilder, h: str) -> str:
    flat = g("Reshape", h, g.numbers(0, 2, 4, 36))
    q, k, v = (g("Transpose", flat, perm=[0, 1, 3, 2]) for _ in range(3))
    return g("Attention", q, k, v)


def _heads(g: GraphBuilder, h: str) -> str:
    flat = g("Transpose", g("Reshape", h, g.numbers(0, 8, 36)), perm=[0, 2, 1])
    return g("com.microsoft.MultiHeadAttention", flat, g("Relu", flat), flat, num_heads=2)


def _added(g: GraphBuilder, h: str, *shift: str) -> str:
    """A norm of a sum, and the sum."""
    x = g("Transpose", g("Reshape", h, g.numbers(0, 8, 36)), perm=[0, 2, 1])
    op_type = "SkipLayerNormalization" if shift else "SkipSimplifiedLayerNormalization"
    parts = g("Relu", x), g.weight(8), *shift
    y, _, _, total = g(f"com.microsoft.{op_type}", x, *parts, outputs="y..s", like=x)
    return g("Concat", y, total, axis=2)


def _split(g: GraphBuilder, h: str) -> str:
    left, right = g("Split", h, outputs=2, axis=1, num_outputs=2)
    return g("Concat", right, g("Relu", left), axis=1)


def _quantise(g: GraphBuilder, h: str) -> str:
    scale = g.stored(np.linspace(0.1, 0.2, 8).astype(np.float32))
    zero = g.stored(np.arange(8, dtype=np.uint8))
    return g("DequantizeLinear", g("QuantizeLinear", h, scale, zero, axis=1), scale, zero, axis=1)


def _top(g: GraphBuilder, h: str) -> str:
    return g("TopK", h, g.numbers(2), outputs=2, axis=3)[0]


def _batch_norm(g: GraphBuilder, h: str) -> str:
    variance = g.stored(np.linspace(0.5, 2, 8).astype(np.float32))
    return g("BatchNormalization", h, g.weight(8), g.weight(8), g.weight(8), variance)


def _grid(g: GraphBuilder, h: str) -> str:
    x = g("Slice", h, g.numbers(0), g.numbers(2), g.numbers(1))
    return g("GridSample", h, g("Transpose", g("Tanh", x), perm=[0, 2, 3, 1]), align_corners=0)


def _positive(op_type: str) -> Sample:
    return lambda g, h: g(op_type, g("Sigmoid", h))


def _with_one(op_type: str, **attributes: Any) -> Sample:
    return lambda g, h: g(op_type, h, **attributes)


SAMPLES: dict[str, Sample] = {
    **{op_type: _with_one(op_type) for op_type in SPELLINGS},
    **{op_type: _positive(op_type) for op_type in ["Acos", "Asin", "Atanh", "Log", "Sqrt"]},
    "Acosh": lambda g, h: g("Acosh", g("Exp", g("Abs", h))),
    **{
        op_type: _binary(op_type)
        for op_type in ["Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Sub", "Sum"]
    },
    "Pow": lambda g, h: g("Pow", g("Sigmoid", h), g.weight(1, 8, 1, 1)),
    "Mod": lambda g, h: g("Mod", h, g("Exp", g.weight(1, 8, 1, 1)), fmod=1),
    **{
        op_type: _binary(op_type)
        for op_type in ["Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
    },
    "Equal": lambda g, h: g("Equal", g("Relu", h), g("Abs", h)),
    "IsInf": lambda g, h: g("IsInf", g("Reciprocal", g("Relu", h))),
    "IsNaN": lambda g, h: g("IsNaN", g("Sqrt", h)),
    **{op_type: _logic(op_type) for op_type in ["And", "Or", "Xor"]},
    **{op_type: _integer_pair(op_type) for op_type in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"]},
    "BitwiseNot": _integers("BitwiseNot"),
    "BitShift": lambda g, h: g(
        "BitShift",
        g("Cast", g("Abs", h), to=TensorProto.UINT8),
        g.stored(np.array([1], dtype=np.uint8)),
        direction="LEFT",
    ),
    "Not": lambda g, h: g("Not", g("Greater", h, g.weight(8, 1, 1))),
    "Where": lambda g, h: g("Where", g("Greater", h, g.weight(1)), h, g.weight(8, 1, 1)),
    "Clip": lambda g, h: g("Clip", h, g.stored(np.float32(-0.5)), g.stored(np.float32(0.5))),
    "Cast": _with_one("Cast", to=TensorProto.FLOAT),
    "CastLike": lambda g, h: g("CastLike", h, g.weight(1)),
    "Conv": lambda g, h: g("Conv", h, g.weight(8, 4, 3, 3), g.weight(8), group=2, pads=[1] * 4),
    "ConvTranspose": lambda g, h: g("ConvTranspose", h, g.weight(8, 3, 2, 2), group=2),
    "Gemm": lambda g, h: g(
        "Gemm", g("ReduceMean", h, g.numbers(2, 3), keepdims=0), g.weight(8, 7), g.weight(7)
    ),
    "MatMul": lambda g, h: g("MatMul", g("Transpose", h, perm=[0, 2, 3, 1]), g.weight(8, 7)),
    "Einsum": lambda g, h: g("Einsum", h, g.weight(7, 8), equation="bchw,oc->bohw"),
    "Attention": _attention,
    "LSTM": _recurrent("LSTM", 4),
    "GRU": _recurrent("GRU", 3),
    "RNN": _recurrent("RNN", 1),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": lambda g, h: g(
        "InstanceNormalization",
        g("Reshape", h, g.numbers(0, 2, -1)),
        g.weight(2),
        g.weight(2),
    ),
    "LayerNormalization": lambda g, h: g(
        "LayerNormalization", g("Transpose", h, perm=[0, 2, 3, 1]), g.weight(8), g.weight(8)
    ),
    "SimplifiedLayerNormalization": lambda g, h: g(
        "SimplifiedLayerNormalization", g("Transpose", h, perm=[0, 2, 3, 1]), g.weight(8)
    ),
    "RMSNormalization": lambda g, h: g(
        "RMSNormalization", g("Transpose", h, perm=[0, 2, 3, 1]), g.weight(8)
    ),
    "GroupNormalization": lambda g, h: g(
        "GroupNormalization", h, g.weight(8), g.weight(8), num_groups=2, like=h
    ),
    **{
        op_type: _with_one(op_type, kernel_shape=[2, 2])
        for op_type in ["AveragePool", "LpPool", "MaxPool"]
    },
    "Resize": lambda g, h: g(
        "Resize", h, "", "", g.numbers(8, 12, 12), mode="nearest", axes=[1, 2, 3]
    ),
    "Upsample": lambda g, h: g("Upsample", h, g.stored(np.array([1, 1, 2, 2], np.float32))),
    "GridSample": _grid,
    "DepthToSpace": _with_one("DepthToSpace", blocksize=2),
    "SpaceToDepth": _with_one("SpaceToDepth", blocksize=2),
    "LRN": _with_one("LRN", size=3),
    "LpNormalization": _with_one("LpNormalization", axis=2),
    "CumSum": lambda g, h: g("CumSum", h, g.stored(np.int64(2))),
    "Trilu": _with_one("Trilu"),
    **{op_type: _reduce(op_type, 1, 2) for op_type in SPELLINGS if op_type.startswith("Reduce")},
    **{op_type: _with_one(op_type, axis=2) for op_type in ["ArgMax", "ArgMin"]},
    **{op_type: _reduce(op_type, 2, 3) for op_type in _PINNING},
    "TopK": _top,
    "Reshape": lambda g, h: g("Reshape", h, g.numbers(-1, 2, 4, 36)),
    "Flatten": _with_one("Flatten"),
    "Squeeze": lambda g, h: g("Squeeze", g("ReduceMean", h, g.numbers(2)), g.numbers(2)),
    "Unsqueeze": lambda g, h: g("Unsqueeze", h, g.numbers(1)),
    "Transpose": _with_one("Transpose", perm=[0, 2, 3, 1]),
    "Concat": lambda g, h: g("Concat", h, g("Relu", h), axis=1),
    "Split": _split,
    "Slice": lambda g, h: g("Slice", h, g.numbers(2), g.numbers(-1), g.numbers(1)),
    "Pad": lambda g, h: g("Pad", h, g.numbers(0, 1, 0, 0, 0, 2, 1, 0)),
    "Expand": lambda g, h: g("Expand", g("ReduceMean", h, g.numbers(3)), g.numbers(8, 6, 6)),
    "Tile": lambda g, h: g("Tile", h, g.numbers(1, 2, 1, 1)),
    "Gather": lambda g, h: g("Gather", h, g.numbers(0, 3), axis=2),
    "GatherElements": lambda g, h: g(
        "GatherElements", h, g("Cast", g("Sigmoid", h), to=TensorProto.INT64), axis=2
    ),
    "ConstantOfShape": lambda g, h: g("Add", h, g("ConstantOfShape", g.numbers(8, 1, 1))),
    "Shape": lambda g, h: g("Reshape", g("Relu", h), g("Shape", h)),
    "QuantizeLinear": _quantise,
    "DequantizeLinear": _quantise,
    "BiasGelu": lambda g, h: g(
        "com.microsoft.BiasGelu", g("Transpose", h, perm=[0, 2, 3, 1]), g.weight(8)
    ),
    "FastGelu": _with_one("com.microsoft.FastGelu"),
    "QuickGelu": _with_one("com.microsoft.QuickGelu"),
    "FusedConv": lambda g, h: g(
        "com.microsoft.FusedConv", h, g.weight(8, 8, 1, 1), g.weight(8), h, activation="Relu"
    ),
    "FusedGemm": lambda g, h: g(
        "com.microsoft.FusedGemm",
        g("ReduceMean", h, g.numbers(2, 3), keepdims=0),
        g.weight(7, 8),
        g.weight(7),
        transB=1,
        activation="Tanh",
        like=g("Gemm", g("ReduceMean", h, g.numbers(2, 3), keepdims=0), g.weight(8, 7)),
    ),
    "FusedMatMul": lambda g, h: g(
        "com.microsoft.FusedMatMul",
        g("Reshape", h, g.numbers(0, 8, 36)),
        g.weight(7, 8),
        transA=1,
        transB=1,
        alpha=0.5,
        like=g("MatMul", g.weight(2, 36, 8), g.weight(8, 7)),
    ),
    "MultiHeadAttention": _heads,
    "SkipLayerNormalization": lambda g, h: _added(g, h, g.weight(8)),
    "SkipSimplifiedLayerNormalization": lambda g, h: _added(g, h),
}
"""By operator type."""

OPSETS = {
    "Attention": 23,
    "Gelu": 20,
    "GroupNormalization": 21,
    "RMSNormalization": 23,
    "Swish": 24,
    "Upsample": 9,
}
"""Operator sets of types that opset 18 lacks."""


def sample(op_type: str, seed: int = 0) -> onnx.ModelProto:
    """The model of an operator type."""
    g = drawing(OPSETS.get(op_type, 18))
    h = g("Conv", "x", g.weight(8, 3, 3, 3), g.weight(8), pads=[1] * 4)
    return read_whole(g, SAMPLES[op_type](g, h), seed)
