"""What did pruning do to a model? Groups, pins with reasons, costs before and after, latency."""

import sys
from typing import Any

from fxprune.arguments import flag
from fxprune.reports import Report


def report(subject: Any, *, latency: bool = True) -> Report:
    """Describe a gated or folded module, or a pruned ONNX model.

    Args:
        subject: what `prepare`, `fold`, `prune_onnx` or `fold_onnx` returned. For a gated module,
            "after" is its present keep-set; `fold` closes what the target does not allow.
        latency: whether to measure, which takes about two seconds; False gives exact figures only.

    Raises:
        InputError: the subject is none of these.
    """
    flag("latency", latency)
    home = sys.modules.get("fxprune.onnx.prune")  # where it was never imported, nothing is one
    if home is not None and isinstance(subject, home.OnnxResult):
        from fxprune.onnx.measuring import report_result

        return report_result(subject, latency=latency)
    from fxprune.torch.measuring import report_module

    return report_module(subject, latency=latency)
