"""For tests of rewrites: random networks (Hypothesis strategies), and checkers that raise."""

from fxprune.testing.checkers import (
    assert_close,
    assert_costs,
    assert_idempotent,
    assert_no_mutation,
    assert_rewrite_equivalent,
    assert_same_state,
    assert_unchanged,
)
from fxprune.testing.counting import count_macs
from fxprune.testing.networks import OPS, Network, inputs, keep_sets, networks
from fxprune.testing.onnx_checkers import assert_onnxruntime_agrees
from fxprune.testing.weights import randomise

__all__ = [
    "OPS",
    "Network",
    "assert_close",
    "assert_costs",
    "assert_idempotent",
    "assert_no_mutation",
    "assert_onnxruntime_agrees",
    "assert_rewrite_equivalent",
    "assert_same_state",
    "assert_unchanged",
    "count_macs",
    "inputs",
    "keep_sets",
    "networks",
    "randomise",
]
