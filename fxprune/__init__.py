"""fxprune: neural networks that learn, in their one normal training, what they can do without.

gated = fxprune.prepare(model)             # trace, group, insert gates
train(gated)                               # your own loop, unchanged
folded = fxprune.fold(gated)               # a physically smaller model, the same function
fxprune.export_onnx(folded, "model.onnx")  # and ONNX Runtime agrees
"""

import importlib
from typing import TYPE_CHECKING, Any

from fxprune import errors as errors
from fxprune.extras import naming_extras
from fxprune.version import __version__ as __version__

if TYPE_CHECKING:
    from fxprune.agreement import Verdict
    from fxprune.clocks import Clock, Timed
    from fxprune.criteria import GroupView
    from fxprune.errors import (
        CheckpointError,
        FxpruneError,
        InputError,
        InternalError,
        KeepSetError,
        MissingExtraError,
        NothingToPruneError,
        SearchError,
        TargetError,
        TraceError,
        VerificationError,
    )
    from fxprune.onnx.factorise import OnnxFactors, factorise_onnx, merge_onnx
    from fxprune.onnx.prune import OnnxResult, fold_onnx, inspect_onnx, prune_onnx
    from fxprune.onnx.quantize import Quantization, quantize
    from fxprune.onnx.verify import verify_onnx
    from fxprune.pages.figures import write_figures
    from fxprune.pages.model_card import write_model_card
    from fxprune.pages.writing import write_report
    from fxprune.passes.factorisation import Factorised
    from fxprune.passes.operators import register_operator
    from fxprune.reporting import report
    from fxprune.reports import Report
    from fxprune.searching.found import Found
    from fxprune.sensitivities import Sensitivity
    from fxprune.torch.criteria import importance
    from fxprune.torch.distillation import FeatureDistillation, distillation_loss
    from fxprune.torch.export import export_onnx
    from fxprune.torch.factorise import factorise, factors, merge
    from fxprune.torch.fold import fold
    from fxprune.torch.footprint import TrainingCost, training_cost
    from fxprune.torch.gates.consensus import Consensus
    from fxprune.torch.gates.soft import AutoBot, HardConcrete
    from fxprune.torch.gates.static import Static
    from fxprune.torch.keep_sets import (
        GroupInfo,
        groups,
        keep_set,
        parameter_groups,
        reach_target,
        set_keep_set,
    )
    from fxprune.torch.prepare import prepare
    from fxprune.torch.progress import progress
    from fxprune.torch.prune import prune
    from fxprune.torch.prune_checkpoint import prune_checkpoint
    from fxprune.torch.reach_latency import reach_latency
    from fxprune.torch.refit import refit
    from fxprune.torch.resize import resize
    from fxprune.torch.search import search
    from fxprune.torch.sensitivity import sensitivity
    from fxprune.torch.shrink import shrink
    from fxprune.torch.storage import load, save
    from fxprune.torch.verify import verify
    from fxprune.torch.zero_cost import score

_HOMES = {
    "fxprune.agreement": "Verdict",
    "fxprune.clocks": "Clock Timed",
    "fxprune.criteria": "GroupView",
    "fxprune.errors": (
        "CheckpointError FxpruneError InputError InternalError KeepSetError MissingExtraError "
        "NothingToPruneError SearchError TargetError TraceError VerificationError"
    ),
    "fxprune.onnx.factorise": "OnnxFactors factorise_onnx merge_onnx",
    "fxprune.onnx.prune": "OnnxResult fold_onnx inspect_onnx prune_onnx",
    "fxprune.onnx.quantize": "Quantization quantize",
    "fxprune.onnx.verify": "verify_onnx",
    "fxprune.pages.figures": "write_figures",
    "fxprune.pages.model_card": "write_model_card",
    "fxprune.pages.writing": "write_report",
    "fxprune.passes.factorisation": "Factorised",
    "fxprune.passes.operators": "register_operator",
    "fxprune.reporting": "report",
    "fxprune.reports": "Report",
    "fxprune.searching.found": "Found",
    "fxprune.sensitivities": "Sensitivity",
    "fxprune.torch.criteria": "importance",
    "fxprune.torch.distillation": "FeatureDistillation distillation_loss",
    "fxprune.torch.export": "export_onnx",
    "fxprune.torch.factorise": "factorise factors merge",
    "fxprune.torch.fold": "fold",
    "fxprune.torch.footprint": "TrainingCost training_cost",
    "fxprune.torch.gates.consensus": "Consensus",
    "fxprune.torch.gates.soft": "AutoBot HardConcrete",
    "fxprune.torch.gates.static": "Static",
    "fxprune.torch.keep_sets": (
        "GroupInfo groups keep_set parameter_groups reach_target set_keep_set"
    ),
    "fxprune.torch.prepare": "prepare",
    "fxprune.torch.progress": "progress",
    "fxprune.torch.prune": "prune",
    "fxprune.torch.prune_checkpoint": "prune_checkpoint",
    "fxprune.torch.reach_latency": "reach_latency",
    "fxprune.torch.refit": "refit",
    "fxprune.torch.resize": "resize",
    "fxprune.torch.search": "search",
    "fxprune.torch.sensitivity": "sensitivity",
    "fxprune.torch.shrink": "shrink",
    "fxprune.torch.storage": "load save",
    "fxprune.torch.verify": "verify",
    "fxprune.torch.zero_cost": "score",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = [
    "AutoBot",
    "CheckpointError",
    "Clock",
    "Consensus",
    "Factorised",
    "FeatureDistillation",
    "Found",
    "FxpruneError",
    "GroupInfo",
    "GroupView",
    "HardConcrete",
    "InputError",
    "InternalError",
    "KeepSetError",
    "MissingExtraError",
    "NothingToPruneError",
    "OnnxFactors",
    "OnnxResult",
    "Quantization",
    "Report",
    "SearchError",
    "Sensitivity",
    "Static",
    "TargetError",
    "Timed",
    "TraceError",
    "TrainingCost",
    "Verdict",
    "VerificationError",
    "distillation_loss",
    "export_onnx",
    "factorise",
    "factorise_onnx",
    "factors",
    "fold",
    "fold_onnx",
    "groups",
    "importance",
    "inspect_onnx",
    "keep_set",
    "load",
    "merge",
    "merge_onnx",
    "parameter_groups",
    "prepare",
    "progress",
    "prune",
    "prune_checkpoint",
    "prune_onnx",
    "quantize",
    "reach_latency",
    "reach_target",
    "refit",
    "register_operator",
    "report",
    "resize",
    "save",
    "score",
    "search",
    "sensitivity",
    "set_keep_set",
    "shrink",
    "training_cost",
    "verify",
    "verify_onnx",
    "write_figures",
    "write_model_card",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load public names when they are first used, so that importing fxprune loads no framework."""
    if name not in _HOME:
        raise AttributeError(f"module 'fxprune' has no attribute {name!r}")
    with naming_extras(f"fxprune.{name}"):
        return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
