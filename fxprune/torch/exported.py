"""Does an exported file compute what its module computes? ONNX Runtime runs it."""

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from fxprune.agreement import TOLERANCES, Comparison
from fxprune.errors import VerificationError
from fxprune.progress import steps
from fxprune.torch.frontend.nests import tensors_in
from fxprune.torch.precision import in_dtype, in_precision, outputs_of, relative_error, samples_in


def compare_onnx(
    module: nn.Module, path: str | Path, batches: Iterable[tuple[Any, ...]]
) -> list[Comparison]:
    """Compare a module in evaluation with what ONNX Runtime computes from a file.

    Where float32 is ill-conditioned, the tolerance is four times torch's own error against float64.

    Raises:
        VerificationError: outputs differ or the file does not run.
    """

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:
        raise VerificationError(f"ONNX Runtime does not load {path}: {error}") from error
    names = [item.name for item in session.get_inputs()]
    tolerance = TOLERANCES["float32"]
    model = copy.deepcopy(module).float().cpu().eval()
    comparisons = []
    for batch in steps(batches, "comparing with ONNX Runtime"):
        values = in_dtype(batch, torch.float32)
        arrays = [value.numpy() for value in values if isinstance(value, Tensor)]
        try:
            got = session.run(None, dict(zip(names, arrays, strict=True)))
        except Exception as error:
            raise VerificationError(
                f"ONNX Runtime fails on batch {samples_in(batch)} of {path}: {error}"
            ) from error
        expected = outputs_of(model, values)
        gap = relative_error(expected, [torch.from_numpy(array) for array in got])
        accepted = tolerance
        if not gap <= accepted:  # perhaps float32 itself is no better here
            accepted = max(tolerance, _ROUNDINGS * _rounding_error(module, batch, expected))
        item = Comparison("folded == onnxruntime", samples_in(batch), "float32", gap, accepted)
        if not gap <= accepted:
            raise VerificationError(str(item))
        comparisons.append(item)
    return comparisons


_ROUNDINGS = 4


def _rounding_error(module: nn.Module, batch: tuple[Any, ...], single: Any) -> float:
    """How far float32 is from float64 in torch itself; deep products of activations lose digits."""
    double = outputs_of(
        in_precision(copy.deepcopy(module).cpu(), torch.float64), in_dtype(batch, torch.float64)
    )
    error = relative_error(double, [x.double() for x in tensors_in(single)])
    return error if math.isfinite(error) else 0.0
