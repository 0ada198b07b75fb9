"""Random ONNX models for property tests, as a Hypothesis strategy. Torch is not needed.

Models are valid by construction: every step is drawn for the shape that reaches it, nothing is
filtered. They shrink towards three plain layers. They are not exports: what is drawn are ONNX's
operators themselves, in the many ways that exporters write them, for several versions of ONNX.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from onnx import TensorProto

from fxprune.testing.onnx import channels, forms, layers, sequences
from fxprune.testing.onnx.graphs import GraphBuilder, OnnxModel, volume
from fxprune.testing.onnx.steps import (
    Family,
    OpWriter,
    Shape,
    StepKind,
    chain,
    joined,
    reduced,
    reshaped,
)

_DEPTH = 2
"""How deep composite steps nest."""
_OPSETS = (17, 18, 13, 11, 21, 23, 9)
_FEATURES = 3
"""Channels of the first input, and features of the output."""
_TOKENS = 7

Dims = Literal[1, 2, 3, "sequence"]


# Where steps fit -------------------------------------------------------------------------------


def _small(shape: Shape) -> bool:
    return max(shape[2:]) <= 12


def _halves(shape: Shape) -> bool:
    return min(shape[2:]) >= 3


def _pixels(shape: Shape) -> bool:
    return len(shape) == 4 and all(size % 2 == 0 for size in shape[2:]) and shape[1] <= 4


def _depth(shape: Shape) -> bool:
    return len(shape) == 4 and shape[1] % 4 == 0 and _small(shape)


def _few(shape: Shape) -> bool:
    return shape[1] <= 12


def _several(shape: Shape) -> bool:
    return shape[1] > 1


def _many(shape: Shape) -> bool:
    return shape[2] > 1


def _even(shape: Shape) -> bool:
    return shape[2] % 2 == 0


_IMAGE_STEPS = MappingProxyType(
    {
        "conv": StepKind(layers.conv),
        "activation": StepKind(layers.activation),
        "gelu": StepKind(layers.gelu),
        "block": StepKind(layers.block, nests=True),
        "residual": StepKind(layers.residual, nests=True),
        "normalisation": StepKind(layers.normalisation),
        "written_normalisation": StepKind(layers.written_normalisation),
        "depthwise": StepKind(layers.depthwise, _few),
        "grouped": StepKind(layers.grouped, _several),
        "strided": StepKind(layers.strided, _halves, keeps_size=False),
        "transposed": StepKind(layers.transposed),
        "shared": StepKind(layers.shared),
        "pointwise": StepKind(layers.pointwise),
        "attention": StepKind(layers.attention),
        "pass_through": StepKind(layers.pass_through),
        "layer_scale": StepKind(layers.layer_scale),
        "pooling": StepKind(layers.pooling),
        "downsampling": StepKind(layers.downsampling, _halves, keeps_size=False),
        "upsampling": StepKind(layers.upsampling, _small, keeps_size=False),
        "excitation": StepKind(layers.excitation),
        "concatenation": StepKind(channels.concatenation, _few, nests=True),
        "channel_shuffle": StepKind(channels.channel_shuffle, _several),
        "channel_slice": StepKind(channels.channel_slice),
        "channel_padding": StepKind(channels.channel_padding, _few),
        "channel_choice": StepKind(channels.channel_choice),
        "size_padding": StepKind(channels.size_padding, _halves, keeps_size=False),
        "gated_unit": StepKind(channels.gated_unit, _several),
        "swapped_parts": StepKind(channels.swapped_parts, _several),
        "partial": StepKind(channels.partial, _several),
        "block_to_depth": StepKind(channels.block_to_depth, _pixels, keeps_size=False),
        "depth_to_block": StepKind(channels.depth_to_block, _depth, keeps_size=False),
        "channel_mixing": StepKind(channels.channel_mixing),
        "pinning": StepKind(channels.pinning),
        "stretched": StepKind(channels.stretched),
        "repeated": StepKind(channels.repeated, _few),
        "fused_convolution": StepKind(forms.fused_convolution),
        "pooled_without_axes": StepKind(forms.pooled_without_axes, _several),
        "whole_numbers": StepKind(forms.whole_numbers),
        "blurred": StepKind(forms.blurred),
        "through_a_sequence": StepKind(forms.through_a_sequence, since=11),
    }
)

_SEQUENCE_STEPS = MappingProxyType(
    {
        "linear": StepKind(sequences.linear),
        "activation": StepKind(sequences.activation),
        "mlp": StepKind(sequences.mlp),
        "attention": StepKind(sequences.attention),
        "residual": StepKind(sequences.residual, nests=True),
        "normalisation": StepKind(sequences.normalisation),
        "recurrent": StepKind(sequences.recurrent),
        "concatenation": StepKind(sequences.concatenation, nests=True),
        "channel_slice": StepKind(sequences.channel_slice),
        "rotation": StepKind(sequences.rotation, _even),
        "token_mixing": StepKind(sequences.token_mixing),
        "token_shift": StepKind(sequences.token_shift),
        "convolution": StepKind(sequences.convolution),
        "grouped_linear": StepKind(sequences.grouped_linear, _many),
        "channel_mixing": StepKind(sequences.channel_mixing),
        "last_state": StepKind(forms.last_state),
        "added_norm": StepKind(forms.added_norm),
        "fused_matrix": StepKind(forms.fused_matrix),
        "fused_attention": StepKind(forms.fused_attention),
        "through_a_sequence": StepKind(forms.through_a_sequence, since=11),
    }
)


# How models start and end ----------------------------------------------------------------------

_SIZES = {1: ((6,), (7,)), 2: ((6, 6), (7, 5)), 3: ((4, 4, 4), (5, 4, 3))}


def _images(dims: int) -> Family:
    """Models on (batch, channels, *size) with `dims` axes of size."""

    def stem(op: OpWriter, inputs: int) -> str:
        """Two plain convolutions, so that something can always be pruned; other inputs join."""
        size = op.pick(*_SIZES[dims])
        wide, width = op.pick(*layers.CHANNELS), op.pick(*layers.CHANNELS)
        kernel, pads = [3] * dims, [1] * 2 * dims
        x = op.graph.input("x", _FEATURES, *size)
        h = op("Conv", x, op.weight(wide, _FEATURES, *kernel), op.weight(wide), pads=pads)
        h = op("Relu", h)
        h = op("Conv", h, op.weight(width, wide, *kernel), op.weight(width), pads=pads)
        for number in range(1, inputs):
            other = op.graph.input(f"x{number}", 2, *size)
            other = op("Conv", other, op.weight(width, 2, *[1] * dims), op.weight(width))
            h = joined(op, op.pick("Add", "Mul"), h, other)
        return str(h)

    return Family(stem, _IMAGE_STEPS, _image_head)


def _image_head(op: OpWriter, x: str) -> str:
    how = op.pick("conv", "pooled", "flat", "reshaped", "mean")
    if how == "conv":
        weight = op.weight(_FEATURES, op.shape(x)[1], *layers.ones(op, x))
        return str(op("Conv", x, weight, op.weight(_FEATURES)))
    if how == "pooled":
        x = op("Flatten", op("GlobalAveragePool", x), axis=1)
    elif how == "mean":
        x = reduced(op, "ReduceMean", x, layers.spatial(op, x), keep=False)
    elif how == "flat":
        x = op("Flatten", x, axis=1)
    else:
        x = reshaped(op, x, 0, volume(op.shape(x)))
    return layers.gemm_to(op, x, _FEATURES)


def _sequence_stem(op: OpWriter, inputs: int) -> str:
    """An embedding of tokens, or a linear layer on features; and an MLP beside it."""
    length = op.pick(5, 4)
    wide, width = op.pick(*layers.CHANNELS), op.pick(*layers.CHANNELS)
    if op.pick(False, True):
        tokens = op.graph.input("x", length, dtype=TensorProto.INT64)
        x = op("Gather", op.weight(_TOKENS, width), tokens, axis=0)
    else:
        x = op.graph.input("x", length, _FEATURES)
        x = op("Add", op("MatMul", x, op.weight(_FEATURES, width)), op.weight(width))
    h = op("Relu", op("Add", op("MatMul", x, op.weight(width, wide)), op.weight(wide)))
    x = op("Add", x, op("MatMul", h, op.weight(wide, width)))
    for number in range(1, inputs):
        other = op("MatMul", op.graph.input(f"x{number}", length, 2), op.weight(2, width))
        x = joined(op, op.pick("Add", "Mul"), x, other)
    return str(x)


def _sequence_head(op: OpWriter, x: str) -> str:
    how = op.pick("mean", "tokens", "first", "flat")
    if how == "tokens":
        return sequences.linear_to(op, x, _FEATURES)
    if how == "mean":
        x = reduced(op, "ReduceMean", x, [1], keep=False)
    elif how == "first":
        x = op("Gather", x, op.graph.index(0), axis=1)
    else:
        x = reshaped(op, x, 0, volume(op.shape(x)))
    return layers.gemm_to(op, x, _FEATURES)


_FAMILIES: Mapping[Dims, Family] = MappingProxyType(
    {
        1: _images(1),
        2: _images(2),
        3: _images(3),
        "sequence": Family(_sequence_stem, _SEQUENCE_STEPS, _sequence_head),
    }
)

ONNX_OPS: Mapping[Dims, tuple[str, ...]] = MappingProxyType(
    {dims: tuple(family.kinds) for dims, family in _FAMILIES.items()}
)
"""The names that `onnx_models(ops=...)` knows, by `dims`."""


@st.composite
def onnx_models(
    draw: DrawFn,
    ops: Collection[str] | None = None,
    *,
    max_nodes: int = 5,
    inputs: int = 1,
    dims: Dims = 2,
) -> OnnxModel:
    """Random ONNX models with random weights, in float32.

    Args:
        ops: what they are made of, names of `ONNX_OPS[dims]`; all if none are given.
        max_nodes: how many steps follow one another, nested ones not counted; a step is one node
            or several.
        inputs: how many arrays they are given.
        dims: 1 to 3 for models on `(batch, channels, *size)` with as many axes of size,
            `"sequence"` for models on tokens (batch, length) or features (batch, length,
            channels).
    """
    family = _FAMILIES[dims]
    batch: str | int = draw(st.one_of(st.just("n"), st.sampled_from((2, 1))))
    graph = GraphBuilder(draw(st.sampled_from(_OPSETS)), batch)
    kinds = tuple(family.kinds[name] for name in (ONNX_OPS[dims] if ops is None else ops))
    op = OpWriter(draw, graph, kinds, _DEPTH)
    body = chain(op, family.stem(op, inputs), max_nodes)
    outputs = [family.head(op, body)]
    if op.pick(False, True):
        outputs.append(forms.another_output(op, body, 2 if dims == "sequence" else 1))
    return graph.model(*outputs, seed=draw(st.integers(0, 2**16 - 1)))
