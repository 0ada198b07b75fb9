"""Do the gated model, the folded model and the ONNX file compute the same function? Measured.

Comparisons run in float64, where re-association of sums costs about 1e-15, and in float32, the
precision that ships. A difference is reported with the first layer where it appears.
"""

import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.agreement import (
    Comparison,
    Run,
    Verdict,
    accepted_error,
    best_to_repeat,
    compared,
    handed_through,
    is_finite,
    silent_outputs,
    telling,
    worst_of,
)
from fxprune.arguments import batches as batches_in
from fxprune.arguments import seed as check_seed
from fxprune.arguments import sizes
from fxprune.errors import InputError, VerificationError
from fxprune.files import path_of
from fxprune.passes.axes import kept_flags
from fxprune.stages import track
from fxprune.torch.backend.module import TracedModule
from fxprune.torch.checks import check_weights
from fxprune.torch.frontend.examples import inputs_like, one_example, random_like
from fxprune.torch.precision import (
    arrays_of,
    draws,
    dtype_name,
    in_dtype,
    in_precision,
    named_outputs,
    outputs_of,
    relative_error,
    samples_in,
)
from fxprune.torch.record import Record, gated_record, is_gated, record_of, traced_part
from fxprune.torch.recorded import recorded
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
    providers: Any = None,
) -> Verdict:
    """Check that a gated model, its folded model and an ONNX file of it agree.

    Args:
        gated: what `prepare` returned.
        folded: what `fold` made of it.
        onnx: path of the exported folded model; ONNX Runtime runs it.
        inputs: further inputs of your own (tensors, tuples, mappings by argument), beside random
            ones.
        batch_sizes: batch sizes of the random inputs.
        seed: seeds the random inputs; the global generator is left alone.
        providers: what ONNX Runtime runs the file with, by its own names, such as
            `["CUDAExecutionProvider"]`; the CPU if missing.

    Raises:
        VerificationError: outputs differ, and the message names the first differing layer; or
            nothing is shown, because all of them stay as they are on all inputs tried.
        InputError: `gated` has no gates, or `folded` none to compare with.
    """
    _, record = gated_record(gated)
    check_module("folded", folded)
    if onnx is not None:
        path_of("onnx", onnx)
    elif providers is not None:
        raise InputError("providers run the file that onnx= names")
    inputs, batch_sizes = batches_in("inputs", inputs), sizes("batch_sizes", batch_sizes)
    check_seed(seed)
    (_, gated), (_, folded) = traced_part(gated), traced_part(folded)
    check_whole(gated, GATHER)
    for part in (gated, folded):
        check_weights(part)
    more = [_as_tuple(each, gated) for each in inputs]
    batches = [*inputs_like(record.examples, batch_sizes, seed), *more]
    verdict = _compared("gated == folded", gated, folded, batches, seed)
    if onnx is None:
        return verdict
    exported = importlib.import_module("fxprune.torch.exported")  # needs the extra onnx
    return verdict.joined(exported.compare_onnx(folded, onnx, batches, seed, providers))


def compare_modules(
    left: nn.Module, right: nn.Module, batches: Iterable[tuple[Any, ...]], seed: int = 0
) -> Verdict:
    """Compare two modules in evaluation, in float64 and in float32.

    Raises:
        VerificationError: outputs differ, or nothing is shown.
    """
    return _compared("first == second", left, right, list(batches), seed)


def _compared(
    what: str, left: nn.Module, right: nn.Module, batches: Sequence[tuple[Any, ...]], seed: int
) -> Verdict:
    """Every batch in every precision; more inputs where an output has not moved yet."""
    pairs = [
        _Pair(what, in_precision(left, dtype), in_precision(right, dtype), dtype)
        for dtype in PRECISIONS
    ]
    for pair in pairs:
        for batch in track(batches, f"comparing in {dtype_name(pair.dtype)}"):
            pair.compare(batch)
    outputs = list(dict.fromkeys(name for run in pairs[0].runs for name in run.returned))
    if batches and set(outputs) - _shown(pairs):
        several = best_to_repeat(list(map(samples_in, batches)))
        for batch in random_like(batches[several], seed + 100):
            for pair in pairs:
                with suppress(InputError):
                    pair.compare(batch, optional=True)
    silent = silent_outputs(outputs, _shown(pairs), handed_through(pairs[0].runs), what)
    return Verdict(tuple(item for pair in pairs for item in pair.comparisons), silent)


