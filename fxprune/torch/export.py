"""A folded model as an ONNX file: dynamic batch, one file while it is small, checked, verified."""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from fxprune.arguments import whole
from fxprune.errors import FxpruneError, InputError
from fxprune.files import ONNX, check_output, draft_of
from fxprune.onnx.backend.saving import write_onnx
from fxprune.reports import metadata
from fxprune.torch.batches import running_on
from fxprune.torch.dynamic_axes import Axes, at_other_sizes, named_axes
from fxprune.torch.exported import compare_onnx
from fxprune.torch.frontend.examples import check_examples, inputs_to_compare, random_inputs
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.gates.module import Gates
from fxprune.torch.measuring import costs_of
from fxprune.torch.record import record_of
from fxprune.torch.recorded import recorded
from fxprune.torch.wrapping import check_module


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_inputs: Any = None,
    *,
    opset: int = 18,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model as ONNX; the file appears only once ONNX Runtime agrees with the model.

    The batch axis is dynamic, others where that is asked for. The file carries no paths of this
    machine; its `metadata_props` hold the version, the costs before and after, and the targets.

    Args:
        model: a folded module, or any plain one.
        path: the file to write; its folder must exist.
        example_inputs: as in `prepare`; a folded module knows its own.
        opset: the ONNX operator set version.
        dynamic: further axes of any size, by argument, number of the axis (from 1 on) and a name,
            which axes of one size share: `{"input_ids": {1: "sequence"}}`. The file is compared at
            other sizes than the example's as well.
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
    path = check_output("path", path, overwrite=overwrite, suffixes=ONNX)
    newest = onnx.defs.onnx_opset_version()
    whole("opset", opset, f"a version of ONNX's operators from 1 to {newest}", most=newest)
    record = record_of(model)
    examples = record.examples if record and example_inputs is None else None
    examples = examples or check_examples(model, example_inputs)
    axes = named_axes(dynamic, model, examples)
    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)  # with gradients torch's exporter trips over attention
    try:
        with in_evaluation(model), draft_of(path, overwrite=overwrite) as draft:
            _write(recorded(model), random_inputs(examples, (2,), seed=0)[0], draft, opset, axes)
            _compare(model, draft, examples)
            for other in at_other_sizes(examples, axes):
                with running_on("inputs of other sizes, as dynamic= asks for"), torch.no_grad():
                    model(*random_inputs(other, (1,), seed=1)[0])
                _compare(model, draft, other)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return path


def _compare(model: nn.Module, path: Path, examples: tuple[Any, ...]) -> None:
    """On random inputs, and on the examples where they hold data."""
    batches = inputs_to_compare(examples, (1, 3), seed=1)
    if not any(isinstance(each, Tensor) and each.is_meta for each in examples):
        batches.append(examples)
    compare_onnx(model, path, batches)


def _write(model: nn.Module, inputs: tuple[Any, ...], path: Path, opset: int, axes: Axes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = _quietly(model, inputs, opset, axes)
    except Exception as error:
        with running_on("example_inputs"), torch.no_grad():  # or is it they?
            model(*inputs)
        reason = _first_cause(error)
        raise FxpruneError(f"torch.onnx.export cannot express this model: {reason}") from error
    program.model.metadata_props.clear()
    program.model.metadata_props.update(_metadata(model))
    write_onnx(program.model, path)


def _quietly(model: nn.Module, inputs: tuple[Any, ...], opset: int, axes: Axes) -> Any:
    """torch's exporter without its progress messages."""
    shapes = {value.shape[0] for value in inputs if isinstance(value, Tensor) and value.dim()}
    batch: Mapping[int, Any] = {0: torch.export.Dim("batch")} if len(shapes) == 1 else {}
    dims = {name: torch.export.Dim(name) for own in axes for name in own.values()}
    dynamic = tuple(
        ({**batch, **{axis: dims[name] for axis, name in own.items()}} or None)
        if isinstance(value, Tensor) and value.dim()
        else None
        for value, own in zip(inputs, axes, strict=True)
    )
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
                dynamic_shapes=dynamic if any(dynamic) else None,
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
