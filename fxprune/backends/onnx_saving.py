"""How an ONNX file gets on disk: whole or not at all, checked, without traces of this machine."""

from pathlib import Path

import onnx
import onnx_ir
from onnx_ir.passes import common

from fxprune.drafts import draft_of
from fxprune.errors import InternalError

_ONE_FILE_BYTES = 1_500_000_000  # protobuf ends at 2 GiB


def save_onnx(model: onnx_ir.Model, path: str | Path) -> Path:
    """Write a model; below 1.5 GB as one file, else with its weights in `<name>.data` beside it.

    Doc strings and the metadata of nodes and values, where exporters leave paths and stack traces,
    are left out; the metadata of the model stays. The model is not changed.

    Args:
        model: what to write.
        path: the file to write; its folder must exist.

    Raises:
        InputError: the file cannot be written there.
        InternalError: the model does not pass ONNX's own checker.
    """
    with draft_of(path) as draft:
        write_onnx(model, draft)
    return Path(path)


def write_onnx(model: onnx_ir.Model, path: Path) -> None:
    """Write a model at once, without traces of this machine, and let ONNX check the file."""
    clean = _without_traces(model.clone())
    if _bytes_stored(clean) < _ONE_FILE_BYTES:
        _bring_into_memory(clean)
        onnx_ir.save(clean, path)
    else:
        onnx_ir.save(clean, path, external_data=f"{path.name}.data")
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise InternalError(f"ONNX's checker refuses what was written: {error}") from error


def _without_traces(model: onnx_ir.Model) -> onnx_ir.Model:
    common.ClearMetadataAndDocStringPass()(model)
    model.doc_string = None
    for graph in [*model.graphs(), *(function.graph for function in model.functions.values())]:
        graph.name = graph.name or "main"  # the checker wants a name
        graph.doc_string = None
        graph.metadata_props.clear()
        values = [*graph.inputs, *graph.initializers.values()]
        for value in [*values, *(value for node in graph for value in node.outputs)]:
            value.doc_string = None
            value.metadata_props.clear()
    return model


def _bytes_stored(model: onnx_ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def _bring_into_memory(model: onnx_ir.Model) -> None:
    """Data of other files becomes part of this one."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, onnx_ir.ExternalTensor):
                value.const_value = onnx_ir.Tensor(tensor.numpy(), tensor.dtype, name=value.name)