def _shown(pairs: Sequence["_Pair"]) -> set[str]:
    return set().union(*(telling(pair.runs, pair.accepted) for pair in pairs))


@dataclass(slots=True)
class _Pair:
    """Two modules in one precision, and what comparing them has found so far.

    `accepted` holds the largest tolerance that each output was given.
    """

    what: str
    left: nn.Module
    right: nn.Module
    dtype: torch.dtype
    comparisons: list[Comparison] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    accepted: dict[str, float] = field(default_factory=dict)

    def compare(self, batch: tuple[Any, ...], *, optional: bool = False) -> None:
        """Run both modules on a batch.

        Args:
            batch: the inputs.
            optional: leave them out if the first module is no measure on them: it overflows, or
                float32 carries it away from float64.

        Raises:
            VerificationError: an error is too large; the message names the layer.
            InputError: the first module does not run.
        """
        values = in_dtype(batch, self.dtype)
        expected, found = _expected(self.left, values), _run_or_none(self.right, values)
        items = self._items(values, expected, found)
        wrong = [item for item in items.values() if not item.agrees]
        if wrong and optional and not self._is_steady(batch, expected):
            return
        if wrong:
            raise VerificationError(self._explained(wrong[0], values, expected, found))
        for name, item in items.items():
            self.accepted[name] = max(item.tolerance, self.accepted.get(name, 0.0))
        self.comparisons.extend([worst] if (worst := worst_of(items)) else [])
        given = {str(index): arrays_of(value) for index, value in enumerate(values)}
        self.runs.append(Run(given, named_outputs(expected)))

    def _items(self, values: tuple[Any, ...], expected: Any, found: Any) -> dict[str, Comparison]:
        left, right = named_outputs(expected), named_outputs(found)
        precision = dtype_name(self.dtype)
        return compared(self.what, samples_in(values), left, right, computed_in=precision)

    def _is_steady(self, batch: tuple[Any, ...], expected: Any) -> bool:
        """Whether the outputs are finite, and about those of float64."""
        exact = in_precision(self.left, torch.float64)
        double = in_dtype(_expected(exact, in_dtype(batch, torch.float64)), torch.float64)
        error = relative_error(double, in_dtype(expected, torch.float64))
        return is_finite(arrays_of(expected)) and error < accepted_error("float32")

    def _explained(
        self, item: Comparison, values: tuple[Any, ...], expected: Any, found: Any
    ) -> str:
        """Why they differ: they do not even agree with themselves, or where it begins."""
        for place, module, values_before in (
            ("first", self.left, expected),
            ("second", self.right, found),
        ):
            again = _run_or_none(module, values)
            if not relative_error(values_before, again) <= item.tolerance:
                return (
                    f"{item}\nthe {place} model differs from run to run on the same inputs and "
                    "random numbers, so that it cannot be compared"
                )
        drawn = (
            "\nthe models draw random numbers, which differ where shapes do: switch that off"
            if draws(self.left, values)
            else ""
        )
        where = first_difference(self.left, self.right, values, item.tolerance)
        return f"{item}\n{where}{drawn}"


def first_difference(
    gated: nn.Module, folded: nn.Module, inputs: tuple[Any, ...], tolerance: float
) -> str:
    """Where two models begin to differ: values of one, cut to what is kept, against the other."""
    if not is_gated(gated):
        return "no layer can be named: the first model has no gates"
    record, gated, folded = record_of(gated), recorded(gated), recorded(folded)
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

    def __init__(self, module: fx.GraphModule, graph: fx.Graph | None) -> None:
        super().__init__(module, graph=graph)
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
    graph = module.graph_for(inputs) if isinstance(module, TracedModule) else None
    recorder = _Recorder(module, graph)
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


def _as_tuple(value: Any, model: nn.Module) -> tuple[Any, ...]:
    """Arguments in order; a mapping holds them by name."""
    if isinstance(value, Mapping):
        return one_example(model, value)
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(value)
    raise InputError(
        f"inputs must be mappings by name, tensors or tuples of them, got {type(value).__name__}"
    )
