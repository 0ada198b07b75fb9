"""A folded model as an ONNX file: dynamic batch, one file while it is small, checked, verified."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import Tensor, nn

from fxprune.arguments import whole
from fxprune.errors import FxpruneError, InputError, VerificationError
from fxprune.files import ONNX, check_output, draft_of
from fxprune.onnx.backend.saving import write_onnx
from fxprune.reports import metadata
from fxprune.torch.batches import running_on
from fxprune.torch.checks import check_weights
from fxprune.torch.dynamic_axes import (
    Axes,
    at_other_sizes,
    axes_that_vary,
    is_alike,
    named_axes,
)
from fxprune.torch.exported import compare_onnx
from fxprune.torch.frontend.examples import check_examples, inputs_to_compare, random_inputs
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.trace import Arguments
from fxprune.torch.gates.module import Gates
from fxprune.torch.measuring import costs_of
from fxprune.torch.record import record_of
from fxprune.torch.recorded import recorded
from fxprune.torch.wrapping import check_module

_OPSET = 18


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_inputs: Any = None,
    *,
    opset: int = _OPSET,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model as ONNX; the file appears only once ONNX Runtime agrees with the model.

    The batch axis is dynamic where the model takes batches of any size, and so is every axis that
    differs between several examples, or that is asked for. The file carries no paths of this
    machine; its `metadata_props` hold the version, the costs before and after, and the targets.

    Args:
        model: a folded module, or any plain one.
        path: the file to write; its folder must exist.
        example_inputs: as in `prepare`; a folded module knows its own.
        opset: the ONNX operator set version.
        dynamic: further axes of any size, by argument, number of the axis (from 1 on) and a name,
            which axes of one size share: `{"input_ids": {1: "sequence"}}`; `{}` for none. If
            missing, those that differ between the examples. The file is compared at other sizes
            than the first example's as well.
        overwrite: whether a file that is there already may be replaced.

    Raises:
        InputError: the model is still gated, the folder is missing, or the file is there already.
            Or `dynamic` names what the model has not, or it does not run at other sizes.
        VerificationError: ONNX Runtime computes something else.
        FxpruneError: torch's exporter cannot express the model.
    """
    check_module("model", model)
    if any(isinstance(part, Gates) for part in model.modules()):
        raise InputError("the model is gated: export fxprune.fold(gated)")
    check_weights(model)
    path = check_output("path", path, overwrite=overwrite, suffixes=ONNX)
    newest = onnx.defs.onnx_opset_version()
    whole("opset", opset, f"a version of ONNX's operators from 1 to {newest}", most=newest)
    record = record_of(model)
    examples = record.examples if record and example_inputs is None else None
    examples = examples or check_examples(model, example_inputs)
    example = examples[0]
    given = axes_that_vary(model, examples) if dynamic is None else None
    axes = named_axes(dynamic, model, example) if given is None else given
    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)  # with gradients torch's exporter trips over attention
    try:
        with in_evaluation(model), draft_of(path, overwrite=overwrite) as draft:
            batches = _batches(model, example)
            inputs = random_inputs(example, batches[-1:], seed=0)[0]
            open_batch = len(batches) > 1
            _write(recorded(model, first=True), inputs, draft, opset, axes, open_batch=open_batch)
            _compare(model, draft, example, batches)
            for other in _others(examples, axes, given is not None):
                with running_on("inputs of other sizes, as dynamic= asks for"), torch.no_grad():
                    model(*random_inputs(other, batches[:1], seed=1)[0])
                try:
                    _compare(model, draft, other, batches)
                except VerificationError as error:
                    if given is None:
                        raise
                    raise VerificationError(
                        f"{error}\nthe examples differ in sizes, so the file was to run at all of "
                        "them: dynamic={} writes one for the sizes of the first"
                    ) from error
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return path


