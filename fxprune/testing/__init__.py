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
from fxprune.testing.networks import KINDS, Network, keep_sets, networks, randomise

__all__ = [
    "KINDS",
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
