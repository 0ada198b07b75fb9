"""How an ONNX file gets on disk: whole or not at all, checked, without traces of this machine."""

from pathlib import Path
from typing import Any

import onnx
import onnx_ir
from onnx_ir.passes import common

from fxprune.arguments import flag
from fxprune.certificates import CERTIFICATE
from fxprune.errors import InternalError
from fxprune.files import ONNX, check_apart, check_output, companion_of, draft_of
from fxprune.onnx.frontend.names import SCOPES
from fxprune.onnx.frontend.session import weight_bytes
from fxprune.onnx.frontend.tensors import data_files

_ONE_FILE_BYTES = 1_500_000_000  # protobuf ends at 2 GiB


def place_of(output: Any, overwrite: bool, *sources: Any) -> Path | None:
    """Where to write, if anywhere, checked before there is anything to write.

    Raises:
        InputError: nothing can be written there.
    """
    flag("overwrite", overwrite)
    if output is None:
        return None
    return check_output("output", output, overwrite=overwrite, sources=sources, suffixes=ONNX)


def check_weights_apart(place: Path | None, model: onnx_ir.Model) -> None:
    """Raise InputError if files that a model keeps its weights in would be replaced."""
    if place is not None:
        check_apart(place, data_files(model))


def save_onnx(model: onnx_ir.Model, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a model; below 1.5 GB as one file, else with its weights in `<name>.data` beside it.

    Doc strings and the metadata of nodes and values, where exporters leave paths and stack traces,
    are left out, but for the modules that nodes come from; the metadata of the model stays. The
    model is not changed.

    Args:
        model: what to write.
        path: the file to write; its folder must exist.
        overwrite: whether a file that is there already may be replaced.

    Raises:
        InputError: the file cannot be written there.
        InternalError: the model does not pass ONNX's own checker.
    """
    with draft_of(path, overwrite=overwrite) as draft:
        write_onnx(model, draft)
    return Path(path)


def write_onnx(model: onnx_ir.Model, path: Path) -> None:
    """Write a model at once, without traces of this machine, and let ONNX check the file."""
    clean = _without_traces(model.clone())
    if weight_bytes(clean) < _ONE_FILE_BYTES:
        _write_in_pieces(clean, path)
    else:
        onnx_ir.save(clean, path, external_data=companion_of(path).name)
    ends = [*clean.graph.inputs, *clean.graph.outputs]
    try:
        if all(value.shape is not None for value in ends):
            onnx.checker.check_model(str(path))
        else:
            onnx.checker.check_model(_with_shapes(path))
    except onnx.checker.ValidationError as error:
        raise InternalError(f"ONNX's checker refuses what was written: {error}") from error


def _with_shapes(path: Path) -> onnx.ModelProto:
    """The model with some shape for every input and output: the checker wants one, nobody else."""
    proto = onnx.load(path)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return proto


def _without_traces(model: onnx_ir.Model) -> onnx_ir.Model:
    scopes = {node: node.metadata_props.get(SCOPES) for node in model.graph}
    common.ClearMetadataAndDocStringPass()(model)
    for node, modules in scopes.items():
        node.metadata_props.update({SCOPES: modules} if modules else {})
    model.metadata_props.pop(CERTIFICATE, None)  # it speaks of another file
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


def _write_in_pieces(model: onnx_ir.Model, path: Path) -> None:
    """Write one file, weight by weight: protobuf itself would hold everything twice over.

    A message is its fields one after the other, a tag (number and kind) before each, and the length
    before nested ones. So the graph is that without weights, followed by every weight.
    """
    weights = dict(model.graph.initializers)
    model.graph.initializers.clear()
    _bring_into_memory(model)
    bare = onnx_ir.to_proto(model)
    graph = bare.graph.SerializeToString()
    bare.ClearField("graph")
    length = len(graph) + sum(len(_head(_INITIALIZER, n)) + n for n in map(_size, weights.values()))
    with path.open("wb") as file:
        file.write(bare.SerializeToString() + _head(_GRAPH, length) + graph)
        for weight in weights.values():
            message = _message(weight)
            file.write(_head(_INITIALIZER, len(message)) + message)


_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_NESTED = 2  # the kind of fields that begin with their length


def _message(value: onnx_ir.Value) -> bytes:
    proto = onnx_ir.to_proto(_in_memory(value.const_value))
    proto.name = value.name
    message: bytes = proto.SerializeToString()
    return message


def _size(value: onnx_ir.Value) -> int:
    return len(_message(value))


def _in_memory(tensor: Any) -> Any:
    """Data of other files becomes part of this one."""
    if isinstance(tensor, onnx_ir.ExternalTensor):
        return onnx_ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name)
    return tensor


def _bring_into_memory(model: onnx_ir.Model) -> None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            value.const_value = _in_memory(value.const_value)


def _head(field: int, length: int) -> bytes:
    """The tag of a nested field and its length, seven bits to a byte, the lowest first."""
    head = b""
    for number in (field << 3 | _NESTED, length):
        while number > 0x7F:
            head += bytes([number & 0x7F | 0x80])
            number >>= 7
        head += bytes([number])
    return head