def _batches(model: nn.Module, example: Arguments) -> tuple[int, ...]:
    """Batch sizes to compare: two, and that of the example alone if the model takes no other."""
    try:
        with torch.no_grad():
            for inputs in random_inputs(example, (1, 3), seed=0):
                model(*inputs)
        return 1, 3, 2
    except Exception:  # whatever its own code raises
        return (next((len(x) for x in example if isinstance(x, Tensor) and x.dim()), 1),)


def _others(examples: Sequence[Arguments], axes: Axes, vary: bool) -> Iterator[Arguments]:
    """The same inputs at other sizes: those of the other examples, or shorter ones."""
    if vary:
        yield from (each for each in examples[1:] if is_alike(each, examples[0]))
    else:
        yield from at_other_sizes(examples[0], axes)


def _compare(model: nn.Module, path: Path, example: Arguments, sizes: tuple[int, ...]) -> None:
    """On random inputs, and on the example where it holds data."""
    batches = inputs_to_compare(example, sizes[:2], seed=1)
    if not any(isinstance(each, Tensor) and each.is_meta for each in example):
        batches.append(example)
    compare_onnx(model, path, batches)


def _write(
    model: nn.Module,
    inputs: Arguments,
    path: Path,
    opset: int,
    axes: Axes,
    *,
    open_batch: bool,
) -> None:
    exported = _exported(model, inputs, opset, _shapes(inputs, axes, open_batch))
    exported.metadata_props.clear()
    exported.metadata_props.update(_metadata(model))
    write_onnx(exported, path)


def as_onnx(model: nn.Module, example: Arguments) -> onnx_ir.Model:
    """A model in evaluation as `export_onnx` writes it, neither checked nor compared.

    Args:
        model: any module; its parameters take no gradients any more.
        example: what it takes.

    Raises:
        FxpruneError: torch's exporter cannot express the model.
    """
    model.requires_grad_(False)
    with in_evaluation(model):
        batches = _batches(model, example)
        inputs = random_inputs(example, batches[-1:], seed=0)[0]
        none: Axes = tuple({} for _ in inputs)
        shapes = _shapes(inputs, none, len(batches) > 1)
        return _exported(recorded(model, first=True), inputs, _OPSET, shapes)


def _exported(model: nn.Module, inputs: Arguments, opset: int, shapes: Any) -> onnx_ir.Model:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: onnx_ir.Model = _quietly(model, inputs, opset, shapes).model
    except Exception as error:
        with running_on("example_inputs"), torch.no_grad():  # or is it they?
            model(*inputs)
        reason = _first_cause(error)
        raise FxpruneError(f"torch.onnx.export cannot express this model: {reason}") from error
    return found


def _shapes(inputs: Arguments, axes: Axes, open_batch: bool) -> Any:
    """The open axes of inputs, as torch's exporter takes them; None if there is none."""
    sizes = {value.shape[0] for value in inputs if isinstance(value, Tensor) and value.dim()}
    is_open = open_batch and len(sizes) == 1
    batch: Mapping[int, Any] = {0: torch.export.Dim("batch")} if is_open else {}
    dims = {name: torch.export.Dim(name) for own in axes for name in own.values()}
    dynamic = tuple(
        ({**batch, **{axis: dims[name] for axis, name in own.items()}} or None)
        if isinstance(value, Tensor) and value.dim()
        else None
        for value, own in zip(inputs, axes, strict=True)
    )
    return dynamic if any(dynamic) else None


def _quietly(model: nn.Module, inputs: Arguments, opset: int, shapes: Any) -> Any:
    """torch's exporter without its progress messages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):  # the exporter draws where it fails
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                dynamic_shapes=shapes,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program


def _first_cause(error: BaseException) -> str:
    """Why it failed; what the exporter wraps around that is advice to its authors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _metadata(model: nn.Module) -> Mapping[str, str]:
    record = record_of(model)
    if record is None:
        return metadata({}, {})
    targets = json.dumps(dict(record.targets or {}))
    before = record.costs_before or {}
    return metadata(costs_of(model), before, source=record.source, targets=targets)
