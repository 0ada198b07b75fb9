"""For tests of rewrites: random networks and ONNX models (Hypothesis strategies), and checkers.

Names are loaded when they are first used: `onnx_models` and `keep_sets` need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fxprune.extras import naming_extras

if TYPE_CHECKING:
    from fxprune.testing.keeping import keep_sets
    from fxprune.testing.onnx.checkers import (
        assert_onnx_rewrite_equivalent,
        assert_onnxruntime_agrees,
    )
    from fxprune.testing.onnx.graphs import GraphBuilder, OnnxModel
    from fxprune.testing.onnx.models import ONNX_OPS, onnx_models
    from fxprune.testing.torch.checkers import (
        assert_close,
        assert_costs,
        assert_idempotent,
        assert_no_mutation,
        assert_rewrite_equivalent,
        assert_same_state,
        assert_unchanged,
    )
    from fxprune.testing.torch.counting import count_macs
    from fxprune.testing.torch.networks import OPS, Network, inputs, networks
    from fxprune.testing.torch.weights import randomise

_HOMES = {
    "torch.checkers": (
        "assert_close assert_costs assert_idempotent assert_no_mutation assert_rewrite_equivalent "
        "assert_same_state assert_unchanged"
    ),
    "torch.counting": "count_macs",
    "keeping": "keep_sets",
    "torch.networks": "OPS Network inputs networks",
    "onnx.checkers": "assert_onnx_rewrite_equivalent assert_onnxruntime_agrees",
    "onnx.graphs": "GraphBuilder OnnxModel",
    "onnx.models": "ONNX_OPS onnx_models",
    "torch.weights": "randomise",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ONNX_OPS",
    "OPS",
    "GraphBuilder",
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
    with naming_extras(f"fxprune.testing.{name}"):
        return getattr(importlib.import_module(f"fxprune.testing.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
