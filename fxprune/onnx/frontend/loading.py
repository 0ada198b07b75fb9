"""An ONNX model from anywhere, made plain: a sorted graph, no functions, constants as initialisers.

Files come from strangers, so nothing in them is believed: what is declared is compared with what is
there before anything is allocated, opened or expanded.
"""

import contextlib
import graphlib
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir
from google.protobuf.message import DecodeError, EncodeError
from onnx_ir.passes import common

from fxprune.errors import CheckpointError, FxpruneError, InputError
from fxprune.files import check_source
from fxprune.onnx.frontend.tensors import check_tensor, tensors_of

Source = str | Path | bytes | onnx.ModelProto | onnx_ir.Model

_PROTOBUF_BYTES = 2**31 - 1  # protobuf reads no more in one message
_MOST_NODES = 1_000_000
_LARGEST_INPUT = 2**30  # elements; nobody runs more, and a file can declare any number
_IR_VERSIONS = (4, 10)
"""Before 4 initialisers have to be inputs; 10 is what exporters write and every runtime of today
reads, while onnx.helper stamps the newest number on anything."""


def load_onnx(source: Source, name: str = "source") -> onnx_ir.Model:
    """An ONNX model as a sorted graph without functions, whose constants are all initialisers.

    Nodes, outputs and constants that nobody reads are left out.

    Inputs with a stored value are constants: they are no inputs of the result. External data
    stays in its files and is read when it is used.

    >>> from onnx import parser
    >>> model = load_onnx(
    ...     parser.parse_model('''
    ... <ir_version: 8, opset_import: ["": 17]>
    ... tiny (float[2, 3] x) => (float[2, 3] y) {
    ...     one = Constant <value = float[1] {1.0}> ()
    ...     y = Add (x, one)
    ... }''')
    ... )
    >>> [node.op_type for node in model.graph], list(model.graph.initializers)
    (['Add'], ['one'])

    Args:
        source: A file's path, its bytes, or a model in memory, which stays as it is.
        name: What the argument is called.

    Raises:
        InputError: There is no such file, or the source is something else.
        CheckpointError: The file is damaged, contradicts itself, or asks for files outside its
            folder.
    """
    if isinstance(source, onnx_ir.Model):
        return _plain(source.clone(), "the model")
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        return _plain(_read(proto, "the model"), "the model")
    if isinstance(source, bytes):
        return _plain(_read(_parsed(source, "the model"), "the model"), "the model")
    if not isinstance(source, str | Path):
        raise InputError(
            f"{name}: an ONNX model is a path, bytes, an onnx.ModelProto or an onnx_ir.Model, got "
            f"{type(source).__name__}"
        )
    path = check_source(name, source)
    model = _read(_parsed(_contents(path), str(path)), str(path))
    return _plain(model, str(path), path.absolute().parent)


