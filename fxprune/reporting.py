"""What did pruning do to a model? Groups, pins with reasons, costs before and after, latency."""

import sys
from typing import Any

from fxprune.arguments import flag
from fxprune.errors import InputError
from fxprune.reports import Report


def report(
    subject: Any, *, latency: bool = True, device: Any = None, providers: Any = None
) -> Report:
    """Describe a gated or folded module, or a pruned ONNX model.

    Args:
        subject: what `prepare`, `fold`, `prune_onnx` or `fold_onnx` returned. For a gated module,
            "after" is its present keep-set; `fold` closes what the target does not allow.
        latency: whether to measure, which takes about two seconds; False gives exact figures only.
        device: where a module is measured, such as "cuda"; where its weights are, if missing.
        providers: what ONNX Runtime measures a pruned ONNX model with, by its own names, such as
            `["CUDAExecutionProvider"]`; the CPU if missing.

    Raises:
        InputError: the subject is none of these, or is not measured on such a thing.
    """
    flag("latency", latency)
    home = sys.modules.get("fxprune.onnx.prune")  # where it was never imported, nothing is one
    if home is not None and isinstance(subject, home.OnnxResult):
        from fxprune.onnx.measuring import report_result

        if device is not None:
            raise InputError("device is for modules: an ONNX model is measured by providers=")
        return report_result(subject, latency=latency, providers=providers)
    from fxprune.torch.measuring import report_module

    if providers is not None:
        raise InputError("providers are for ONNX models: a module is measured on device=")
    return report_module(subject, latency=latency, device=device)
