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
from fxprune.testing.onnx.graphs import Drawing, OnnxModel, volume
from fxprune.testing.onnx.steps import Family, Kind, Pen, Shape, chain, joined, reduced, reshaped

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
        "conv": Kind(layers.conv),
        "activation": Kind(layers.activation),
        "gelu": Kind(layers.gelu),
        "block": Kind(layers.block, nests=True),
        "residual": Kind(layers.residual, nests=True),
        "normalisation": Kind(layers.normalisation),
        "written_normalisation": Kind(layers.written_normalisation),
        "depthwise": Kind(layers.depthwise, _few),
        "grouped": Kind(layers.grouped, _several),
        "strided": Kind(layers.strided, _halves, keeps_size=False),
        "transposed": Kind(layers.transposed),
        "shared": Kind(layers.shared),
        "pointwise": Kind(layers.pointwise),
        "attention": Kind(layers.attention),
        "pass_through": Kind(layers.pass_through),
        "layer_scale": Kind(layers.layer_scale),
        "pooling": Kind(layers.pooling),
        "downsampling": Kind(layers.downsampling, _halves, keeps_size=False),
        "upsampling": Kind(layers.upsampling, _small, keeps_size=False),
        "excitation": Kind(layers.excitation),
        "concatenation": Kind(channels.concatenation, _few, nests=True),
        "channel_shuffle": Kind(channels.channel_shuffle, _several),
        "channel_slice": Kind(channels.channel_slice),
        "channel_padding": Kind(channels.channel_padding, _few),
        "channel_choice": Kind(channels.channel_choice),
        "size_padding": Kind(channels.size_padding, _halves, keeps_size=False),
        "gated_unit": Kind(channels.gated_unit, _several),
        "swapped_parts": Kind(channels.swapped_parts, _several),
        "partial": Kind(channels.partial, _several),
        "block_to_depth": Kind(channels.block_to_depth, _pixels, keeps_size=False),
        "depth_to_block": Kind(channels.depth_to_block, _depth, keeps_size=False),
        "channel_mixing": Kind(channels.channel_mixing),
        "pinning": Kind(channels.pinning),
        "stretched": Kind(channels.stretched),
        "repeated": Kind(channels.repeated, _few),
        "fused_convolution": Kind(forms.fused_convolution),
        "pooled_without_axes": Kind(forms.pooled_without_axes, _several),
        "whole_numbers": Kind(forms.whole_numbers),
        "blurred": Kind(forms.blurred),
        "through_a_sequence": Kind(forms.through_a_sequence, since=11),
    }
)

_SEQUENCE_STEPS = MappingProxyType(
    {
        "linear": Kind(sequences.linear),
        "activation": Kind(sequences.activation),
        "mlp": Kind(sequences.mlp),
        "attention": Kind(sequences.attention),
        "residual": Kind(sequences.residual, nests=True),
        "normalisation": Kind(sequences.normalisation),
        "recurrent": Kind(sequences.recurrent),
        "concatenation": Kind(sequences.concatenation, nests=True),
        "channel_slice": Kind(sequences.channel_slice),
        "rotation": Kind(sequences.rotation, _even),
        "token_mixing": Kind(sequences.token_mixing),
        "token_shift": Kind(sequences.token_shift),
        "convolution": Kind(sequences.convolution),
        "grouped_linear": Kind(sequences.grouped_linear, _many),
        "channel_mixing": Kind(sequences.channel_mixing),
        "last_state": Kind(forms.last_state),
        "added_norm": Kind(forms.added_norm),
        "fused_matrix": Kind(forms.fused_matrix),
        "fused_attention": Kind(forms.fused_attention),
        "through_a_sequence": Kind(forms.through_a_sequence, since=11),
    }
)


# How models start and end ----------------------------------------------------------------------

_SIZES = {1: ((6,), (7,)), 2: ((6, 6), (7, 5)), 3: ((4, 4, 4), (5, 4, 3))}


