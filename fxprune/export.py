"""A folded model as an ONNX file: dynamic batch, one file while it is small, checked, verified."""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import FxpruneError, InputError
from fxprune.frontends.torch_examples import check_examples
from fxprune.gates.module import PREFIX
from fxprune.measuring import costs_of
from fxprune.record import record_of
from fxprune.verification import compare_onnx, random_inputs
from fxprune.version import __version__

_ONE_FILE_BYTES = 1_500_000_000


def export_onnx(
    model: nn.Module, path: str | Path, example_inputs: Any = None, *, opset: int = 18
) -> Path:
    """Write a model as ONNX; the file appears only once ONNX Runtime agrees with the model.

    The batch axis is dynamic. The file carries no paths of this machine; its `metadata_props`
    hold the version, the costs before and after, and the targets.

    Args:
        model: a folded module, or any plain one.
        path: the file to write; its folder must exist.
        example_inputs: as in `prepare`; a folded module knows its own.
        opset: the ONNX operator set version.

    Raises:
        InputError: the model is still gated, or the folder is missing.
        VerificationError: ONNX Runtime computes something else.
        FxpruneError: torch's exporter cannot express the model.
    """
    path = Path(path)
    if PREFIX in dict(model.named_children()):
        raise InputError("the model is gated: export fxprune.fold(gated)")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path.name}: there is no folder {path.parent}")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file in it")
    record = record_of(model)
    examples = record.examples if record and example_inputs is None else None
    examples = examples or check_examples(model, example_inputs)
    training = model.training
    trained = [p for p in model.parameters() if p.requires_grad]
    model.eval().requires_grad_(False)  # with gradients torch's exporter trips over attention
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fxprune-") as folder:
            draft = Path(folder) / path.name
            _write(model, random_inputs(examples, (2,), seed=0)[0], draft, opset)
            compare_onnx(model, draft, random_inputs(examples, (1, 3), seed=1))
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == draft):
                os.replace(file, path.parent / file.name)
    finally:
        model.train(training)
        for parameter in trained:
            parameter.requires_grad_(True)
    return path


def _write(model: nn.Module, inputs: tuple[Any, ...], path: Path, opset: int) -> None:
    import onnx_ir

    size = sum(p.numel() * p.element_size() for p in model.parameters())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = _quietly(model, inputs, opset)
    except Exception as error:
        raise FxpruneError(f"torch.onnx.export cannot express this model: {error}") from error
    clean = onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model).model
    clean.metadata_props.clear()
    clean.metadata_props.update(_metadata(model))
    if size < _ONE_FILE_BYTES:
        onnx_ir.save(clean, path)
    else:
        onnx_ir.save(clean, path, external_data=f"{path.name}.data")
    _check(path)


def _quietly(model: nn.Module, inputs: tuple[Any, ...], opset: int) -> Any:
    """torch's exporter without its progress messages."""
    shapes = {value.shape[0] for value in inputs if isinstance(value, Tensor) and value.dim()}
    dynamic = None
    if len(shapes) == 1:
        batch = torch.export.Dim("batch")
        dynamic = tuple(
            {0: batch} if isinstance(value, Tensor) and value.dim() else None for value in inputs
        )
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            model, inputs, dynamo=True, verbose=False, opset_version=opset, dynamic_shapes=dynamic
        )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program


def _check(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path))


def _metadata(model: nn.Module) -> Mapping[str, str]:
    record = record_of(model)
    facts: dict[str, Any] = {"fxprune_version": __version__}
    if record is None:
        return {name: str(value) for name, value in facts.items()}
    facts["source"] = record.source
    for name, value in costs_of(model).items():
        facts[name] = value
    for name, value in (record.costs_before or {}).items():
        facts[f"{name}_before"] = value
    facts["targets"] = json.dumps(dict(record.targets or {}))
    return {
        f"fxprune_{name}".replace("fxprune_fxprune", "fxprune"): str(value)
        for name, value in facts.items()
    }
