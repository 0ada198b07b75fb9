"""For tests: random networks and keep-sets (Hypothesis strategies), and checkers that raise."""

from fxprune.testing.checkers import (
    assert_close,
    assert_costs,
    assert_onnx_agrees,
    assert_same_bits,
    assert_same_function,
    assert_same_state,
    assert_unchanged,
    count_macs,
)
from fxprune.testing.images import KINDS
from fxprune.testing.networks import Network, keep_sets, networks, randomise
from fxprune.testing.sequences import SEQUENCE_KINDS

__all__ = [
    "KINDS",
    "SEQUENCE_KINDS",
    "Network",
    "assert_close",
    "assert_costs",
    "assert_onnx_agrees",
    "assert_same_bits",
    "assert_same_function",
    "assert_same_state",
    "assert_unchanged",
    "count_macs",
    "keep_sets",
    "networks",
    "randomise",
]
