"""Do the gated model, the folded model and the ONNX file compute the same function? Measured.

Comparisons run in float64, where re-association of sums costs about 1e-15, and in float32, the
precision that ships. A difference is reported with the first layer where it appears.
"""

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.backends.torch_module import TracedModule
from fxprune.errors import InputError, VerificationError
from fxprune.passes.axes import kept_flags
from fxprune.record import GATHER, Record, check_whole, gated_record, record_of, traced_part
from fxprune.steps import steps
from fxprune.verdicts import Comparison, Verdict

_log = logging.getLogger("fxprune")

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest accepted error relative to the largest output, by precision."""


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
    (_, gated), (_, folded) = traced_part(gated), traced_part(folded)
    check_whole(gated, GATHER)
    batches = [*random_inputs(record.examples, batch_sizes, seed), *map(_as_tuple, inputs)]
    comparisons: list[Comparison] = []
    for dtype, tolerance in TOLERANCES.items():
        left, right = (in_precision(m, dtype) for m in (gated, folded))
        for batch in steps(batches, f"comparing in {_name(dtype)}"):
            values = _to(batch, dtype)
            error = relative_error(_expected(left, values), _run_or_none(right, values))
            item = Comparison("gated == folded", _batch(batch), _name(dtype), error, tolerance)
            if not error <= tolerance:
                raise VerificationError(
                    f"{item}\n{first_difference(left, right, values, tolerance)}"
                )
            comparisons.append(item)
    if onnx is not None:
        comparisons.extend(compare_onnx(folded, onnx, batches))
    return Verdict(tuple(comparisons))


def in_precision(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in evaluation that computes in `dtype` throughout.

    A traced module that casts to float32 by name would else be no more exact than that.
    """
    clone = copy.deepcopy(module).to(dtype).eval()
    if isinstance(clone, TracedModule) and dtype is torch.float64:
        clone.replace_literals(torch.float32, torch.float64)
    return clone


def compare_modules(
    left: nn.Module, right: nn.Module, batches: Iterable[tuple[Any, ...]]
) -> Iterator[Comparison]:
    """Compare two modules in evaluation, in float64 and in float32.

    Raises:
        VerificationError: outputs differ.
    """
    batches = list(batches)
    for dtype, tolerance in TOLERANCES.items():
        one, other = in_precision(left, dtype), in_precision(right, dtype)
        for batch in steps(batches, f"comparing in {_name(dtype)}"):
            values = _to(batch, dtype)
            error = relative_error(_expected(one, values), _run_or_none(other, values))
            item = Comparison("first == second", _batch(batch), _name(dtype), error, tolerance)
            if not error <= tolerance:
                raise VerificationError(str(item))
            yield item


def compare_onnx(
    module: nn.Module, path: str | Path, batches: Iterable[tuple[Any, ...]]
) -> list[Comparison]:
    """Compare a module in evaluation with what ONNX Runtime computes from a file.

    Where float32 is ill-conditioned, the tolerance is four times torch's own error against float64.

    Raises:
        VerificationError: outputs differ or the file does not run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:
        raise VerificationError(f"ONNX Runtime does not load {path}: {error}") from error
    names = [item.name for item in session.get_inputs()]
    tolerance = TOLERANCES[torch.float32]
    model = copy.deepcopy(module).float().cpu().eval()
    comparisons = []
    for batch in steps(batches, "comparing with ONNX Runtime"):
        values = _to(batch, torch.float32)
        arrays = [value.numpy() for value in values if isinstance(value, Tensor)]
        try:
            got = session.run(None, dict(zip(names, arrays, strict=True)))
        except Exception as error:
            raise VerificationError(
                f"ONNX Runtime fails on batch {_batch(batch)} of {path}: {error}"
            ) from error
        expected = _run(model, values)
        gap = relative_error(expected, [torch.from_numpy(array) for array in got])
        accepted = tolerance
        if not gap <= accepted:  # perhaps float32 itself is no better here
            accepted = max(tolerance, _ROUNDINGS * _rounding_error(module, batch, expected))
        item = Comparison("folded == onnxruntime", _batch(batch), "float32", gap, accepted)
        if not gap <= accepted:
            raise VerificationError(str(item))
        comparisons.append(item)
    return comparisons


_ROUNDINGS = 4


def _rounding_error(module: nn.Module, batch: tuple[Any, ...], single: Any) -> float:
    """How far float32 is from float64 in torch itself; deep products of activations lose digits."""
    double = _run(
        in_precision(copy.deepcopy(module).cpu(), torch.float64), _to(batch, torch.float64)
    )
    error = relative_error(double, [x.double() for x in tensors_in(single)])
    return error if math.isfinite(error) else 0.0


def random_inputs(
    examples: Sequence[Any], batch_sizes: Sequence[int], seed: int
) -> list[tuple[Any, ...]]:
    """Standard normal inputs like the examples (small integers for integer inputs)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {value.shape[0] for value in examples if isinstance(value, Tensor) and value.dim()}
    batches: list[tuple[Any, ...]] = []
    for size in batch_sizes if len(sizes) == 1 else (0,):
        batches.append(tuple(_random(value, size, generator) for value in examples))
    return batches


def _random(value: Any, batch: int, generator: torch.Generator) -> Any:
    if not isinstance(value, Tensor):
        return value
    shape = (batch or value.shape[0], *value.shape[1:]) if value.dim() else ()
    if value.is_floating_point():
        return torch.randn(shape, generator=generator, dtype=value.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(value.dtype)


def relative_error(expected: Any, got: Any) -> float:
    """The largest difference of all outputs, relative to the largest expected value of each.

    Infinite if shapes differ or a value is not a number on one side only.
    """
    left, right = tensors_in(expected), tensors_in(got)
    if [x.shape for x in left] != [x.shape for x in right]:
        return float("inf")
    return max((_error(a, b) for a, b in zip(left, right, strict=True)), default=0.0)


def _error(expected: Tensor, got: Tensor) -> float:
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, got.to(expected.dtype)) else float("inf")
    if not expected.numel():
        return 0.0
    difference = (expected - got).abs().max()
    if not bool(torch.isfinite(difference)):
        return float("inf")
    return float(difference / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny))


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of a nested structure, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


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


def _run(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        return module(*inputs)


def _expected(gated: nn.Module, inputs: tuple[Any, ...]) -> Any:
    try:
        return _run(gated, inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
        raise InputError(f"the first model fails on inputs of shape {shapes}: {error}") from error


def _run_or_none(folded: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """No output at all counts as a difference, whose place is searched for like any other."""
    try:
        return _run(folded, inputs)
    except Exception as error:
        _log.info("the second model fails: %s", error)
        return None


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(value)
    raise InputError(f"inputs must be tensors or tuples of them, got {type(value).__name__}")


def _to(batch: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(
        value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in batch
    )


def _batch(batch: tuple[Any, ...]) -> int:
    return next((int(v.shape[0]) for v in batch if isinstance(v, Tensor) and v.dim()), 1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
