"""What is known of operators beside what they do to axes: small tables, one fact each.

A new operator is a line of the table in `operators.py` or a rule, and a name here where one of
these facts holds for it.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from fxprune.ir import Node

COPIES = frozenset({"identity"})
"""Their result is their operand: it costs no memory of its own."""

VIEWS = COPIES | {"reshape", "permute", "expand"}
"""Their result is all of their first operand, in its memory."""

HOMOGENEOUS = COPIES | {"reshape", "permute"}
"""They return `g` times their result where their first operand is `g` times as large."""

SHARING = VIEWS | {"slice", "split", "unbind", "select"}
"""Their results may lie in the memory of their first operand, in whole or in part."""

RESHAPED = frozenset({"expand", "reshape"})
"""Their second operand only lends its shape."""

ADDITIONS = frozenset({"add"})
"""Sums of arrays of one shape."""

ELEMENTWISE = ADDITIONS | {"elementwise"}
"""Their operands are stretched to one shape, and put together position by position."""

PARTIAL_ADDITIONS = frozenset({"index_add"})
"""Their operand 2 is added to some positions of a whole, their operand 0."""

CONVOLUTIONS = frozenset({"conv", "conv_transpose"})
"""Their results end in positions of images, behind the channels."""

LAYERS = CONVOLUTIONS | {"linear"}
"""What a model spends its time in: each is timed by itself at several widths."""


def _one_for_a_bias(node: Node) -> int:
    return int(len(node.inputs) > 2 and node.inputs[2] is not None)


def _window(node: Node) -> int:
    """Elements of the input per element of the output, and the division."""
    image = node.inputs[0]
    assert image is not None
    return 1 + math.prod(map(int.__floordiv__, image.shape, node.outputs[0].shape))


FLOPS: Mapping[str, Callable[[Node], int]] = MappingProxyType(
    {
        **dict.fromkeys(CONVOLUTIONS, _one_for_a_bias),
        "batch_norm": lambda node: 2,
        "average_pool": lambda node: 1,
        "adaptive_average_pool": _window,
    }
)
"""Operations per element of the output by operator, multiply-accumulates aside."""
