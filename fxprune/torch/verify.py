"""Do the gated model, the folded model and the ONNX file compute the same function? Measured.

Comparisons run in float64, where re-association of sums costs about 1e-15, and in float32, the
precision that ships. A difference is reported with the first layer where it appears.
"""

import importlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.agreement import TOLERANCES, Comparison, Verdict
from fxprune.arguments import batches as batches_in
from fxprune.arguments import seed as check_seed
from fxprune.arguments import sizes
from fxprune.errors import InputError, VerificationError
from fxprune.files import path_of
from fxprune.passes.axes import kept_flags
from fxprune.progress import steps
from fxprune.torch.frontend.examples import random_inputs
from fxprune.torch.precision import (
    dtype_name,
    in_dtype,
    in_precision,
    outputs_of,
    relative_error,
    samples_in,
)
from fxprune.torch.record import Record, gated_record, record_of, traced_part
from fxprune.torch.wrapping import GATHER, check_module, check_whole

_log = logging.getLogger("fxprune")

PRECISIONS = (torch.float64, torch.float32)
"""What is compared in: where re-association costs 1e-15, and what ships."""


def verify(
    gated: nn.Module,
    folded: nn.Module,
    onnx: str | Path | None = None,
    *,
    inputs: Iterable[Any] = (),
    batch_sizes: Sequence[int] = (1, 2, 5),
    seed: int = 0,
) -> Verdict:
    """Check that a gated model, its folded model and an ONNX file of it agree.

    Args:
        gated: what `prepare` returned.
        folded: what `fold` made of it.
        onnx: path of the exported folded model; ONNX Runtime runs it.
        inputs: further inputs of your own (tensors or tuples), beside random ones.
        batch_sizes: batch sizes of the random inputs.
        seed: seeds the random inputs; the global generator is left alone.

    Raises:
        VerificationError: outputs differ; the message names the first differing layer.
        InputError: `gated` has no gates, or `folded` none to compare with.
    """
    _, record = gated_record(gated)
    check_module("folded", folded)
    if onnx is not None:
        path_of("onnx", onnx)
    inputs, batch_sizes = batches_in("inputs", inputs), sizes("batch_sizes", batch_sizes)
    check_seed(seed)
    (_, gated), (_, folded) = traced_part(gated), traced_part(folded)
    check_whole(gated, GATHER)
    batches = [*random_inputs(record.examples, batch_sizes, seed), *map(_as_tuple, inputs)]
    comparisons: list[Comparison] = []
    for dtype in PRECISIONS:
        tolerance = TOLERANCES[dtype_name(dtype)]
        left, right = (in_precision(m, dtype) for m in (gated, folded))
        for batch in steps(batches, f"comparing in {dtype_name(dtype)}"):
            values = in_dtype(batch, dtype)
            error = relative_error(_expected(left, values), _run_or_none(right, values))
            item = Comparison(
                "gated == folded", samples_in(batch), dtype_name(dtype), error, tolerance
            )
            if not error <= tolerance:
                raise VerificationError(
                    f"{item}\n{first_difference(left, right, values, tolerance)}"
                )
            comparisons.append(item)
    if onnx is not None:
        exported = importlib.import_module("fxprune.torch.exported")  # needs the extra onnx
        comparisons.extend(exported.compare_onnx(folded, onnx, batches))
    return Verdict(tuple(comparisons))


def compare_modules(
    left: nn.Module, right: nn.Module, batches: Iterable[tuple[Any, ...]]
) -> Iterator[Comparison]:
    """Compare two modules in evaluation, in float64 and in float32.

    Raises:
        VerificationError: outputs differ.
    """
    batches = list(batches)
    for dtype in PRECISIONS:
        tolerance = TOLERANCES[dtype_name(dtype)]
        one, other = in_precision(left, dtype), in_precision(right, dtype)
        for batch in steps(batches, f"comparing in {dtype_name(dtype)}"):
            values = in_dtype(batch, dtype)
            error = relative_error(_expected(one, values), _run_or_none(other, values))
            item = Comparison(
                "first == second", samples_in(batch), dtype_name(dtype), error, tolerance
            )
            if not error <= tolerance:
                raise VerificationError(str(item))
            yield item


def first_difference(
    gated: nn.Module, folded: nn.Module, inputs: tuple[Any, ...], tolerance: float
) -> str:
    """Where two models begin to differ: values of one, cut to what is kept, against the other."""
    record = record_of(gated)
    if record is None or not isinstance(gated, fx.GraphModule):
        return "no layer can be named: the gated model has no record"
    if not isinstance(folded, fx.GraphModule):
        return "no layer can be named: the folded model is not one that fxprune made"
    kept = _kept(gated, record)
    left, right = _values(gated, inputs), _values(folded, inputs)
    for node in record.program.ir.nodes:
        for output in node.outputs:
            if output.name not in left or output.name not in right:
                continue
            expected, got = left[output.name], right[output.name]
            for dim, axis in enumerate(record.analysis.types.axes[output.name]):
                flags = torch.tensor(kept_flags(axis, kept))
                if len(flags) == expected.shape[dim] and not bool(flags.all()):
                    expected = expected[(slice(None),) * dim + (flags,)]
            error = relative_error(expected, got)
            if not error <= tolerance:
                return (
                    f"first difference at {node.place}: relative error {error:.1e}, shapes "
                    f"{tuple(expected.shape)} and {tuple(got.shape)}"
                )
    return "every layer agrees; the outputs are combined differently"


def _kept(gated: nn.Module, record: Record) -> dict[Any, tuple[bool, ...]]:
    gates, _ = gated_record(gated)
    keep = gates.keep_set()
    return {g.space: tuple(keep[g.name].tolist()) for g in record.analysis.free_groups}


class _Recorder(fx.Interpreter):
    """Runs a graph and remembers every tensor by node name."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result.detach().clone()
        elif isinstance(result, list | tuple):
            for index, item in enumerate(result):
                if isinstance(item, Tensor):
                    self.values[f"{n.name}.{index}"] = item.detach().clone()
        return result


def _values(module: fx.GraphModule, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    recorder = _Recorder(module)
    with torch.no_grad():
        try:
            recorder.run(*inputs)
        except Exception as error:
            del error  # what ran before the failure is what we want
    return recorder.values


def _expected(gated: nn.Module, inputs: tuple[Any, ...]) -> Any:
    try:
        return outputs_of(gated, inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
        raise InputError(f"the first model fails on inputs of shape {shapes}: {error}") from error


def _run_or_none(folded: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """No output at all counts as a difference, whose place is searched for like any other."""
    try:
        return outputs_of(folded, inputs)
    except Exception as error:
        _log.info("the second model fails: %s", error)
        return None


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(value)
    raise InputError(f"inputs must be tensors or tuples of them, got {type(value).__name__}")