def _contents(path: Path) -> bytes:
    if path.stat().st_size > _PROTOBUF_BYTES:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes, and ONNX files hold at most "
            f"{_PROTOBUF_BYTES}: save it with external data (onnx.save_model, "
            "save_as_external_data=True)"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _parsed(data: bytes, what: str) -> onnx.ModelProto:
    if not data:
        raise CheckpointError(f"{what} is empty: export or download it again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, EncodeError) as error:
        raise CheckpointError(
            f"{what} is truncated or no ONNX file ({error}): export or download it again"
        ) from error
    return proto


def _read(proto: onnx.ModelProto, what: str) -> onnx_ir.Model:
    """From protobuf to onnx_ir, after the checks that only protobuf allows."""
    if not proto.HasField("graph"):
        raise CheckpointError(f"{what} has no graph: it is truncated or no ONNX model")
    if proto.ir_version > onnx.IR_VERSION:
        raise CheckpointError(
            f"{what} has ONNX IR version {proto.ir_version}, and onnx {onnx.__version__} knows "
            f"versions up to {onnx.IR_VERSION}: update onnx"
        )
    with _explained(what):
        _check_graphs(proto, what)
        return onnx_ir.from_proto(proto)


def _check_graphs(proto: onnx.ModelProto, what: str) -> None:
    """No graph, subgraph or function is out of order, and there are not too many nodes in all."""
    parts: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    number = 0
    while parts:
        part = parts.pop()
        number += len(part.node)
        if number > _MOST_NODES:
            raise CheckpointError(f"{what} has more than {_MOST_NODES} nodes: that is no network")
        if isinstance(part, onnx.GraphProto):
            _check_graph(part, what)
        for node in part.node:
            for attribute in node.attribute:
                parts.extend([attribute.g] if attribute.HasField("g") else attribute.graphs)


def _check_graph(graph: onnx.GraphProto, what: str) -> None:
    """Refuse what onnx_ir would drop without a word."""
    if graph.sparse_initializer:
        raise CheckpointError(
            f"{what} stores {graph.sparse_initializer[0].values.name!r} sparsely, which fxprune "
            "does not read: store it as a dense initialiser"
        )
    for kind, names in (
        ("initialiser", [tensor.name for tensor in graph.initializer]),
        ("input", [value.name for value in graph.input]),
    ):
        name, count = Counter(names).most_common(1)[0] if names else ("", 1)
        if count > 1:
            raise CheckpointError(f"{what} declares the {kind} {name!r} {count} times")


def _plain(model: onnx_ir.Model, what: str, folder: Path | None = None) -> onnx_ir.Model:
    """Check a model that is ours, and bring it into its plain form."""
    with _explained(what):
        _check_versions(model, what)
        _check_expansion(model, what)
        common.InlinePass()(model)
        model.functions.clear()
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        if folder is not None:
            onnx_ir.external_data.set_base_dir(model.graph, folder)
        for place, tensor in tensors_of(model.graph):
            check_tensor(tensor, place, what)
        _drop_inputs_with_values(model.graph)
        model.ir_version = min(max(model.ir_version, _IR_VERSIONS[0]), _IR_VERSIONS[1])
        _check_text(model.graph, what)
        _check_attributes(model.graph, what)
        _check_inputs(model.graph, what)
        _check_values(model.graph, what)
        try:
            model.graph.sort()
        except ValueError as error:
            raise CheckpointError(f"{what} has a cycle: a node needs its own result") from error
        common.RemoveUnusedNodesPass()(model)
    return model


def _check_versions(model: onnx_ir.Model, what: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    imports = model.opset_imports
    if "ai.onnx" in imports:  # the long name of the default domain
        imports.setdefault("", imports.pop("ai.onnx"))
    version = imports.get("")
    if version is None and any(not node.domain for node in model.graph.all_nodes()):
        raise CheckpointError(f"{what} does not say which version of ONNX's operators it uses")
    if version is not None and not 1 <= version <= newest:
        raise CheckpointError(
            f"{what} uses version {version} of ONNX's operators, and onnx {onnx.__version__} knows "
            f"versions 1 to {newest}: update onnx, or export with an older opset_version"
        )


def _check_expansion(model: onnx_ir.Model, what: str) -> None:
    """Functions do not call themselves, and are a graph of sensible size once written out."""
    calls = {
        name: [node.op_identifier() for node in function.all_nodes()]
        for name, function in model.functions.items()
    }
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        names = " -> ".join(name for _, name, _ in error.args[1])
        raise CheckpointError(f"{what} has functions that call themselves: {names}") from error
    size: dict[onnx_ir.OperatorIdentifier, int] = {}
    for name in order:
        size[name] = sum(size[call] for call in calls[name]) if name in calls else 1
    written_out = sum(size.get(node.op_identifier(), 1) for node in model.graph.all_nodes())
    if written_out > _MOST_NODES:
        raise CheckpointError(
            f"{what} has {written_out} nodes once its functions are written out, more than "
            f"{_MOST_NODES}: that is no network"
        )


def _drop_inputs_with_values(graph: onnx_ir.Graph) -> None:
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    graph.inputs.clear()
    graph.inputs.extend(inputs)


def _check_text(graph: onnx_ir.Graph, what: str) -> None:
    """Names and notes are text: protobuf hands out bytes where they are not."""
    values = [*graph.inputs, *graph.initializers.values()]
    names = [graph.name, *(value.name for value in values)]
    for node in graph.all_nodes():
        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        names += [node.domain, node.op_type, node.name, *node.attributes]
        names += [value.name for value in values]
        names += [text for note in node.metadata_props.items() for text in note]
    if wrong := [name for name in names if not isinstance(name, str | None)]:
        raise CheckpointError(f"{what} has the name {wrong[0]!r}, which is no text")


def _check_attributes(graph: onnx_ir.Graph, what: str) -> None:
    """Attributes say what they are: without a type they have no value that could be run."""
    for node in graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == onnx_ir.AttributeType.UNDEFINED:
                raise CheckpointError(
                    f"{what} does not say of what type {attribute.name!r} of {node.op_type} "
                    f"{node.name!r} is: export it again"
                )


def _check_inputs(graph: onnx_ir.Graph, what: str) -> None:
    """Inputs have a size that can be; some exporters write -1 for a size that is not known."""
    for value in graph.inputs:
        if value.shape is None:
            continue
        known = [size for size in value.shape if isinstance(size, int)]
        if any(size < 0 for size in known):
            value.shape = onnx_ir.Shape(
                [None if isinstance(size, int) and size < 0 else size for size in value.shape]
            )
        elements = 1
        for size in known:
            elements *= max(size, 1)
        if elements > _LARGEST_INPUT:
            raise CheckpointError(f"{what} declares {value.name!r} with {elements} elements")


def _check_values(graph: onnx_ir.Graph, what: str) -> None:
    """Every value that is used comes from somewhere, under a name of its own."""
    if not graph.outputs:
        raise CheckpointError(f"{what} has no outputs: there is nothing that pruning could keep")
    uses = [(node.op_type, value) for node in graph.all_nodes() for value in node.inputs]
    uses += [("the outputs", value) for value in graph.outputs]
    for place, value in uses:
        if value is None or value.producer() is not None:
            continue
        if not value.is_graph_input() and not value.is_initializer():
            raise CheckpointError(
                f"{what} uses {value.name!r} in {place}, and nothing in it makes that value"
            )
    own = {*graph.inputs, *graph.initializers.values()}
    names = Counter(value.name for value in own)
    names.update(value.name for node in graph for value in node.outputs if value.name)
    name, count = names.most_common(1)[0]
    if count > 1:
        raise CheckpointError(f"{what} has {count} values with the name {name!r}")


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Whatever the libraries below trip over is a fault of the file, and their log is silent."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except FxpruneError:
        raise
    except Exception as error:
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = inner
        reason = str(cause) or type(cause).__name__
        raise CheckpointError(f"{what} is no valid ONNX model: {reason[:500]}") from error
    finally:
        logger.setLevel(level)
