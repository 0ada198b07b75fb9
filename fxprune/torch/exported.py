"""Does an exported file compute what its module computes? ONNX Runtime runs it."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from fxprune.agreement import (
    Comparison,
    Run,
    Verdict,
    best_to_repeat,
    compared,
    error_of,
    handed_through,
    is_finite,
    silent_outputs,
    telling,
    worst_of,
)
from fxprune.errors import VerificationError
from fxprune.onnx.frontend.session import Providers, providers_in_use, run_by
from fxprune.stages import track
from fxprune.torch.frontend.examples import random_like
from fxprune.torch.frontend.nests import tensors_in
from fxprune.torch.precision import arrays_of, in_dtype, in_precision, outputs_of, samples_in

_WHAT = "folded == onnxruntime"


def compare_onnx(
    module: nn.Module,
    path: str | Path,
    batches: Iterable[tuple[Any, ...]],
    seed: int = 0,
    providers: Providers = None,
) -> Verdict:
    """Compare a module in evaluation with what ONNX Runtime computes from a file.

    Where float32 is ill-conditioned, more is accepted, by torch's own error against float64.

    Raises:
        VerificationError: outputs differ, the file does not run, or nothing is shown.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with run_by(providers):
        chosen = providers_in_use()
    try:
        session = onnxruntime.InferenceSession(str(path), options, chosen)
    except Exception as error:
        raise VerificationError(f"ONNX Runtime does not load {path}: {error}") from error
    pair = _Pair(copy.deepcopy(module).cpu().eval(), path, session)
    batches = list(batches)
    for batch in track(batches, "comparing with ONNX Runtime"):
        pair.compare(batch)
    outputs = [item.name for item in session.get_outputs()]
    if batches and set(outputs) - telling(pair.runs, pair.accepted):
        several = best_to_repeat(list(map(samples_in, batches)))
        for batch in random_like(batches[several], seed + 100):
            pair.compare_if_it_runs(batch)
    shown = telling(pair.runs, pair.accepted)
    silent = silent_outputs(outputs, shown, handed_through(pair.runs), _WHAT)
    return Verdict(tuple(pair.comparisons), silent)


@dataclass(slots=True)
class _Pair:
    """A module and its file, and what comparing them has found so far."""

    module: nn.Module
    path: str | Path
    session: Any
    comparisons: list[Comparison] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    accepted: dict[str, float] = field(default_factory=dict)

    def compare(self, batch: tuple[Any, ...]) -> None:
        """Run both on a batch.

        Raises:
            VerificationError: an error is too large, or the file does not run.
        """
        values = in_dtype(batch, torch.float32)
        expected = self._expected(values)
        items = self._judged(batch, values, expected)
        wrong = [item for item in items.values() if not item.agrees]
        if wrong:
            raise VerificationError(str(wrong[0]))
        self._note(values, expected, items)

    def compare_if_it_runs(self, batch: tuple[Any, ...]) -> None:
        """The same for inputs that the module may not take, or on which it is no measure."""
        values = in_dtype(batch, torch.float32)
        try:
            expected = self._expected(values)
        except Exception:
            return
        items = self._judged(batch, values, expected)
        if all(item.agrees for item in items.values()):
            self._note(values, expected, items)
        elif is_finite(list(expected.values())) and (
            max(self._rounding(batch, expected).values()) < _MOST_ROUNDING
        ):
            raise VerificationError(str(worst_of(items)))

    def _note(
        self, values: tuple[Any, ...], expected: dict[str, Any], items: dict[str, Comparison]
    ) -> None:
        for name, item in items.items():
            self.accepted[name] = max(item.tolerance, self.accepted.get(name, 0.0))
        self.comparisons.extend([worst] if (worst := worst_of(items)) else [])
        given = {str(index): arrays_of(value) for index, value in enumerate(values)}
        self.runs.append(Run(given, expected))

    def _judged(
        self, batch: tuple[Any, ...], values: tuple[Any, ...], expected: dict[str, Any]
    ) -> dict[str, Comparison]:
        found, samples = self._found(values), samples_in(values)
        items = compared(_WHAT, samples, expected, found, computed_in="float32")
        if all(item.agrees for item in items.values()):
            return items
        if not error_of(found, self._found(values)) <= _MOST_ROUNDING:
            raise VerificationError(
                f"{self.path} differs from run to run on the same inputs, so that it cannot be "
                "compared: it draws random numbers"
            )
        rounding = self._rounding(batch, expected)  # perhaps float32 itself is no better here
        return compared(_WHAT, samples, expected, found, rounding=rounding, computed_in="float32")

    def _expected(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """The tensors that the module returns, by the names that they have in the file."""
        tensors = tensors_in(outputs_of(in_precision(self.module, torch.float32), values))
        return self._named([arrays_of(tensor) for tensor in tensors])

    def _named(self, arrays: Sequence[Any]) -> dict[str, Any]:
        names = [item.name for item in self.session.get_outputs()]
        names += [f"output {index}" for index in range(len(names), len(arrays))]
        return dict(zip(names, arrays, strict=False))

    def _found(self, values: tuple[Any, ...]) -> dict[str, Any]:
        names = [item.name for item in self.session.get_inputs()]
        arrays = [value.numpy() for value in values if isinstance(value, Tensor)]
        try:
            return self._named(self.session.run(None, dict(zip(names, arrays, strict=True))))
        except Exception as error:
            raise VerificationError(
                f"ONNX Runtime fails on batch {samples_in(values)} of {self.path}: {error}"
            ) from error

    def _rounding(self, batch: tuple[Any, ...], single: dict[str, Any]) -> dict[str, float]:
        """How far float32 is from float64 in torch itself; deep products lose digits."""
        exact = in_precision(self.module, torch.float64)
        double = tensors_in(outputs_of(exact, in_dtype(batch, torch.float64)))
        named = self._named([arrays_of(in_dtype(tensor, torch.float64)) for tensor in double])
        return {name: error_of(named.get(name), _widened(value)) for name, value in single.items()}


_MOST_ROUNDING = 1e-3
"""A file or model that gets farther from itself is no measure."""


def _widened(value: Any) -> Any:
    return value.astype("float64") if value.dtype.kind == "f" else value
