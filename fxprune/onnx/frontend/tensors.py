"""Does a stored tensor hold what it declares, and only from the folder of its model?"""

import math
from collections.abc import Iterator
from pathlib import Path

import onnx_ir

from fxprune.errors import CheckpointError

_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def tensors_of(graph: onnx_ir.Graph) -> Iterator[tuple[str, onnx_ir.TensorProtocol]]:
    """Every stored tensor of a graph and its subgraphs, with the name of its place."""
    for part in [graph, *graph.subgraphs()]:
        for value in part.initializers.values():
            if value.const_value is not None:
                yield f"the initialiser {value.name!r}", value.const_value
    for node in graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            place = f"the attribute {attribute.name!r} of {node.op_type} {node.name!r}"
            if attribute.type is onnx_ir.AttributeType.TENSOR:
                yield place, attribute.as_tensor()
            elif attribute.type is onnx_ir.AttributeType.TENSORS:
                yield from ((place, tensor) for tensor in attribute.as_tensors())


def data_files(model: onnx_ir.Model) -> list[Path]:
    """The files beside its own that a model keeps weights in."""
    stored = (tensor for _, tensor in tensors_of(model.graph))
    files = [
        Path(tensor.base_dir or ".") / str(tensor.location)
        for tensor in stored
        if isinstance(tensor, onnx_ir.ExternalTensor)
    ]
    return list(dict.fromkeys(files))


def check_tensor(tensor: onnx_ir.TensorProtocol, place: str, what: str) -> None:
    """Raise CheckpointError unless the data has the declared size; nothing is read or allocated.

    Args:
        tensor: A tensor of the model.
        place: Where it stands, for the message.
        what: The model, for the message.
    """
    declared = f"{what} declares {place} as {tensor.dtype.name}{list(tensor.shape)}"
    if any(not isinstance(size, int) or size < 0 for size in tensor.shape):
        raise CheckpointError(f"{declared}, which is no shape of a stored tensor")
    if isinstance(tensor, onnx_ir.StringTensor):
        _check_count(len(tensor.string_data()), tensor.size, "strings", declared)
    elif isinstance(tensor, onnx_ir.TensorProtoTensor):
        _check_stored(tensor, declared)
    elif isinstance(tensor, onnx_ir.ExternalTensor):
        _check_external(tensor, declared)


def _check_count(found: int, needed: int, unit: str, declared: str) -> None:
    if found != needed:
        raise CheckpointError(
            f"{declared}, which needs {needed} {unit}, but holds {found}: export or download the "
            "file again"
        )


def _check_stored(tensor: onnx_ir.TensorProtoTensor, declared: str) -> None:
    proto = tensor.raw
    if proto.HasField("raw_data"):
        _check_count(len(proto.raw_data), tensor.nbytes, "bytes", declared)
        return
    entries = sum(len(getattr(proto, field)) for field in _TYPED_FIELDS)
    _check_count(entries, _entries(tensor), "numbers", declared)
    if entries:
        tensor.numpy()  # refuses numbers in a field that does not belong to the type


def _entries(tensor: onnx_ir.TensorProtoTensor) -> int:
    """How many numbers the typed fields hold: small ones share one, complex ones take two."""
    bits = tensor.dtype.bitwidth
    if tensor.dtype in (onnx_ir.DataType.COMPLEX64, onnx_ir.DataType.COMPLEX128):
        return 2 * tensor.size
    return math.ceil(tensor.size * bits / 8) if bits in (2, 4) else tensor.size


def _check_external(tensor: onnx_ir.ExternalTensor, declared: str) -> None:
    location = str(tensor.location)
    folder = Path(tensor.base_dir or ".").resolve()
    file = folder / location
    stored = f"{declared}, stored in {location!r}"
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise CheckpointError(
            f"{stored}: a model may only name files in its own folder; do not trust this one"
        )
    if not file.resolve().is_relative_to(folder):
        raise CheckpointError(
            f"{stored}, a link that leaves the folder {folder}: copy the data beside the model"
        )
    if not file.is_file():
        raise CheckpointError(f"{stored}, but {folder} has no such file: copy it there")
    if file.stat().st_nlink > 1:
        raise CheckpointError(
            f"{stored}, a file with several names (hard links), which may be anything: copy it"
        )
    offset, length = tensor.offset or 0, tensor.length or tensor.nbytes
    _check_count(length, tensor.nbytes, "bytes", stored)
    size = file.stat().st_size
    if offset < 0 or offset + length > size:
        raise CheckpointError(
            f"{stored} at bytes {offset} to {offset + length}, but the file has {size}: it is "
            "truncated, or belongs to another model"
        )
