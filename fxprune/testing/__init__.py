"""For tests of rewrites: random networks and ONNX models (Hypothesis strategies), and checkers.

Names are loaded when they are first used: `onnx_models` and `keep_sets` need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from fxprune.testing.keeping import keep_sets
    from fxprune.testing.onnx_checkers import (
        assert_onnx_rewrite_equivalent,
        assert_onnxruntime_agrees,
    )
    from fxprune.testing.onnx_drawing import Drawing, OnnxModel
    from fxprune.testing.onnx_networks import ONNX_OPS, onnx_models
    from fxprune.testing.torch_networks import OPS, Network, inputs, networks
    from fxprune.testing.weights import randomise

_HOMES = {
    "checkers": (
        "assert_close assert_costs assert_idempotent assert_no_mutation assert_rewrite_equivalent "
        "assert_same_state assert_unchanged"
    ),
    "counting": "count_macs",
    "keeping": "keep_sets",
    "torch_networks": "OPS Network inputs networks",
    "onnx_checkers": "assert_onnx_rewrite_equivalent assert_onnxruntime_agrees",
    "onnx_drawing": "Drawing OnnxModel",
    "onnx_networks": "ONNX_OPS onnx_models",
    "weights": "randomise",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ONNX_OPS",
    "OPS",
    "Drawing",
    "Network",
    "OnnxModel",
    "assert_close",
    "assert_costs",
    "assert_idempotent",
    "assert_no_mutation",
    "assert_onnx_rewrite_equivalent",
    "assert_onnxruntime_agrees",
    "assert_rewrite_equivalent",
    "assert_same_state",
    "assert_unchanged",
    "count_macs",
    "inputs",
    "keep_sets",
    "networks",
    "onnx_models",
    "randomise",
]


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name not in _HOME:
        raise AttributeError(f"module 'fxprune.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fxprune.testing.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
