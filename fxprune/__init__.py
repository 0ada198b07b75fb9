"""fxprune: neural networks that learn, in their one normal training, what they can do without.

gated = fxprune.prepare(model)             # trace, group, insert gates
train(gated)                               # your own loop, unchanged
folded = fxprune.fold(gated)               # a physically smaller model, the same function
fxprune.export_onnx(folded, "model.onnx")  # and ONNX Runtime agrees
"""

import importlib
from typing import TYPE_CHECKING, Any

from fxprune import errors as errors
from fxprune.version import __version__ as __version__

if TYPE_CHECKING:
    from fxprune.api import (
        GroupInfo,
        groups,
        keep_set,
        parameter_groups,
        prepare,
        reach_target,
        set_keep_set,
    )
    from fxprune.criteria import importance, prune
    from fxprune.distillation import FeatureDistillation, distillation_loss
    from fxprune.errors import (
        CheckpointError,
        FxpruneError,
        InputError,
        InternalError,
        KeepSetError,
        MissingExtraError,
        NothingToPruneError,
        TargetError,
        TraceError,
        VerificationError,
    )
    from fxprune.export import export_onnx
    from fxprune.folding import fold
    from fxprune.footprint import TrainingCost, training_cost
    from fxprune.gates.consensus import Consensus
    from fxprune.gates.soft import AutoBot, HardConcrete
    from fxprune.gates.static import Static
    from fxprune.onnx_pruning import OnnxResult, fold_onnx, inspect_onnx, prune_onnx
    from fxprune.onnx_verification import verify_onnx
    from fxprune.pages.figures import write_figures
    from fxprune.pages.writing import write_report
    from fxprune.passes.operators import register_operator
    from fxprune.quantization import Quantization, quantize
    from fxprune.refitting import refit
    from fxprune.reporting import report
    from fxprune.reports import Report
    from fxprune.shrinking import shrink
    from fxprune.storage import load, save
    from fxprune.verdicts import Verdict
    from fxprune.verification import verify

_HOMES = {
    "fxprune.api": ("GroupInfo groups keep_set parameter_groups prepare reach_target set_keep_set"),
    "fxprune.criteria": "importance prune",
    "fxprune.distillation": "FeatureDistillation distillation_loss",
    "fxprune.errors": (
        "CheckpointError FxpruneError InputError InternalError KeepSetError MissingExtraError "
        "NothingToPruneError TargetError TraceError VerificationError"
    ),
    "fxprune.folding": "fold",
    "fxprune.footprint": "TrainingCost training_cost",
    "fxprune.gates.consensus": "Consensus",
    "fxprune.gates.soft": "AutoBot HardConcrete",
    "fxprune.gates.static": "Static",
    "fxprune.pages.figures": "write_figures",
    "fxprune.pages.writing": "write_report",
    "fxprune.passes.operators": "register_operator",
    "fxprune.verdicts": "Verdict",
    "fxprune.verification": "verify",
    "fxprune.export": "export_onnx",
    "fxprune.storage": "load save",
    "fxprune.onnx_pruning": "OnnxResult fold_onnx inspect_onnx prune_onnx",
    "fxprune.onnx_verification": "verify_onnx",
    "fxprune.quantization": "Quantization quantize",
    "fxprune.refitting": "refit",
    "fxprune.reporting": "report",
    "fxprune.reports": "Report",
    "fxprune.shrinking": "shrink",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = [
    "AutoBot",
    "CheckpointError",
    "Consensus",
    "FeatureDistillation",
    "FxpruneError",
    "GroupInfo",
    "HardConcrete",
    "InputError",
    "InternalError",
    "KeepSetError",
    "MissingExtraError",
    "NothingToPruneError",
    "OnnxResult",
    "Quantization",
    "Report",
    "Static",
    "TargetError",
    "TraceError",
    "TrainingCost",
    "Verdict",
    "VerificationError",
    "distillation_loss",
    "export_onnx",
    "fold",
    "fold_onnx",
    "groups",
    "importance",
    "inspect_onnx",
    "keep_set",
    "load",
    "parameter_groups",
    "prepare",
    "prune",
    "prune_onnx",
    "quantize",
    "reach_target",
    "refit",
    "register_operator",
    "report",
    "save",
    "set_keep_set",
    "shrink",
    "training_cost",
    "verify",
    "verify_onnx",
    "write_figures",
    "write_report",
]


_EXTRAS = {
    "torch": ("torch", "safetensors"),
    "onnx": ("onnx", "onnx_ir", "onnxruntime"),
}
"""By extra the libraries that only it installs."""


def __getattr__(name: str) -> Any:
    """Load public names when they are first used, so that importing fxprune loads no framework."""
    if name not in _HOME:
        raise AttributeError(f"module 'fxprune' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        extra = next((extra for extra, own in _EXTRAS.items() if library in own), None)
        if extra is None:
            raise
        raise errors.MissingExtraError(
            f'fxprune.{name} needs {library}: pip install "fxprune[{extra}]"'
        ) from error


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