def _images(dims: int) -> Family:
    """Models on (batch, channels, *size) with `dims` axes of size."""

    def stem(pen: Pen, inputs: int) -> str:
        """Two plain convolutions, so that something can always be pruned; other inputs join."""
        size = pen.pick(*_SIZES[dims])
        wide, width = pen.pick(*layers.CHANNELS), pen.pick(*layers.CHANNELS)
        kernel, pads = [3] * dims, [1] * 2 * dims
        x = pen.graph.input("x", _FEATURES, *size)
        h = pen("Conv", x, pen.weight(wide, _FEATURES, *kernel), pen.weight(wide), pads=pads)
        h = pen("Relu", h)
        h = pen("Conv", h, pen.weight(width, wide, *kernel), pen.weight(width), pads=pads)
        for number in range(1, inputs):
            other = pen.graph.input(f"x{number}", 2, *size)
            other = pen("Conv", other, pen.weight(width, 2, *[1] * dims), pen.weight(width))
            h = joined(pen, pen.pick("Add", "Mul"), h, other)
        return str(h)

    return Family(stem, _IMAGE_STEPS, _image_head)


def _image_head(pen: Pen, x: str) -> str:
    how = pen.pick("conv", "pooled", "flat", "reshaped", "mean")
    if how == "conv":
        weight = pen.weight(_FEATURES, pen.shape(x)[1], *layers.ones(pen, x))
        return str(pen("Conv", x, weight, pen.weight(_FEATURES)))
    if how == "pooled":
        x = pen("Flatten", pen("GlobalAveragePool", x), axis=1)
    elif how == "mean":
        x = reduced(pen, "ReduceMean", x, layers.spatial(pen, x), keep=False)
    elif how == "flat":
        x = pen("Flatten", x, axis=1)
    else:
        x = reshaped(pen, x, 0, volume(pen.shape(x)))
    return layers.gemm_to(pen, x, _FEATURES)


def _sequence_stem(pen: Pen, inputs: int) -> str:
    """An embedding of tokens, or a linear layer on features; and an MLP beside it."""
    length = pen.pick(5, 4)
    wide, width = pen.pick(*layers.CHANNELS), pen.pick(*layers.CHANNELS)
    if pen.pick(False, True):
        tokens = pen.graph.input("x", length, dtype=TensorProto.INT64)
        x = pen("Gather", pen.weight(_TOKENS, width), tokens, axis=0)
    else:
        x = pen.graph.input("x", length, _FEATURES)
        x = pen("Add", pen("MatMul", x, pen.weight(_FEATURES, width)), pen.weight(width))
    h = pen("Relu", pen("Add", pen("MatMul", x, pen.weight(width, wide)), pen.weight(wide)))
    x = pen("Add", x, pen("MatMul", h, pen.weight(wide, width)))
    for number in range(1, inputs):
        other = pen("MatMul", pen.graph.input(f"x{number}", length, 2), pen.weight(2, width))
        x = joined(pen, pen.pick("Add", "Mul"), x, other)
    return str(x)


def _sequence_head(pen: Pen, x: str) -> str:
    how = pen.pick("mean", "tokens", "first", "flat")
    if how == "tokens":
        return sequences.linear_to(pen, x, _FEATURES)
    if how == "mean":
        x = reduced(pen, "ReduceMean", x, [1], keep=False)
    elif how == "first":
        x = pen("Gather", x, pen.graph.index(0), axis=1)
    else:
        x = reshaped(pen, x, 0, volume(pen.shape(x)))
    return layers.gemm_to(pen, x, _FEATURES)


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
        dims: 1 to 3 for models on (batch, channels, *size) with as many axes of size,
            `"sequence"` for models on tokens (batch, length) or features (batch, length,
            channels).
    """
    family = _FAMILIES[dims]
    batch: str | int = draw(st.one_of(st.just("n"), st.sampled_from((2, 1))))
    graph = Drawing(draw(st.sampled_from(_OPSETS)), batch)
    kinds = tuple(family.kinds[name] for name in (ONNX_OPS[dims] if ops is None else ops))
    pen = Pen(draw, graph, kinds, _DEPTH)
    body = chain(pen, family.stem(pen, inputs), max_nodes)
    outputs = [family.head(pen, body)]
    if pen.pick(False, True):
        outputs.append(forms.another_output(pen, body, 2 if dims == "sequence" else 1))
    return graph.model(*outputs, seed=draw(st.integers(0, 2**16 - 1)))
